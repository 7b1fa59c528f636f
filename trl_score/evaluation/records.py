"""
What an evaluation keeps of a problem: every turn, its answer, its reward, and what changed from turn to turn.

A record is what [`~trl_score.plots.TurnRecord`] reads from a line of `records.jsonl`, and a little more. Torch-free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from trl_score.evaluation.turns import AnsweredTurn, Rows
from trl_score.metrics.changed_words import changed_words
from trl_score.metrics.edit_distance import edit_distance_ratio
from trl_score.plots.records import TurnRecord
from trl_score.records import Prompt
from trl_score.score.answers import extract_answer

_DERIVED = ("outcome", "changes")


@dataclass(frozen=True)
class EvaluationRecord(TurnRecord):
    """
    One sample of one problem, with every turn.

    Beside its own fields it has those of [`~trl_score.plots.TurnRecord`]: `prompt`, `turns`, `rewards`, `answers`,
    `problem`, `task` and `is_turn_1_offline`.

    Args:
        truncated (`tuple[bool, ...]`):
            Whether the length budget ended the turn.
        level (`int`, *optional*):
            The problem's difficulty, where the dataset has it.
        sample (`int`, *optional*, defaults to `0`):
            Which sample of the problem.
        failure (`str`, *optional*):
            Why an endpoint gave no reply. That turn, and all after it, are empty, without an answer and unscored.
    """

    truncated: tuple[bool, ...] = ()
    level: int | None = None
    sample: int = 0
    failure: str | None = None

    def changes(self) -> list[dict[str, Any]]:
        """
        Says what each turn after the first changed, against the turn before it.

        Returns:
            `list[dict]`: for each of them `answer` (whether the final answer is another), `edit_distance_ratio`, and
            the words `removed` and `added`, one string for words that stand together.
        """
        pairs = zip(pairwise(self.turns), pairwise(self.answers), strict=True)
        return [
            {
                "answer": answers[0] != answers[1],
                "edit_distance_ratio": round(edit_distance_ratio(*texts), 4),
                **_changed_words(*texts),
            }
            for texts, answers in pairs
        ]

    def as_dict(self) -> dict[str, Any]:
        """
        Gives the record as JSON can hold it.

        Returns:
            `dict`: the fields, the outcome, and what changed from turn to turn.
        """
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "outcome": self.outcome, "changes": self.changes()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "EvaluationRecord":
        """
        Reads what `as_dict` gave.

        Args:
            saved (`Mapping`):
                The fields, lists where they were tuples.

        Returns:
            [`EvaluationRecord`]: the record.

        Example:

        ```python
        >>> record = EvaluationRecord("2+2?", ("5", "4"), (0.0, 1.0), ("5", "4"), "2+2?", truncated=(False, False))
        >>> EvaluationRecord.from_dict(record.as_dict()) == record
        True

        ```
        """
        own = {name: value for name, value in dict(saved).items() if name not in _DERIVED}
        return cls(**{**own, **{name: tuple(own[name]) for name in ("turns", "rewards", "answers", "truncated")}})


def make_records(
    rows: Rows,
    turns: Sequence[AnsweredTurn],
    rewards_of_turns: Sequence[Sequence[float | None]],
    *,
    is_turn_1_offline: Sequence[bool],
    sample: int,
) -> list[EvaluationRecord]:
    """
    Makes the records of some rows.

    Args:
        rows (`dict[str, list]`):
            The rows.
        turns (`Sequence[AnsweredTurn]`):
            The turns, each of all rows.
        rewards_of_turns (`Sequence[Sequence[float | None]]`):
            For each turn the reward of each row.
        is_turn_1_offline (`Sequence[bool]`):
            Whether each row's first turn was given.
        sample (`int`):
            Which sample of the rows, from 0.

    Returns:
        `list[EvaluationRecord]`: one per row, in order.
    """
    num_rows = len(rows["prompt"])
    tasks, levels = (rows.get(name) or [None] * num_rows for name in ("task", "level"))
    problems = problem_names(rows)
    return [
        EvaluationRecord(
            prompt,
            tuple(turn.texts[row] for turn in turns),
            tuple(rewards[row] for rewards in rewards_of_turns),
            # Where there was no reply there is no answer that could vote.
            tuple(None if row in turn.failures else extract_answer(turn.texts[row]) for turn in turns),
            problem=problems[row],
            task=tasks[row],
            is_turn_1_offline=is_turn_1_offline[row],
            truncated=tuple(turn.truncated[row] for turn in turns),
            level=levels[row],
            sample=sample,
            failure=next((turn.failures[row] for turn in turns if row in turn.failures), None),
        )
        for row, prompt in enumerate(rows["prompt"])
    ]


def problem_names(rows: Rows) -> list[str]:
    """
    Says what the samples of a problem have in common, also between models and files: its id, or what it asks.

    Args:
        rows (`dict[str, list]`):
            The rows.

    Returns:
        `list[str]`: a name for each row.

    Example:

    ```python
    >>> problem_names({"prompt": ["2+2?", "1+1?"], "task": ["sums", "sums"], "problem_id": ["7", None]})
    ['sums/7', '1+1?']

    ```
    """
    unknown = [None] * len(rows["prompt"])
    columns = zip(rows["prompt"], rows.get("problem_id") or unknown, rows.get("task") or unknown, strict=True)
    return [_problem_name(*row) for row in columns]


def _problem_name(prompt: Prompt, problem_id: Any, task: str | None) -> str:
    if problem_id is None:
        return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
    return str(problem_id) if task is None else f"{task}/{problem_id}"


def _changed_words(before: str, after: str) -> dict[str, list[str]]:
    removed, added = (
        [segment.text.strip() for segment in segments if segment.is_changed]
        for segments in changed_words(before, after)
    )
    return {"removed": removed, "added": added}
