"""
Read the numbers of a training run: the `log_history` that the Hugging Face trainer writes into `trainer_state.json`.

It is a list of dicts, each with the `step` it was logged at and some of the keys of `trl_score.log_keys`. Evaluation
logs the same keys with the prefix `eval_`.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LogHistory = Sequence[Mapping[str, Any]]
STAGE_KEY = "score/stage"


class Series(NamedTuple):
    """
    One logged number over training.

    Args:
        steps (`ndarray` of shape (points,)):
            The optimizer steps at which it was logged, ascending.
        values (`ndarray` of shape (points,)):
            Its values.
    """

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


class StageSpan(NamedTuple):
    """
    The steps that one stage of training spans.

    Args:
        stage (`int`):
            1 or 2.
        start (`float`):
            Where it begins: step 0, or midway between its first log and the last of the stage before.
        end (`float`):
            Where it ends: at the next stage's start, or the last step.
    """

    stage: int
    start: float
    end: float


def read_log_history(path: str | Path) -> list[dict[str, Any]]:
    """
    Read the log history of a run.

    Args:
        path (`str` or `Path`):
            A `trainer_state.json`, a folder that holds one, or a folder of checkpoints, of which the last is read.

    Returns:
        `list[dict[str, Any]]`: The logged dicts in the order of their steps.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no log history, or is cut off.
    """
    file = find_trainer_state(path)
    if file is None:
        raise FileNotFoundError(
            f"Expected a `trainer_state.json` or a folder that holds one, got {str(path)!r}. The trainer writes one "
            "into each checkpoint, and `trainer.save_state()` writes one into the output folder."
        )
    state = read_json(file)
    if not isinstance(state, dict) or not state.get("log_history"):
        raise ValueError(f"Expected a `log_history` with entries in {str(file)!r}, got none. Was anything logged?")
    history: list[dict[str, Any]] = state["log_history"]
    return history


def find_trainer_state(path: str | Path) -> Path | None:
    """
    Find the log of a run: in its folder, or in its last checkpoint, if training was ended before it saved its state.
    A file that was cut off, as by a kill during a save, is passed over where an earlier one is whole.

    Args:
        path (`str` or `Path`):
            A `trainer_state.json`, or a run's folder.

    Returns:
        `Path`, *optional*: The file, or `None` without one.
    """
    place = Path(path)
    if place.is_file():
        return place
    checkpoints = sorted(place.glob("checkpoint-*/trainer_state.json"), key=lambda file: checkpoint_step(file) or 0)
    files = [file for file in (place / "trainer_state.json", *reversed(checkpoints)) if file.is_file()]
    return next((file for file in files if _is_json(file)), files[0] if files else None)


def _is_json(file: Path) -> bool:
    try:
        read_json(file)
    except ValueError:
        return False
    return True


def checkpoint_step(path: Path) -> int | None:
    """
    Read the training step off the name of the checkpoint in which a file lies.

    Args:
        path (`Path`):
            The file.

    Returns:
        `int`, *optional*: The step, or `None` if the file lies in no checkpoint.

    Example:
        >>> checkpoint_step(Path("run/checkpoint-90/records.jsonl"))
        90
    """
    steps = [re.fullmatch(r"checkpoint-(\d+)", part) for part in path.parts]
    return next((int(step[1]) for step in reversed(steps) if step), None)


def read_json(path: Path) -> Any:
    """
    Read a JSON file.

    Args:
        path (`Path`):
            The file.

    Returns:
        `Any`: What it holds.

    Raises:
        ValueError: If it is not JSON, which it is not if it was cut off.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"Expected JSON in {str(path)!r}, got something else or a file that was cut off: {error}. Restore it from "
            "the run, or take the file of an earlier checkpoint."
        ) from error


def join_log_histories(histories: Sequence[LogHistory]) -> list[dict[str, Any]]:
    """
    Chain the logs of runs that followed each other, such as Stage I and Stage II trained apart, into one.

    Args:
        histories (`Sequence[list[dict]]`):
            The log histories in the order in which they were trained.

    Returns:
        `list[dict[str, Any]]`: One log history. The steps of each run count on from the last step of the one before.

    Example:
        >>> join_log_histories([[{"step": 10}], [{"step": 5}]])
        [{'step': 10}, {'step': 15}]
    """
    joined: list[dict[str, Any]] = []
    for history in histories:
        offset = joined[-1]["step"] if joined else 0
        joined.extend({**entry, "step": entry["step"] + offset} for entry in history)
    return joined


