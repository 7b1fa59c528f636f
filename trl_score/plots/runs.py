"""All figures of a run, or of several over each other, from their folders alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from trl_score.metrics import Interval, accuracy_by_turn
from trl_score.plots.inference import (
    correction_rate_of_records,
    inference_scaling_curves,
    plot_first_turns,
    plot_inference_scaling,
)
from trl_score.plots.log_history import LogHistory, checkpoint_step, is_logged
from trl_score.plots.records import TurnRecord, edit_ratios_of_records, group_by_problem
from trl_score.plots.run_folder import Run, read_runs
from trl_score.plots.self_correction import (
    STAGE_LABELS,
    plot_accuracy_by_turn,
    plot_edit_distance_histogram,
    plot_stage_summary,
)
from trl_score.plots.style import save_figure
from trl_score.plots.training_curves import (
    plot_answer_change_rate,
    plot_kl_per_turn,
    plot_reward_history,
    plot_training_curves,
    plot_turn_lengths,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw: TypeAlias = Callable[[], tuple["Figure", Any]]

FIGURE_CAPTIONS = {
    "training_curves": ("Accuracy and corrections", "What both turns get right in training, and what turn 2 changes."),
    "rewards": ("Rewards", "Mean reward of both turns, and turn 2's after shaping."),
    "answer_change_rate": ("Answers changed", "A rate that falls to 0 is the mark of a model that stops correcting."),
    "kl_per_turn": ("KL of each turn", "How far each turn has moved from the reference."),
    "turn_lengths": ("Turn lengths", "Mean tokens of each turn."),
    "edit_distance": ("Edit distance between turns", "A spike at 0 is the mark of a turn 2 that copies turn 1."),
    "accuracy_by_turn": ("Accuracy by turn", "With 95% intervals over problems."),
    "inference_scaling": ("Inference scaling", "The same number of samples, spent in two ways, then a majority vote."),
    "first_turns": (
        "Given and own first turns",
        "Where the two part, the model corrects mistakes that are not its own.",
    ),
    "stage_summary": ("Before and after each stage", "On held-out problems, with 95% intervals; Δ in points."),
}
"""The title of each figure, and what is said of it in a page."""

# What a figure over training needs to have been logged, and what draws it.
_HISTORY_FIGURES: dict[str, tuple[tuple[str, ...], Callable[..., tuple["Figure", Any]]]] = {
    "training_curves": (("score/accuracy_t1", "score/delta_t1_t2"), plot_training_curves),
    "rewards": (("score/reward_t1", "score/shaped_reward_t2"), plot_reward_history),
    "answer_change_rate": (("score/answers_changed",), plot_answer_change_rate),
    "kl_per_turn": (("score/kl_t1",), plot_kl_per_turn),
    "turn_lengths": (("score/length_t1",), plot_turn_lengths),
}


def plot_runs(
    run_folders: Sequence[str | Path] | Mapping[str, str | Path], output: str | Path, *, overwrite: bool = False
) -> list[Path]:
    """
    Draw all figures that the folders of runs have the numbers for, several runs over each other, as PNG and SVG.

    Over training: `training_curves`, `rewards`, `answer_change_rate`, `kl_per_turn` and `turn_lengths`. From records:
    `edit_distance`, `accuracy_by_turn`, `inference_scaling` (where problems have several samples) and `first_turns`
    (where first turns were given to some). From the summary of a single run: `stage_summary`.

    Args:
        run_folders (`Sequence[str | Path]` or `Mapping[str, str | Path]`):
            The folders of the runs, or the folder of each label.
        output (`str` or `Path`):
            The folder to write into. It is made if it is missing.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether files of these names may be replaced.

    Returns:
        `list[Path]`: The files written, a PNG and an SVG of each figure.

    Raises:
        FileNotFoundError: If a folder does not exist, or holds neither a log nor records.
        FileExistsError: If a file is there already and may not be replaced; nothing is written then.
        ValueError: If a file is cut off, two runs are of unlike tasks, or there is nothing to draw.
    """
    figures = figures_of_runs(read_runs(run_folders))
    folder = Path(output)
    refuse_to_overwrite([folder / f"{name}{suffix}" for name in figures for suffix in (".png", ".svg")], overwrite)
    from matplotlib import pyplot

    written: list[Path] = []
    for name, draw in figures.items():
        fig, _ = draw()
        written += save_figure(fig, folder / name)
        pyplot.close(fig)
    return written


def figures_of_runs(runs: Sequence[Run]) -> dict[str, Draw]:
    """
    Find out which figures can be drawn of some runs.

    Args:
        runs (`Sequence[Run]`):
            The runs, as [`read_run`] reads them.

    Returns:
        `dict[str, Callable]`: By name what draws the figure: called without arguments it returns `(fig, axes)`.

    Raises:
        ValueError: If there is nothing to draw.

    Example:
        >>> run = Run("demo", Path("demo"), [{"step": 1, "score/length_t1": 8.0, "score/length_t2": 9.0}])
        >>> list(figures_of_runs([run]))
        ['turn_lengths']
    """
    figures = {**_history_figures(runs), **_record_figures(runs)}
    if len(runs) == 1 and any(stage in runs[0].summary for stage in STAGE_LABELS):
        figures["stage_summary"] = lambda: plot_stage_summary(runs[0].summary)
    if not figures:
        logged = sorted({key for run in runs for entry in run.log_history for key in entry})
        raise ValueError(
            f"Expected logs of SCoRe or records of an evaluation in {[str(run.folder) for run in runs]}, got none of "
            f"them. Logged were {logged}."
        )
    return figures


def refuse_to_overwrite(files: Sequence[Path], overwrite: bool) -> None:
    """
    Check that nothing which should stay is about to be replaced.

    Args:
        files (`Sequence[Path]`):
            The files to be written.
        overwrite (`bool`):
            Whether they may be replaced.

    Raises:
        FileExistsError: If one of them is there and may not be replaced.

    Example:
        >>> refuse_to_overwrite([Path("nowhere/figure.png")], overwrite=False)
    """
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"Expected to write new files, got {len(there)} that are there already, such as {str(there[0])!r}. Name "
            "another output, or say that it may be replaced with `overwrite=True` (`--overwrite`)."
        )


def _history_figures(runs: Sequence[Run]) -> dict[str, Draw]:
    figures: dict[str, Draw] = {}
    for name, (keys, plot) in _HISTORY_FIGURES.items():
        shown = [run for run in runs if all(is_logged(run.log_history, [key]) for key in keys)]
        if shown:
            figures[name] = _bind(plot, runs, shown)
    return figures


def _bind(plot: Callable[..., tuple["Figure", Any]], runs: Sequence[Run], shown: Sequence[Run]) -> Draw:
    histories: dict[str, LogHistory] = {run.label: run.log_history for run in shown}
    if len(runs) > 1 or plot is plot_answer_change_rate:
        return lambda: plot(histories)
    if plot is plot_training_curves:
        # Training samples, so the base is shown as it was when it sampled.
        return lambda: plot(shown[0].log_history, base=shown[0].summary.get("base", {}).get("sampled"))
    return lambda: plot(shown[0].log_history)


def _record_figures(runs: Sequence[Run]) -> dict[str, Draw]:
    figures: dict[str, Draw] = {}
    own = _label_records(runs)
    written = {label: records for label, records in (own | _label_tables(runs)).items() if len(records[0].turns) > 1}
    if written:
        figures["edit_distance"] = lambda: plot_edit_distance_histogram(
            {label: edit_ratios_of_records(records) for label, records in written.items()}, kind="indel"
        )
    if own:
        figures["accuracy_by_turn"] = lambda: plot_accuracy_by_turn(
            {label: _accuracies(records) for label, records in own.items()}
        )
    sampled = {label: records for label, records in own.items() if _has_samples(records)}
    if sampled:
        figures["inference_scaling"] = lambda: plot_inference_scaling(_scaling_curves(sampled))
    first_turns = _first_turn_curves(runs)
    if any(label.endswith(_GIVEN) for label in first_turns):
        figures["first_turns"] = lambda: plot_first_turns(first_turns)
    return figures


_GIVEN, _OWN = "given first turns", "own first turns"


def _label_records(runs: Sequence[Run]) -> dict[str, list[TurnRecord]]:
    labelled: dict[str, list[TurnRecord]] = {}
    for run in runs:
        for name, records in run.final_records.items():
            label = _join(run.label if len(runs) > 1 or not name else "", name)
            kept = [record for record in records if not record.is_turn_1_offline]
            if kept:
                labelled[label] = kept
            elif _has_only_given_turns(run):
                labelled[_join(label, _GIVEN)] = list(records)
    return labelled


def _has_only_given_turns(run: Run) -> bool:
    """A task of repair, such as mbpp-r, has no first turns of the model's own to be shown instead."""
    return all(record.is_turn_1_offline for records in run.final_records.values() for record in records)


