"""
Print what a bug report needs: versions, the machine, accelerators, and how strong the sandbox is here.

  trl-score env
  trl-score env --json
"""

import argparse
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

NEEDED = (
    "trl_score",
    "trl",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "huggingface_hub",
    "deepspeed",
    "tokenizers",
    "math-verify",
    "sympy",
    "numpy",
)
OPTIONAL = ("vllm", "bitsandbytes", "flash-attn", "kernels", "liger-kernel", "wandb", "trackio", "tensorboard")
# What changes how things run. No key and no token is among them.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "HF_HUB_OFFLINE",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_FSDP",
    "DS_ACCELERATOR",
    "TOKENIZERS_PARALLELISM",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Adds the options of the command.

    Args:
        parser (`argparse.ArgumentParser`):
            Its parser.
    """
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """
    Prints.

    Args:
        arguments (`argparse.Namespace`):
            The options.

    Returns:
        `int`: The exit code.
    """
    environment = describe_environment()
    if arguments.json:
        print(json.dumps(environment, indent=2))
        return 0
    for title, values in environment.items():
        print(f"{title}:")
        for name, value in values.items():
            print(f"  {name}: {value}")
    return 0


def describe_environment() -> dict[str, dict[str, Any]]:
    """
    Collects what is printed.

    Returns:
        `dict[str, dict]`: values by name, under a title each.
    """
    return {
        "machine": _machine(),
        "accelerators": _accelerators(),
        "packages": {name: _version(name) for name in NEEDED},
        "optional packages": {name: _version(name) for name in OPTIONAL},
        "sandbox": _sandbox(),
        "environment variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _machine() -> dict[str, Any]:
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processors": len(os.sched_getaffinity(0)),
        "memory": f"{pages * page_size / 2**30:.1f} GiB",
    }


def _accelerators() -> dict[str, Any]:
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return {"kind": "none"}
    kind = accelerator.type
    found: dict[str, Any] = {"kind": kind, "runtime": torch.version.cuda or torch.version.hip or "unknown"}
    for index in range(torch.accelerator.device_count()):
        properties = torch.get_device_module(kind).get_device_properties(index) if kind in ("cuda", "xpu") else None
        memory = "" if properties is None else f", {properties.total_memory / 2**30:.0f} GiB"
        found[f"{kind}:{index}"] = f"{kind if properties is None else properties.name}{memory}"
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _sandbox() -> dict[str, Any]:
    from trl_score.rewards.sandbox import Sandbox

    with Sandbox() as sandbox:
        fences = sandbox.fences
    return {
        "tier": fences.tier,
        "landlock": fences.landlock,
        "seccomp": fences.seccomp,
        "missing": "; ".join(fences.missing) or "nothing",
    }
