"""
`training_config.json`: what was trained on what, and how. The trainers write it beside every model that they save, so
that the folder alone tells all that the model card says, and a push needs no trainer.

It holds arguments that shape what is learned, chosen by name: no folder, host, token or tracker.
"""

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trl_score.publishing.files import is_local

RECORD_FILE = "training_config.json"

RECORD_KEYS: dict[str, str] = {
    "trainer": "class of the trainer",
    "method": "`SCoRe` or `CLoud`",
    "stage": "the stage, as configured",
    "base_model": "name of the model that training began from, or of that one's base; null if it has none on the Hub",
    "base_commit": "the base model's commit, where it is known",
    "dataset": "name of the dataset; null if it is not known",
    "num_rows": "rows of the training set; null for a stream",
    "reward_funcs": "SCoRe: names of the reward functions",
    "reward_weights": "SCoRe: their weights",
    "step": "optimizer steps done",
    "max_steps": "optimizer steps planned",
    "num_processes": "processes that trained together",
    "arguments": "the arguments that shape what is learned",
    "earlier": "what had been trained on before: some of these keys, or an adapter's `repo_id`; latest first",
    "merged_from": "after `trl-score merge`: kind of the adapter",
    "deviations": "deviations from the paper, as numbered in the trainer's docstring",
    "paper": "title, id and citation",
    "tags": "tags of the model card",
    "links": "links to experiment trackers, in Markdown",
    "repo_id": "where it is pushed to",
    "versions": "versions of the libraries",
}
"""The keys of `training_config.json`, and what stands there."""

_SHARED_ARGUMENTS = (
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "data_seed", "bf16", "fp16"),
    *("disable_dropout", "max_length", "center_rewards_coefficient", "chat_template_kwargs"),
    *("num_generations", "num_iterations", "steps_per_generation", "generation_batch_size", "max_completion_length"),
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "epsilon", "epsilon_high", "delta"),
    *("importance_sampling_level", "mask_truncated_completions", "use_vllm", "vllm_mode"),
)
_LIBRARIES = ("trl_score", "trl", "transformers", "peft", "torch", "datasets", "tokenizers")
_OF_EARLIER = ("method", "stage", "dataset", "num_rows", "reward_funcs", "step")


def published_arguments(args: Any) -> dict[str, Any]:
    """
    Choose the arguments that shape what is learned: those of our own, and TRL's by name.

    Args:
        args ([`SCoReConfig`] or [`CLoudRewardConfig`]):
            The configuration.

    Returns:
        `dict[str, Any]`: Their values, as JSON can hold them, in the order of the configuration's fields.
    """
    own = {name for kind in type(args).__mro__ if kind.__module__.startswith("trl_score.") for name in vars(kind)}
    named = {field.name for field in fields(args)}
    chosen = (own | set(_SHARED_ARGUMENTS)) & named
    values = {field.name: vars(args)[field.name] for field in fields(args) if field.name in chosen}
    return {name: _as_json(value) for name, value in values.items()}


def numbered_deviations(trainer: type) -> list[str]:
    """
    Read the deviations from the paper off a trainer's docstring, where they are numbered.

    Args:
        trainer (`type`):
            The trainer's class, or one derived from it.

    Returns:
        `list[str]`: A sentence or more each, in Markdown; empty if no docstring lists any.

    Example:
        >>> class Trainer:
        ...     '''
        ...     Trains.
        ...
        ...     Deviations from the paper:
        ...
        ...     1. Smaller groups,
        ...        and fewer.
        ...     2. No warm-up.
        ...
        ...     Args:
        ...         model: What to train.
        ...     '''
        >>> numbered_deviations(Trainer)
        ['Smaller groups, and fewer.', 'No warm-up.']
    """
    for kind in trainer.__mro__:
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
        _, heading, rest = text.partition("Deviations from the paper")
        if heading:
            items = re.findall(r"^\d+\. (.*(?:\n(?:[ \t]+\S.*))*)", rest.partition("\nArgs:")[0], re.MULTILINE)
            return [" ".join(item.split()) for item in items]
    return []


def dataset_name(cache_files: Iterable[str]) -> str | None:
    """
    Read the name on the Hub off the files in which a downloaded dataset is kept.

    Args:
        cache_files (`Iterable[str]`):
            The dataset's files, also after `map` and `select`.

    Returns:
        `str`, *optional*: The name; `None` for a dataset of files or in memory.

    Example:
        >>> dataset_name(["/cache/openai___gsm8k/main/0.0.0/1a2b/gsm8k-train.arrow"])
        'openai/gsm8k'
    """
    parts = [part for file in cache_files for part in Path(file).parts]
    return next((part.replace("___", "/", 1) for part in parts if "___" in part), None)


def describe_start(model: str | None, adapter: str | None = None) -> dict[str, Any]:
    """
    Describe what training began from: the base model's name on the Hub, and what had been trained on before.

    Args:
        model (`str`, *optional*):
            Where the model was loaded from.
        adapter (`str`, *optional*):
            Where the adapter was loaded from that is trained further.

    Returns:
        `dict[str, Any]`: `base_model`, `None` if that lies on this machine only, and `earlier`.

    Raises:
        ValueError: If a folder's record is cut off.

    Example:
        >>> describe_start("Qwen/Qwen2.5-0.5B", "ann/corrector")
        {'base_model': 'Qwen/Qwen2.5-0.5B', 'earlier': [{'repo_id': 'ann/corrector'}]}
    """
    before, base_model = [], model or None
    if model and is_local(model):
        before = _steps_of(model)
        base_model = before[0]["base_model"] if before else None
    if adapter is not None:
        before = [*(_steps_of(adapter) if is_local(adapter) else [{"repo_id": adapter}]), *before]
    return {"base_model": base_model, "earlier": [_without_base(step) for step in before]}


def _steps_of(folder: str) -> list[dict[str, Any]]:
    record = read_record(Path(folder))
    if not record:
        return []
    latest = {
        key: record[key] for key in ("base_model", *_OF_EARLIER) if key == "base_model" or record[key] is not None
    }
    return [latest, *record["earlier"]]


def _without_base(step: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in step.items() if key != "base_model"}


def library_versions() -> dict[str, str]:
    """
    Look up the versions of the libraries that training rests on.

    Returns:
        `dict[str, str]`: The version of each.
    """
    return {library: version(library) for library in _LIBRARIES}


def read_record(folder: Path) -> dict[str, Any]:
    """
    Read the record of a run's folder.

    Args:
        folder (`Path`):
            The folder.

    Returns:
        `dict[str, Any]`: The record; empty if none lies there.

    Raises:
        ValueError: If the file is cut off, or holds something else.
    """
    file = folder / RECORD_FILE
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"Expected JSON in {str(file)!r}, got a file that breaks off or holds something else: {error}."
        ) from error
    if not isinstance(record, dict) or not set(RECORD_KEYS) >= set(record):
        raise ValueError(f"Expected the keys of docs/publishing.md in {str(file)!r}, got {record!r}.")
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """
    Write the record of a run beside its model.

    Args:
        folder (`Path`):
            The folder.
        record (`Mapping[str, Any]`):
            Values for some of `RECORD_KEYS`.
    """
    text = json.dumps({key: record.get(key) for key in RECORD_KEYS}, indent=2, ensure_ascii=False)
    (folder / RECORD_FILE).write_text(text + "\n", encoding="utf-8")


def _as_json(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str) and is_local(value):
        return Path(value).name
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return value