def get_series(log_history: LogHistory, key: str) -> Series:
    """
    Take one key out of a log history.

    Args:
        log_history (`list[dict]`):
            The logged dicts.
        key (`str`):
            The key. Entries without it, and those where it is `None` or `nan`, are left out.

    Returns:
        [`Series`]: Its steps and values, empty if it was never logged.

    Raises:
        ValueError: If the steps go backwards.

    Example:
        >>> get_series([{"step": 1, "loss": 0.5}, {"step": 2}, {"step": 3, "loss": 0.25}], "loss").values.tolist()
        [0.5, 0.25]
    """
    points = [(entry["step"], entry[key]) for entry in log_history if is_number(entry.get(key))]
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    steps, values = table[:, 0], table[:, 1]
    backwards = np.flatnonzero(np.diff(steps) < 0)
    if len(backwards):
        before, after = steps[backwards[0]], steps[backwards[0] + 1]
        raise ValueError(
            f"Expected the steps of {key!r} to ascend, got step {after:g} after step {before:g}. Chain the logs of "
            f"several runs with `join_log_histories`."
        )
    return Series(steps, values)


def check_logged(log_history: LogHistory, keys: Sequence[str], label: str | None = None) -> None:
    """
    Check that at least one of several keys was logged, in training or in evaluation.

    Args:
        log_history (`list[dict]`):
            The logged dicts.
        keys (`Sequence[str]`):
            The keys, without the prefix `eval_`.
        label (`str`, *optional*):
            Whose log history it is, for the message.

    Raises:
        ValueError: If none was logged.

    Example:
        >>> check_logged([{"step": 1, "eval_reward": 0.5}], ["reward"])
    """
    if not is_logged(log_history, keys):
        logged = {key for entry in log_history for key in entry if is_number(entry[key])} - {"step"}
        whose = "the log history" if label is None else f"the log history of {label!r}"
        raise ValueError(f"Expected {whose} to have one of {list(keys)}, got none. Logged were {sorted(logged)}.")


def is_logged(log_history: LogHistory, keys: Sequence[str]) -> bool:
    """
    Say whether at least one of several keys was logged, in training or in evaluation.

    Args:
        log_history (`list[dict]`):
            The logged dicts.
        keys (`Sequence[str]`):
            The keys, without the prefix `eval_`.

    Returns:
        `bool`: True if one was.

    Example:
        >>> is_logged([{"step": 1, "eval_reward": 0.5}], ["reward"]), is_logged([{"step": 1}], ["reward"])
        (True, False)
    """
    names = {name for key in keys for name in (key, f"eval_{key}")}
    return any(is_number(entry.get(name)) for entry in log_history for name in names)


def stage_spans(log_history: LogHistory) -> list[StageSpan]:
    """
    Find the stages of a run from its logged stage.

    Args:
        log_history (`list[dict]`):
            The logged dicts.

    Returns:
        `list[StageSpan]`: The stages in order, empty if the stage was never logged.

    Example:
        >>> stage_spans([{"step": 10, "score/stage": 1}, {"step": 20, "score/stage": 2}])
        [StageSpan(stage=1, start=0.0, end=15.0), StageSpan(stage=2, start=15.0, end=20.0)]
    """
    steps, stages = get_series(log_history, STAGE_KEY)
    if len(steps) == 0:
        return []
    changes = np.flatnonzero(np.diff(stages)) + 1
    boundaries = [0.0, *((steps[changes - 1] + steps[changes]) / 2).tolist(), float(steps[-1])]
    first_of_each = [0, *changes.tolist()]
    return [
        StageSpan(int(stages[first]), start, end)
        for first, start, end in zip(first_of_each, boundaries[:-1], boundaries[1:], strict=True)
    ]


def smooth(series: Series, spans: Sequence[StageSpan], window: int) -> Series:
    """
    Average each point with its neighbours, never across the boundary of two stages.

    Args:
        series ([`Series`]):
            The points.
        spans (`Sequence[StageSpan]`):
            The stages. Without any the whole series is one.
        window (`int`):
            Number of points to average, centred. Near an end of the stage it holds those that there are.

    Returns:
        [`Series`]: As many points, averaged.

    Raises:
        ValueError: If `window` is below 1.

    Example:
        >>> smooth(Series(np.arange(4.0), np.array([0.0, 4.0, 8.0, 0.0])), [], window=3).values.tolist()
        [2.0, 4.0, 4.0, 4.0]
    """
    if window < 1:
        raise ValueError(f"Expected `window` to be at least 1 point, got {window}.")
    boundaries = [span.start for span in spans[1:]]
    parts = np.split(series.values, np.searchsorted(series.steps, boundaries))
    return Series(series.steps, np.concatenate([_centred_mean(part, window) for part in parts]))


def is_number(value: object) -> bool:
    """
    Say whether a logged value can be drawn.

    Args:
        value (`object`):
            Anything.

    Returns:
        `bool`: True for a number that is not `nan`.

    Example:
        >>> is_number(0.5), is_number(None), is_number(float("nan"))
        (True, False, False)
    """
    return isinstance(value, (int, float)) and not math.isnan(value)


def _centred_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    before, after = (window - 1) // 2, window // 2
    means = [values[max(0, index - before) : index + after + 1].mean() for index in range(len(values))]
    return np.array(means, dtype=np.float64)
