"""
What an evaluation is of: problems by the name of a task or from a file, what scores them, and what suits them.

Torch-free.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from trl_score.data.columns import TURN_1_COLUMN
from trl_score.data.mixtures import TaskInMixture, mix_tasks
from trl_score.data.sources import TaskDataError, is_local_file, list_rows, read_source
from trl_score.data.tasks import TaskSpec, load_task, task_reward, task_spec
from trl_score.records import ChecksDataset, RewardFunc

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_TO_MEASURE_ON = ("test", "eval", "validation")


@dataclass(frozen=True)
class Problems:
    """
    Problems to evaluate on.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        reward_func (`Callable`):
            What scores them.
        about (`dict`):
            What they are and how many were left out, as JSON can hold it.
        correction_prompt (`str`, *optional*):
            The task's wording of what to ask between turns.
        max_completion_length (`int`, *optional*):
            Tokens that are enough for a turn of the task.
        offline_turn_1_column (`str`, *optional*):
            Where the task has first turns that are given.
    """

    dataset: "Dataset"
    reward_func: RewardFunc
    about: dict[str, Any]
    correction_prompt: str | None = None
    max_completion_length: int | None = None
    offline_turn_1_column: str | None = None


def load_problems(
    tasks: Sequence[str] = (),
    *,
    path: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    reward_func: RewardFunc | None = None,
    num_problems: int | None = None,
) -> Problems:
    """
    Loads problems by the names of their tasks, or rows with a `prompt` of one's own.

    Args:
        tasks (`Sequence[str]`, *optional*):
            Names of tasks, see docs/tasks.md. Several are put together, each row scored by its own task's reward. With
            none, `path` has rows with a `prompt`, as the reward function needs them.
        path (`str`, *optional*):
            A local copy, data of one's own, or another name on the Hub.
        split (`str`, *optional*):
            The split; by default the task's for measuring.
        columns (`Mapping[str, str]`, *optional*):
            The name that the task has for a column -> the source's.
        options (`Mapping[str, Any]`, *optional*):
            Further options of the task's loader.
        reward_func (`Callable`, *optional*):
            In place of the task's reward.
        num_problems (`int`, *optional*):
            The first so many problems, of each task.

    Returns:
        [`Problems`]: the rows, and what goes with them. Maths problems whose gold answer cannot be read are left out,
        counted and listed in a warning.

    Raises:
        [`~trl_score.data.sources.TaskDataError`]: If there is no such task, or its data cannot be used.
        `ValueError`: If options do not go together, or the reward function finds rows that it cannot score by.

    Example:

    ```python
    >>> problems = load_problems(["adder"], num_problems=8)
    >>> problems.dataset.num_rows, problems.about["tasks"], problems.correction_prompt
    (8, {'adder': 'eval'}, 'check it')

    ```
    """
    if num_problems is not None and num_problems < 1:
        raise ValueError(f"Expected at least one problem, got `num_problems` {num_problems}.")
    given = {name: value for name, value in {"path": path, "columns": columns, **(options or {})}.items() if value}
    if not tasks:
        return _own_rows(given, split, reward_func, num_problems)
    specs = {spec.name: spec for spec in map(task_spec, tasks)}
    if len(specs) > 1 and given:
        raise ValueError(
            f"Several tasks are loaded as they are, got {', '.join(specs)} with {', '.join(given)}. Give one task, or "
            "take the options out."
        )
    splits = {name: split or _split_to_measure_on(spec, path) for name, spec in specs.items()}
    parts = {name: _load_part(spec, splits[name], given, num_problems) for name, spec in specs.items()}
    num_loaded = sum(map(len, parts.values()))
    if reward_func is None:
        parts = {name: _readable(part) if specs[name].kind == "maths" else part for name, part in parts.items()}
        reward_func = task_reward(parts)
    dataset = _put_together(parts, specs)
    first = next(iter(specs.values()))
    return Problems(
        dataset,
        _checked(reward_func, dataset),
        {"tasks": splits, **given, "num_left_out": num_loaded - len(dataset)},
        first.correction_prompt,
        max(spec.max_completion_length for spec in specs.values()),
        TURN_1_COLUMN if list(specs) == ["mbpp-r"] else None,
    )


def _split_to_measure_on(spec: TaskSpec, path: str | None) -> str | None:
    """The split for measuring, where the task has one; a single file is the split."""
    return None if is_local_file(path) else next((name for name in _TO_MEASURE_ON if name in spec.splits), None)


def _load_part(spec: TaskSpec, split: str | None, given: Mapping[str, Any], num_problems: int | None) -> "Dataset":
    if unknown := sorted(set(given) - set(spec.options)):
        raise ValueError(
            f"The task {spec.name!r} has no option {', '.join(unknown)}; it has {', '.join(spec.options)}."
        )
    # What is made on the spot is made in the number that is wanted.
    made = {"num_rows": num_problems} if num_problems is not None and "num_rows" in spec.options else {}
    return _first(load_task(spec.name, split=split, **{**made, **given}), num_problems)


def _first(dataset: "Dataset", num_problems: int | None) -> "Dataset":
    return dataset if num_problems is None else dataset.select(range(min(num_problems, len(dataset))))


def _readable(dataset: "Dataset") -> "Dataset":
    """The problems whose gold answer the grader can read."""
    from trl_score.rewards.math_rewards import MathReward

    solutions = dataset["solution"][:]
    reward = MathReward(on_error="none")
    try:
        verdicts = reward(completions=[""] * len(solutions), solution=solutions)
    finally:
        reward.close()
    unreadable = {row: repr(solutions[row]) for row, verdict in enumerate(verdicts) if verdict is None}
    if not unreadable:
        return dataset
    told = f"have a gold answer that cannot be read: {list_rows(unreadable)}."
    if len(unreadable) == len(solutions):
        raise TaskDataError(f"All {len(solutions)} problems {told} Correct them, or check which column holds them.")
    logger.warning("%d of %d problems %s They are left out.", len(unreadable), len(solutions), told)
    return dataset.select([row for row in range(len(solutions)) if row not in unreadable])


def _put_together(parts: "Mapping[str, Dataset]", specs: Mapping[str, TaskSpec]) -> "Dataset":
    """One task as it is; of several, rows that carry their own request and budget."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    return mix_tasks(
        {
            name: TaskInMixture(
                part,
                max_completion_length=specs[name].max_completion_length,
                correction_prompt=specs[name].correction_prompt,
            )
            for name, part in parts.items()
        }
    )


