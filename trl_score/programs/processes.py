"""On how many processes a run will be, and what is split over them: as the launcher is told, or as it has started."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_score.programs.launcher import accelerate_config_file, is_launched
from trl_score.score.costs import Engine

_ZERO: dict[int, Engine] = {0: "ddp", 1: "zero1", 2: "zero2", 3: "zero3"}


@dataclass(frozen=True)
class Processes:
    """
    The processes of a run.

    Args:
        number (`int`):
            How many, on all machines.
        engine (`str`):
            `"ddp"`, or what splits weights, gradients or optimizer over them.
    """

    number: int
    engine: Engine

    @classmethod
    def of(cls, given: Mapping[str, Any], deepspeed: str | dict[str, Any] | None = None) -> "Processes":
        """
        Reads the launcher's options and its file, or the environment of a process that is launched.

        Args:
            given (`Mapping[str, Any]`):
                The launcher's options by name.
            deepspeed (`str` or `dict`, *optional*):
                A configuration of DeepSpeed's that the trainer is given, or its file.

        Returns:
            [`Processes`]: the processes.

        Raises:
            ValueError: If a file that is named does not exist.
        """
        if is_launched(os.environ):
            stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0")
            engine = _ZERO[int(stage)] if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" else "ddp"
            if os.environ.get("ACCELERATE_USE_FSDP") == "true":
                engine = "fsdp2"
            return cls(int(os.environ.get("WORLD_SIZE", "1")), _stage_of(deepspeed) or engine)
        settings = {**_settings_of_file(given), **given}
        return cls(_number_of(settings), _stage_of(deepspeed) or _engine_of(settings))


def _settings_of_file(given: Mapping[str, Any]) -> dict[str, Any]:
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    name = given.get("accelerate_config")
    file = accelerate_config_file(str(name)) if name else Path(default_config_file)
    if not file.is_file():
        return {}
    config = load_config_from_file(str(file))
    kind = str(config.distributed_type.value)
    kinds = {"use_deepspeed": kind == "DEEPSPEED", "use_fsdp": kind == "FSDP"}
    return {"num_processes": config.num_processes, **kinds, **(config.deepspeed_config or {})}


def _number_of(settings: Mapping[str, Any]) -> int:
    import torch

    return int(settings.get("num_processes") or max(1, torch.accelerator.device_count()))


def _engine_of(settings: Mapping[str, Any]) -> Engine:
    if settings.get("use_deepspeed"):
        own = _stage_of(settings.get("deepspeed_config_file"))
        return own or _ZERO[int(settings.get("zero_stage") or 2)]  # accelerate's default
    return "fsdp2" if settings.get("use_fsdp") else "ddp"


def _stage_of(config: str | dict[str, Any] | None) -> Engine | None:
    if not config:
        return None
    settings = config if isinstance(config, dict) else json.loads(Path(config).read_text())
    return _ZERO[int(settings.get("zero_optimization", {}).get("stage", 0))]
