"""
Several tasks in one run: one dataset, in which each row carries its task, its prompt and its length budget.

Comes after loading. The reward of a mixture is [`~trl_score.data.tasks.task_reward`]. Whether a rollout batch holds
one task or all of them is a matter of the rows' order: TRL's sampler deals prompts out in the order that they have, if
`shuffle_dataset=False` is set.
"""

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trl_score.data.sources import TaskDataError
from trl_score.records import BUDGET_COLUMNS, CORRECTION_COLUMN

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskInMixture:
    """
    A task's part of a mixture.

    Args:
        dataset ([`~datasets.Dataset`]):
            Its rows.
        num_rows (`int`, *optional*):
            How many rows of it an epoch has, drawn at random; all, if not given. More than there are repeats them.
        max_completion_length (`int` or `tuple[int, int]`, *optional*):
            Most tokens of each turn, or of turn 1 and of turn 2.
        correction_prompt (`str`, *optional*):
            What to ask between its turns.

    Raises:
        `ValueError`: If a number is below 1.
    """

    dataset: "Dataset"
    num_rows: int | None = None
    max_completion_length: int | tuple[int, int] | None = None
    correction_prompt: str | None = None

    def __post_init__(self) -> None:
        for value in (self.num_rows, *(self.budgets or ())):
            if value is not None and value < 1:
                raise ValueError(f"Expected row and token counts of at least 1, got {value}.")

    @property
    def budgets(self) -> tuple[int, int] | None:
        """`tuple[int, int]`, *optional*: The most tokens of turn 1 and of turn 2."""
        budgets = self.max_completion_length
        return (budgets, budgets) if isinstance(budgets, int) else budgets


def mix_tasks(
    tasks: "Mapping[str, Dataset | TaskInMixture]",
    *,
    batches: Literal["mixed", "separate"] = "mixed",
    prompts_per_batch: int | None = None,
    num_epochs: int = 1,
    seed: int = 0,
) -> "Dataset":
    """
    Puts tasks together, in the order in which they are to be trained on.

    Train with `shuffle_dataset=False`, and with `num_train_epochs=1` if `num_epochs` is more than 1, since all epochs
    are in the rows then, each shuffled anew.

    Args:
        tasks (`Mapping[str, Dataset or TaskInMixture]`):
            Name -> rows. The name goes into the column `task`, and is what the reward is chosen by.
        batches (`str`, *optional*, defaults to `"mixed"`):
            `"mixed"`: rows of all tasks in any order. `"separate"`: each rollout batch holds one task; what a task has
            beyond whole batches is left out of that epoch.
        prompts_per_batch (`int`, *optional*):
            Prompts of a rollout batch over all processes, `generation_batch_size // num_generations` of the
            configuration. Needed for `"separate"`.
        num_epochs (`int`, *optional*, defaults to `1`):
            How often every row comes.
        seed (`int`, *optional*, defaults to `0`):
            Of the order; the same numbers give the same rows on every process.

    Returns:
        [`~datasets.Dataset`]: the rows, with the columns of all tasks (`None` where a task has no such column), and
            where a task sets them `max_completion_length_t1`, `max_completion_length_t2` and `correction_prompt`.

    Raises:
        [`TaskDataError`]: If there is no task, one has no rows or no `prompt`, two have a column of unlike types, or
            one has fewer rows than a batch.
        `ValueError`: If an option is out of range.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> sums, names = Dataset.from_dict({"prompt": list("abcd")}), Dataset.from_dict({"prompt": list("xyz")})
    >>> mixture = mix_tasks({"sums": sums, "names": names}, batches="separate", prompts_per_batch=2)
    >>> mixture["task"][:]
    ['sums', 'sums', 'names', 'names', 'sums', 'sums']

    ```
    """
    _check_options(batches, prompts_per_batch, num_epochs)
    if not tasks:
        raise TaskDataError("A mixture needs at least one task, got none.")
    parts = {name: task if isinstance(task, TaskInMixture) else TaskInMixture(task) for name, task in tasks.items()}
    rows = _concatenate({name: _with_own_columns(name, part, parts) for name, part in parts.items()})
    first, rows_of = 0, dict[str, range]()
    for name, part in parts.items():
        rows_of[name] = range(first, first + len(part.dataset))
        first += len(part.dataset)
    order: list[int] = []
    for epoch in range(num_epochs):
        rng = random.Random(f"{seed}-{epoch}")
        drawn = {name: _draw(rows_of[name], parts[name].num_rows, rng) for name in parts}
        order += _separate(drawn, prompts_per_batch or 1, rng) if batches == "separate" else _mixed(drawn, rng)
    return rows.select(order)


