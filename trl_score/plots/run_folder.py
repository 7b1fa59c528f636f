"""
What lies in the folder of a run, read for the figures and the report: its log, its records, its tables of rollouts and
the summary of its final evaluation. Weights and pickles are never opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_score.plots.log_history import LogHistory, checkpoint_step, find_trainer_state, read_json, read_log_history
from trl_score.plots.records import TurnRecord, read_records, read_rollout_table


@dataclass(frozen=True)
class Run:
    """
    A run as its folder tells of it.

    Args:
        label (`str`):
            What it is called in figures.
        folder (`Path`):
            Where it lies.
        log_history (`list[dict]`, *optional*):
            What was logged; empty for an evaluation without training.
        records (`dict[str, list[TurnRecord]]`, *optional*):
            The records of each evaluation, by what its file is called beyond `records.jsonl`: `"base"` for
            `records_base.jsonl` or `base/records.jsonl`, `""` for `records.jsonl`.
        tables (`dict[str, list[TurnRecord]]`, *optional*):
            The last table of rollouts of `"train"` and of `"eval"`.
        summary (`dict`, *optional*):
            The content of `summary.json`.
    """

    label: str
    folder: Path
    log_history: LogHistory = ()
    records: Mapping[str, list[TurnRecord]] = field(default_factory=dict)
    tables: Mapping[str, list[TurnRecord]] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reward_names(self) -> set[str]:
        """`set[str]`: The reward functions that it was trained on."""
        keys = {key for entry in self.log_history for key in entry}
        return {key.split("/")[1] for key in keys if key.startswith("rewards/") and key.endswith("/mean")}

    @property
    def final_records(self) -> dict[str, list[TurnRecord]]:
        """`dict`: The records to show for the run: those beside its checkpoints, or else those in the last of them."""
        steps = {name: checkpoint_step(Path(name)) for name in self.records}
        last = max((step for step in steps.values() if step is not None), default=None)
        shown = None if None in steps.values() else last
        return {name: records for name, records in self.records.items() if steps[name] == shown}

    @property
    def tasks(self) -> set[str]:
        """`set[str]`: The tasks that its records name."""
        return {record.task for records in self.records.values() for record in records if record.task is not None}

    @property
    def problems(self) -> set[str]:
        """`set[str]`: The problems of its records."""
        return {record.problem for records in self.records.values() for record in records}


def read_run(
    folder: str | Path,
    label: str | None = None,
    *,
    with_tables: bool = True,
    log_history: LogHistory | None = None,
) -> Run:
    """
    Read the folder of a run.

    Args:
        folder (`str` or `Path`):
            The folder.
        label (`str`, *optional*):
            What it is called in figures. By default the folder's name.
        with_tables (`bool`, *optional*, defaults to `True`):
            Whether to read the tables of rollouts too.
        log_history (`list[dict]`, *optional*):
            What was logged, of a run that has not saved it yet. By default it is read from the folder.

    Returns:
        [`Run`]: What lies in it.

    Raises:
        FileNotFoundError: If there is no such folder, or neither a log nor records lie in it.
        ValueError: If one of its files is cut off, or holds something else.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"Expected the folder of a run, got {str(folder)!r}, which is no folder.")
    if log_history is None:
        log_history = read_log_history(place) if find_trainer_state(place) else ()
    run = Run(
        label=label or place.resolve().name,
        folder=place,
        log_history=log_history,
        records={name: read_records(file) for name, file in _find_records(place).items()},
        tables=_read_last_tables(place / "completions") if with_tables else {},
        summary=read_json(place / "summary.json") if (place / "summary.json").is_file() else {},
    )
    if not run.log_history and not run.records:
        raise FileNotFoundError(
            f"Expected logs (`trainer_state.json`) or records (`records.jsonl`) in {str(folder)!r}, got neither. "
            "Training writes the first at each checkpoint and at its end, an evaluation the second."
        )
    return run


def read_runs(folders: Sequence[str | Path] | Mapping[str, str | Path]) -> list[Run]:
    """
    Read the folders of several runs that are to be drawn over each other.

    Args:
        folders (`Sequence[str | Path]` or `Mapping[str, str | Path]`):
            The folders, or the folder of each label. Without labels runs are called after their folders, by as many
            parts of the path as tell them apart.

    Returns:
        `list[Run]`: The runs.

    Raises:
        FileNotFoundError: If a folder does not exist, or holds neither a log nor records.
        ValueError: If there is no folder, one is named twice, a file is cut off, or two runs are of unlike tasks.
    """
    if not folders:
        raise ValueError("Expected the folder of at least one run, got none.")
    labels = folders if isinstance(folders, Mapping) else label_folders(folders)
    runs = [read_run(folder, label) for label, folder in labels.items()]
    for run in runs[1:]:
        _check_same_task(runs[0], run)
    return runs


def label_folders(folders: Sequence[str | Path]) -> dict[str, Path]:
    """
    Name folders by the last parts of their paths, as many as tell them apart.

    Args:
        folders (`Sequence[str | Path]`):
            The folders.

    Returns:
        `dict[str, Path]`: The folder of each label.

    Raises:
        ValueError: If a folder is named twice.

    Example:
        >>> list(label_folders(["runs/demo", "runs/other"])), list(label_folders(["a/seed0", "b/seed0"]))
        (['demo', 'other'], ['a/seed0', 'b/seed0'])
    """
    places = [Path(folder).resolve() for folder in folders]
    if len(set(places)) < len(places):
        raise ValueError(f"Expected each run once, got {[str(folder) for folder in folders]}, which name one twice.")
    depth = 1
    while len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    return {"/".join(place.parts[-depth:]): Path(folder) for place, folder in zip(places, folders, strict=True)}


def _find_records(folder: Path) -> dict[str, Path]:
    """The base comes first, as in the paper's tables, and then the rest by name."""
    files = {_evaluation_name(file, folder): file for file in folder.rglob("records*.jsonl")}
    return dict(sorted(files.items(), key=lambda item: (not item[0].startswith("base"), item[0])))


def _evaluation_name(file: Path, folder: Path) -> str:
    parts = file.relative_to(folder).parent.parts
    stem = file.stem.removeprefix("records").strip("_-.")
    return "/".join((*parts, stem) if stem else parts)


def _read_last_tables(folder: Path) -> dict[str, list[TurnRecord]]:
    # Steps are written with leading zeros, so the last name is the last step.
    names = {"train": "completions_*.parquet", "eval": "eval_completions_*.parquet"}
    files = {kind: sorted(folder.glob(pattern)) for kind, pattern in names.items()}
    return {kind: read_rollout_table(found[-1]) for kind, found in files.items() if found}


def _check_same_task(one: Run, other: Run) -> None:
    for what, of_one, of_other in (
        ("reward functions", one.reward_names, other.reward_names),
        ("tasks", one.tasks, other.tasks),
    ):
        if of_one and of_other and of_one.isdisjoint(of_other):
            raise ValueError(
                f"Expected runs of like tasks to draw over each other, got {one.label!r} with the {what} "
                f"{sorted(of_one)} and {other.label!r} with {sorted(of_other)}. Draw them apart."
            )
    has_names = one.tasks and other.tasks
    if one.problems and other.problems and not has_names and one.problems.isdisjoint(other.problems):
        raise ValueError(
            f"Expected runs of like tasks to draw over each other, got no problem that both {one.label!r} and "
            f"{other.label!r} were evaluated on. Draw them apart."
        )
