"""
What a model wrote and what it got for it, read from files: the `records.jsonl` of an evaluation, and the tables of
rollouts that a training run writes with `log_completions=True`.

Each line of `records.jsonl` is one answered problem as JSON: `prompt`, `turns` (their texts) and `rewards` (a number or
`null` for each turn). `answers`, `problem`, `task` and `is_turn_1_offline` are read where they are there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_score.metrics.edit_distance import EditDistanceKind, edit_distance_ratios
from trl_score.plots.log_history import is_number
from trl_score.records import RIGHT_ABOVE, Prompt
from trl_score.score.answers import extract_answer


@dataclass(frozen=True)
class TurnRecord:
    """
    One problem with every turn, as it was read from a file.

    Args:
        prompt (`str` or `list[dict]`):
            What was asked.
        turns (`tuple[str, ...]`):
            What the model wrote in turn 1, turn 2, and so on.
        rewards (`tuple[float | None, ...]`):
            The reward of each turn; `None` where it could not be scored.
        answers (`tuple[str | None, ...]`):
            The final answer of each turn.
        problem (`str`):
            What the samples of one problem have in common: its id, or its prompt.
        task (`str`, *optional*):
            The task it comes from.
        is_turn_1_offline (`bool`, *optional*, defaults to `False`):
            Whether turn 1 was given, and not written by the model.
    """

    prompt: Prompt
    turns: tuple[str, ...]
    rewards: tuple[float | None, ...]
    answers: tuple[str | None, ...]
    problem: str
    task: str | None = None
    is_turn_1_offline: bool = False

    @property
    def correct(self) -> tuple[float | None, ...]:
        """`tuple`: 1 or 0 for each turn, `None` where it could not be scored."""
        return tuple(None if reward is None else float(reward > RIGHT_ABOVE) for reward in self.rewards)

    @property
    def outcome(self) -> str:
        """`str`: `"fixed"`, `"broken"`, `"right"`, `"wrong"`, or `"unscorable"`: turn 1 against the last turn."""
        names = {(0.0, 1.0): "fixed", (1.0, 0.0): "broken", (1.0, 1.0): "right", (0.0, 0.0): "wrong"}
        first, last = self.correct[0], self.correct[-1]
        return "unscorable" if first is None or last is None else names[first, last]

    @property
    def is_changed(self) -> bool:
        """`bool`: Whether the last turn's final answer is another than turn 1's."""
        return self.answers[0] != self.answers[-1]

    @property
    def question(self) -> str:
        """`str`: The prompt as a person reads it: its last message."""
        return self.prompt if isinstance(self.prompt, str) else str(self.prompt[-1].get("content") or "")


def read_records(path: str | Path) -> list[TurnRecord]:
    """
    Read the records of an evaluation.

    Args:
        path (`str` or `Path`):
            A `records.jsonl`, or a folder that holds one.

    Returns:
        `list[TurnRecord]`: One per line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, a line is cut off, or lacks what a record has.
    """
    file = Path(path) / "records.jsonl" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"Expected a `records.jsonl` or a folder that holds one, got {str(path)!r}.")
    with file.open(encoding="utf-8") as lines:
        records = [_parse_line(line, f"line {number} of {str(file)!r}") for number, line in enumerate(lines, start=1)]
    if not records:
        raise ValueError(f"Expected at least one record in {str(file)!r}, got an empty file.")
    if len({len(record.turns) for record in records}) > 1:
        raise ValueError(
            f"Expected equally many turns in each record of {str(file)!r}, got "
            f"{sorted({len(record.turns) for record in records})}. Keep evaluations of unlike turns in files of their "
            "own."
        )
    return records


def read_rollout_table(path: str | Path) -> list[TurnRecord]:
    """
    Read a table of rollouts that training or its evaluation wrote: `completions/completions_STEP.parquet`, or
    `completions/eval_completions_STEP.parquet`.

    Args:
        path (`str` or `Path`):
            The file.

    Returns:
        `list[TurnRecord]`: One per rollout. The rewards are those of the first reward function, which says whether a
        turn is right.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no table of rollouts with both turns and a reward of each.
    """
    import pandas as pd

    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"Expected a table of rollouts, got {str(path)!r}, which is no file.")
    table = pd.read_parquet(file)
    rewards = [name.removesuffix("_t1") for name in table.columns if name.endswith("_t1") and name != "completion_t1"]
    missing = sorted({"prompt", "completion_t1", "completion_t2"} - set(table.columns))
    if missing or not rewards or rewards[0] == "advantage":
        raise ValueError(
            f"Expected a table of rollouts with the columns `prompt`, `completion_t1`, `completion_t2` and a reward of "
            f"each turn in {str(file)!r}, got {list(table.columns)}."
        )
    columns = ("prompt", "completion_t1", "completion_t2", f"{rewards[0]}_t1", f"{rewards[0]}_t2")
    return [_from_table_row(*row) for row in zip(*(table[column] for column in columns), strict=True)]


def edit_ratios_of_records(records: Sequence[TurnRecord], kind: EditDistanceKind = "indel") -> list[float]:
    """
    Edit-distance ratio between turn 1 and the last turn of each record.

    Args:
        records (`Sequence[TurnRecord]`):
            The records.
        kind (`str`, *optional*, defaults to `"indel"`):
            The distance; the default is the one that the paper's histograms fit.

    Returns:
        `list[float]`: A ratio of each, from 0 to 1.

    Example:
        >>> edit_ratios_of_records([TurnRecord("1+2", ("3", "4"), (1.0, 0.0), ("3", "4"), "1+2")])
        [1.0]
    """
    first, last = ([record.turns[turn] for record in records] for turn in (0, -1))
    return edit_distance_ratios(first, last, kind=kind)


def group_by_problem(records: Sequence[TurnRecord]) -> list[list[TurnRecord]]:
    """
    Put the samples of each problem together.

    Args:
        records (`Sequence[TurnRecord]`):
            The records.

    Returns:
        `list[list[TurnRecord]]`: The samples of each problem in their order; problems in order of appearance.

    Example:
        >>> records = [TurnRecord(prompt, ("3",), (1.0,), ("3",), prompt) for prompt in ("a", "b", "a")]
        >>> [len(samples) for samples in group_by_problem(records)]
        [2, 1]
    """
    groups: dict[str, list[TurnRecord]] = {}
    for record in records:
        groups.setdefault(record.problem, []).append(record)
    return list(groups.values())


def _parse_line(line: str, place: str) -> TurnRecord:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"Expected a whole JSON object on {place}, got {len(line)} characters that end in the middle or are none. "
            "The writing was cut off: resume it, or delete that line."
        ) from error
    missing = [name for name in ("prompt", "turns", "rewards") if not isinstance(fields, Mapping) or name not in fields]
    if missing:
        raise ValueError(f"Expected a record with `prompt`, `turns` and `rewards` on {place}, got none of {missing}.")
    turns, rewards = fields["turns"], fields["rewards"]
    if not turns or len(turns) != len(rewards):
        raise ValueError(f"Expected a reward of each turn on {place}, got {len(turns)} turns, {len(rewards)} rewards.")
    return _from_fields(fields)


def _from_fields(fields: Mapping[str, Any]) -> TurnRecord:
    turns = tuple(map(_text, fields["turns"]))
    return TurnRecord(
        prompt=fields["prompt"],
        turns=turns,
        rewards=tuple(float(reward) if is_number(reward) else None for reward in fields["rewards"]),
        answers=tuple(fields.get("answers") or map(extract_answer, turns)),
        problem=str(fields.get("problem", fields["prompt"])),
        task=fields.get("task"),
        is_turn_1_offline=bool(fields.get("is_turn_1_offline", False)),
    )


def _from_table_row(prompt: Any, turn_1: Any, turn_2: Any, reward_t1: float, reward_t2: float) -> TurnRecord:
    prompt = prompt if isinstance(prompt, str) else list(prompt)
    return _from_fields({"prompt": prompt, "turns": (turn_1, turn_2), "rewards": (reward_t1, reward_t2)})


def _text(completion: Any) -> str:
    """The text of a completion in either of TRL's forms."""
    return completion if isinstance(completion, str) else str(completion[-1].get("content") or "")
