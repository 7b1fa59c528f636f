"""check_reward_func(): tries a reward function on a tiny batch before a training run depends on it."""

import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ODD_TEXTS: dict[str, str] = {
    "an empty text": "",
    "white space": " \n\t ",
    "a NUL byte": "a\x00b",
    "a lone surrogate": "\ud800",
    "ten thousand brackets": "(" * 10_000,
    "an unclosed box": "\\boxed{",
    "an unclosed code block": "```python\n",
    "200,000 characters": "word " * 40_000,
    "emoji and right-to-left text": "\U0001f600 \u05e9\u05dc\u05d5\u05dd",
}
"""What a model may write, and a reward function must survive."""

_SLOW_SECONDS = 1.0


@dataclass(frozen=True)
class RewardReport:
    """
    What [`check_reward_func`] found.

    Args:
        name (`str`):
            The function's name, as trainers log it.
        rewards (`list[float | None]`):
            What it gave the examples.
        problems (`list[str]`):
            What will fail or mislead in training.
        notes (`list[str]`):
            What is only worth knowing: unused columns, time.
        seconds_per_sample (`float`):
            Wall-clock time of the second call over the number of examples.
    """

    name: str
    rewards: list[float | None]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds_per_sample: float = 0.0

    @property
    def is_ok(self) -> bool:
        """`bool`: Whether there are no problems."""
        return not self.problems

    def __str__(self) -> str:
        lines = [f"{self.name}: {'ok' if self.is_ok else f'{len(self.problems)} problems'}, rewards {self.rewards}"]
        return "\n".join(
            [*lines, *(f"problem: {text}" for text in self.problems), *(f"note: {text}" for text in self.notes)]
        )


class _WatchedList(list[Any]):
    """A column that knows whether it was read."""

    was_read = False

    def __iter__(self) -> Iterator[Any]:
        self.was_read = True
        return super().__iter__()

    def __getitem__(self, index: Any) -> Any:
        self.was_read = True
        return super().__getitem__(index)


def check_reward_func(func: Callable[..., Any], examples: Sequence[Mapping[str, Any]]) -> RewardReport:
    """
    Tries a reward function on examples and on odd texts, and reports what is wrong with it.

    Args:
        func (`Callable`):
            The reward function.
        examples (`Sequence[Mapping]`):
            A few rows: `completion` (text or chat messages), the dataset's columns, and optionally `prompt` and
            `completion_ids`. All rows have the same keys.

    Returns:
        [`RewardReport`]: the rewards, the problems and the notes. A function that raises is a problem of the report.

    Raises:
        `ValueError`: If there are no examples, or they have no `completion`, or not the same keys.

    Example:

    ```python
    >>> def first_only(completions, **columns):
    ...     return [1.0]
    >>> examples = [{"completion": "4", "solution": "4"}, {"completion": "5", "solution": "4"}]
    >>> report = check_reward_func(first_only, examples)
    >>> report.problems[0]
    'returned 1 rewards for 2 completions; it must return one per completion, None for one that cannot be scored'

    ```
    """
    arguments = _arguments(examples)
    name = _name_of(func)
    report = RewardReport(name, [])
    watched = {key: _WatchedList(values) for key, values in arguments.items()}
    first = _try(func, watched, "the examples", report.problems)
    if first is None:
        return report
    started_at = time.perf_counter()
    second = _try(func, arguments, "the examples, the second time", report.problems)
    seconds = (time.perf_counter() - started_at) / len(examples)
    if second is not None and second != first:
        report.problems.append(f"is not deterministic: {first}, then {second} for the same completions")
    _check_pickling(func, report.problems)
    _check_odd_texts(func, examples[0], report)
    unused = sorted(key for key, column in watched.items() if not column.was_read and key not in _TRL_ARGUMENTS)
    if unused:
        report.notes.append(f"does not use the columns {unused}; a misspelt argument looks like this")
    if len(set(first)) == 1 and len(first) > 1:
        report.notes.append(f"gave every example {first[0]}; add examples that are right and wrong")
    report.notes.append(f"takes {seconds * 1000:.2f} ms a sample")
    return RewardReport(name, first, report.problems, report.notes, seconds)


_TRL_ARGUMENTS = ("prompts", "completions", "completion_ids")
_PLURALS = {"prompt": "prompts", "completion": "completions"}


def _name_of(func: Callable[..., Any]) -> str:
    return (
        str(vars(func).get("__name__") or type(func).__name__)
        if not isinstance(func, type(_name_of))
        else func.__name__
    )


def _arguments(examples: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    if not examples:
        raise ValueError("Expected at least one example, got none. Give two: one right, one wrong.")
    keys = set(examples[0])
    for row, example in enumerate(examples):
        if "completion" not in example:
            raise ValueError(f"Expected every example to have a 'completion', got {sorted(example)} in example {row}.")
        if set(example) != keys:
            raise ValueError(
                f"Expected all examples to have the keys {sorted(keys)}, got {sorted(example)} in example {row}."
            )
    arguments = {_PLURALS.get(key, key): [example[key] for example in examples] for key in sorted(keys)}
    arguments.setdefault("prompts", [""] * len(examples))
    arguments.setdefault("completion_ids", [[0]] * len(examples))
    return arguments


def _try(
    func: Callable[..., Any], arguments: Mapping[str, Any], where: str, problems: list[str]
) -> list[float | None] | None:
    try:
        rewards = func(**arguments)
    except Exception as error:  # noqa: BLE001 -- whatever a user's function raises is what is reported here
        problems.append(f"raised {type(error).__name__} on {where}: {error}")
        return None
    found = _wrong_result(rewards, len(arguments["completions"]))
    if found:
        problems.append(found)
        return None
    return list(rewards)


def _wrong_result(rewards: Any, num_expected: int) -> str:
    if isinstance(rewards, (str, bytes)) or not isinstance(rewards, Sequence):
        return f"returned {type(rewards).__name__}; it must return a list of numbers or None"
    if len(rewards) != num_expected:
        return (
            f"returned {len(rewards)} rewards for {num_expected} completions; it must return one per completion, None "
            "for one that cannot be scored"
        )
    for row, reward in enumerate(rewards):
        if reward is not None and (not isinstance(reward, (int, float)) or not math.isfinite(reward)):
            return (
                f"returned {reward!r} of type {type(reward).__name__} for row {row}; it must be a finite number or None"
            )
    return ""


def _check_pickling(func: Callable[..., Any], problems: list[str]) -> None:
    try:
        pickle.loads(pickle.dumps(func))
    except Exception as error:  # noqa: BLE001 -- pickling calls the user's code, which may raise anything
        problems.append(
            f"cannot be pickled ({error}); make it a function of a module, or a class with plain attributes"
        )


def _check_odd_texts(func: Callable[..., Any], example: Mapping[str, Any], report: RewardReport) -> None:
    for description, text in ODD_TEXTS.items():
        completion = text if isinstance(example["completion"], str) else [{"role": "assistant", "content": text}]
        arguments = _arguments([{**example, "completion": completion}])
        started_at = time.perf_counter()
        _try(func, arguments, description, report.problems)
        seconds = time.perf_counter() - started_at
        if seconds > _SLOW_SECONDS:
            report.notes.append(f"took {seconds:.1f} s on {description}")