def _check_options(batches: str, prompts_per_batch: int | None, num_epochs: int) -> None:
    if batches not in ("mixed", "separate"):
        raise ValueError(f"Expected `batches` to be 'mixed' or 'separate', got {batches!r}.")
    if num_epochs < 1:
        raise ValueError(f"Expected `num_epochs` to be at least 1, got {num_epochs}.")
    if batches == "separate" and (prompts_per_batch is None or prompts_per_batch < 1):
        raise ValueError(
            f"Separate batches need `prompts_per_batch` of at least 1, got {prompts_per_batch}. It is "
            "`args.generation_batch_size // args.num_generations`."
        )


def _with_own_columns(name: str, part: TaskInMixture, parts: Mapping[str, TaskInMixture]) -> "Dataset":
    """The task's rows with its name, and its budgets and request where some task of the mixture sets such."""
    from datasets import Value

    dataset = part.dataset
    if len(dataset) == 0 or "prompt" not in dataset.column_names:
        raise TaskDataError(
            f"The task {name!r} needs rows with a `prompt`, got {len(dataset)} rows with the columns "
            f"{sorted(dataset.column_names)}."
        )
    added: dict[str, tuple[Any, str]] = {"task": (name, "string")}
    if any(other.budgets for other in parts.values()):
        for column, budget in zip(BUDGET_COLUMNS, part.budgets or (None, None), strict=True):
            added[column] = (budget, "int64")
    if any(other.correction_prompt for other in parts.values()):
        added[CORRECTION_COLUMN] = (part.correction_prompt, "string")
    dataset = dataset.remove_columns([column for column in added if column in dataset.column_names])
    for column, (value, dtype) in added.items():
        dataset = dataset.add_column(column, [value] * len(dataset), feature=Value(dtype))
    return dataset


def _concatenate(datasets_of: "Mapping[str, Dataset]") -> "Dataset":
    from datasets import concatenate_datasets

    seen: dict[str, tuple[str, Any]] = {}
    for name, dataset in datasets_of.items():
        for column, feature in dataset.features.items():
            other, other_feature = seen.setdefault(column, (name, feature))
            if feature != other_feature:
                raise TaskDataError(
                    f"The column {column!r} must have one type in the whole mixture, got {other_feature} in {other!r} "
                    f"and {feature} in {name!r}. Load both with `load_task`, or convert one with `cast_column`."
                )
    return concatenate_datasets(list(datasets_of.values()))


def _draw(rows: range, num_rows: int | None, rng: random.Random) -> list[int]:
    """So many rows at random; each comes once before any comes twice."""
    drawn: list[int] = []
    wanted = len(rows) if num_rows is None else num_rows
    while len(drawn) < wanted:
        drawn += rng.sample(rows, min(len(rows), wanted - len(drawn)))
    return drawn


def _mixed(drawn: Mapping[str, list[int]], rng: random.Random) -> list[int]:
    order = [row for rows in drawn.values() for row in rows]
    rng.shuffle(order)
    return order


def _separate(drawn: Mapping[str, list[int]], size: int, rng: random.Random) -> list[int]:
    batches: list[list[int]] = []
    for name, rows in drawn.items():
        whole = len(rows) // size * size
        if whole == 0:
            raise TaskDataError(
                f"The task {name!r} has {len(rows)} rows and a rollout batch {size} prompts, so no batch could hold it "
                "alone. Lower `prompts_per_batch`, or set its `num_rows`."
            )
        if whole < len(rows):
            logger.info("%d of %d rows of the task %r are beyond whole batches.", len(rows) - whole, len(rows), name)
        batches += [rows[start : start + size] for start in range(0, whole, size)]
    rng.shuffle(batches)
    return [row for batch in batches for row in batch]