def _own_rows(
    given: Mapping[str, Any], split: str | None, reward_func: RewardFunc | None, num_problems: int | None
) -> Problems:
    if "path" not in given or reward_func is None or set(given) - {"path", "columns"}:
        raise ValueError(
            f"Expected the name of a task, or a path with a reward function and no further options, got "
            f"{dict(given)} and the reward function {reward_func}."
        )
    from datasets import Dataset

    source = read_source(given["path"], split=split)
    names = {theirs: ours for ours, theirs in given.get("columns", {}).items()}
    if missing := sorted(set(names) - set(source.columns)):
        raise TaskDataError(f"{source.where} has no column {' and no '.join(missing)}, it has {source.columns}.")
    rows = [{names.get(name, name): row.get(name) for name in source.columns} for row in source.rows]
    dataset = _first(Dataset.from_list(rows), num_problems)
    if "prompt" not in dataset.column_names:
        raise TaskDataError(
            f"{source.where} has no column 'prompt', it has {source.columns}. Say which holds it, e.g. prompt="
            f"{source.columns[0]}, or name a task such as 'own-maths'."
        )
    about = {"tasks": {}, "split": split, **given, "num_left_out": 0}
    return Problems(dataset, _checked(reward_func, dataset), about)


def _checked(reward_func: Any, dataset: "Dataset") -> RewardFunc:
    if isinstance(reward_func, ChecksDataset):
        reward_func.check_dataset(dataset)
    return cast("RewardFunc", reward_func)