def _label_tables(runs: Sequence[Run]) -> dict[str, list[TurnRecord]]:
    return {
        _join(run.label if len(runs) > 1 else "", kind): rollouts
        for run in runs
        for kind, rollouts in run.tables.items()
    }


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _accuracies(records: Sequence[TurnRecord]) -> list[Interval]:
    return accuracy_by_turn([record.correct for record in records], groups=[record.problem for record in records])


def _has_samples(records: Sequence[TurnRecord]) -> bool:
    return len(records[0].turns) > 1 and min(map(len, group_by_problem(records))) > 1


def _scaling_curves(sampled: Mapping[str, Sequence[TurnRecord]]) -> dict[str, dict[int, Interval]]:
    return {
        _join(label if len(sampled) > 1 else "", way): curve
        for label, records in sampled.items()
        for way, curve in inference_scaling_curves(records).items()
    }


def _first_turn_curves(runs: Sequence[Run]) -> dict[str, dict[int, Interval]]:
    curves: dict[str, dict[int, Interval]] = {}
    for run in runs:
        for name, records in run.records.items():
            step = checkpoint_step(Path(name))
            for kind, is_offline in ((_GIVEN, True), (_OWN, False)):
                kept = [record for record in records if record.is_turn_1_offline is is_offline]
                if kept and step is not None:
                    label = _join(run.label if len(runs) > 1 else "", kind)
                    curves.setdefault(label, {})[step] = correction_rate_of_records(kept)
    return curves
