"""
The laboratory's figures, from the files that its runs left. Curves and bars are means over seeds, with intervals over
seeds; a histogram pools the seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab_statistics import mean_log_history, t_interval
from lab_summary import METHODS, RECORDS

from trl_score.metrics import Interval, accuracy_by_turn
from trl_score.plots import (
    TurnRecord,
    correction_rate_of_records,
    edit_ratios_of_records,
    inference_scaling_curves,
    plot_accuracy_by_turn,
    plot_answer_change_rate,
    plot_edit_distance_histogram,
    plot_first_turns,
    plot_inference_scaling,
    plot_training_curves,
    read_log_history,
    read_records,
    save_figure,
)
from trl_score.plots.log_history import checkpoint_step
from trl_score.plots.style import (
    CHANGE_COLOURS,
    GREY,
    RUN_MARKERS,
    error_bars,
    in_house_style,
    legend_below,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

CHANGES = {"delta_t1_t2": "Δ(t1, t2)", "delta_i_to_c": "Δ i→c", "delta_c_to_i": "Δ c→i"}
CURVE_METHODS = ("multi_turn_rl", "score_no_stage_1", "score_no_shaping", "score")
"""Methods whose training logs both turns."""
HISTOGRAM_METHODS = ("base", "score", "star_plus", "pair_sft")

Draw = Callable[[], tuple["Figure", Any]]


def draw_figures(folder: Path, summary: Mapping[str, Any]) -> list[Path]:
    """
    Draws all figures that the laboratory has the numbers for, into its folder `figures`.

    Args:
        folder (`Path`):
            The laboratory's folder.
        summary (`Mapping`):
            As `lab_summary.summarise` gives it.

    Returns:
        `list[Path]`: the PNG files; each has an SVG beside it.
    """
    from matplotlib import pyplot

    written = []
    for name, draw in figures_of(folder, summary).items():
        fig, _ = draw()
        written.append(save_figure(fig, folder / "figures" / name)[0])
        pyplot.close(fig)
    return written


def figures_of(folder: Path, summary: Mapping[str, Any]) -> dict[str, Draw]:
    """
    Finds out which figures can be drawn.

    Args:
        folder, summary:
            As in [`draw_figures`].

    Returns:
        `dict[str, Callable]`: by name what draws the figure.
    """
    seeds: Sequence[int] = summary["seeds"]
    histories = {
        METHODS[method]: mean_log_history([read_log_history(folder / method / f"seed{seed}") for seed in seeds])
        for method in CURVE_METHODS
        if method in summary
    }
    changing = {label: histories[label] for label in (METHODS["multi_turn_rl"], METHODS["score"]) if label in histories}
    ratios = {
        METHODS[method]: edit_ratios_of_records(_records(folder, method, seeds, RECORDS["sampled"]))
        for method in HISTOGRAM_METHODS
        if method in summary
    }
    further = {method: _further_records(folder, method, seeds) for method in METHODS if method in summary}
    turns = {
        f"{METHODS[method]}{ending}": turn_curve(found[kind])
        for kind, ending in (("chain", ""), ("turns", ", all turns shown"))
        for method, found in further.items()
        if kind in found
    }
    scaling = {
        f"{METHODS[method]}, {way}": curve
        for method, found in further.items()
        if "scaling" in found
        for way, curve in scaling_curves(found["scaling"]).items()
    }
    first_turns = _first_turns(folder, "pair_sft", seeds)
    figures: dict[str, Draw] = {"changes": lambda: plot_changes(summary)}
    figures |= {"training_curves": lambda: plot_training_curves(histories)} if histories else {}
    figures |= {"answer_change_rate": lambda: plot_answer_change_rate(changing)} if changing else {}
    figures |= {"edit_distance": lambda: plot_edit_distance_histogram(ratios, kind="indel")} if ratios else {}
    figures |= {"accuracy_by_turn": lambda: plot_accuracy_by_turn(turns)} if turns else {}
    figures |= {"inference_scaling": lambda: plot_inference_scaling(scaling)} if scaling else {}
    figures |= {"first_turns": lambda: plot_first_turns(first_turns)} if first_turns else {}
    return figures


@in_house_style
def plot_changes(summary: Mapping[str, Any]) -> tuple["Figure", "NDArray[Any]"]:
    """
    Draws what turn 2 changes under each method: delta, what it fixes and what it breaks.

    Self-Refine is left out: it breaks all that there is to break here, and would leave no room for the rest.

    Args:
        summary (`Mapping`):
            As `lab_summary.summarise` gives it.

    Returns:
        `tuple[Figure, ndarray]`: the figure, and a panel for each decoding.
    """
    methods = [method for method in METHODS if method in summary and method != "self_refine"]
    fig, axes = new_figure(1, len(RECORDS), size=(10, 0.42 * len(methods) + 1.5), sharey=True)
    for ax, decoding in zip(axes[0], RECORDS, strict=True):
        for number, (metric, label) in enumerate(CHANGES.items()):
            found = [summary[method][decoding][metric] for method in methods]
            intervals = [Interval(*(_or_nan(metric_of[name]) for name in Interval._fields)) for metric_of in found]
            places = [place + 0.22 * (number - 1) for place in range(len(methods))]
            ax.errorbar(
                [100 * interval.value for interval in intervals],
                places,
                xerr=100 * error_bars(intervals),
                color=CHANGE_COLOURS[number],
                marker=RUN_MARKERS[number],
                linestyle="",
                capsize=3,
                label=label,
            )
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.grid(axis="x")
        ax.set_title(decoding)
        ax.set_xlabel("percentage points of all problems")
    axes[0, 0].set_yticks(range(len(methods)), [METHODS[method] for method in methods])
    axes[0, 0].invert_yaxis()
    legend_below(fig, axes[0, 0])
    return fig, axes[0]


def turn_curve(records_of_seeds: Sequence[Sequence[TurnRecord]]) -> list[Interval]:
    """
    Gives the accuracy at each turn, over seeds.

    Args:
        records_of_seeds (`Sequence[Sequence[TurnRecord]]`):
            The records of each seed.

    Returns:
        `list[Interval]`: an accuracy for each turn.
    """
    accuracies = [accuracy_by_turn([record.correct for record in records], bootstrap=0) for records in records_of_seeds]
    return [t_interval([interval.value for interval in turn]) for turn in zip(*accuracies, strict=True)]


def scaling_curves(records_of_seeds: Sequence[Sequence[TurnRecord]]) -> dict[str, dict[int, Interval]]:
    """
    Gives the accuracy of the majority by budget, over seeds.

    Args:
        records_of_seeds (`Sequence[Sequence[TurnRecord]]`):
            Several rollouts of each problem, of each seed.

    Returns:
        `dict[str, dict[int, Interval]]`: by way of spending the accuracy by budget.
    """
    of_seeds = [inference_scaling_curves(records, bootstrap=0) for records in records_of_seeds]
    return {way: _mean_curve([curves[way] for curves in of_seeds]) for way in of_seeds[0]}


def _mean_curve(curves: Sequence[Mapping[int, Interval]]) -> dict[int, Interval]:
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {at: t_interval([curve[at].value for curve in curves]) for at in shared}


def _records(folder: Path, method: str, seeds: Sequence[int], file: str) -> list[TurnRecord]:
    return [record for seed in seeds for record in read_records(folder / method / f"seed{seed}" / file)]


def _further_records(folder: Path, method: str, seeds: Sequence[int]) -> dict[str, list[list[TurnRecord]]]:
    """What the further evaluations wrote, where all seeds have it."""
    folders = [folder / method / f"seed{seed}_more" for seed in seeds]
    files = {kind: [place / f"records_{kind}.jsonl" for place in folders] for kind in ("turns", "chain", "scaling")}
    return {
        kind: [read_records(file) for file in found]
        for kind, found in files.items()
        if all(file.is_file() for file in found)
    }


def _first_turns(folder: Path, method: str, seeds: Sequence[int]) -> dict[str, dict[int, Interval]]:
    """How many wrong first turns get corrected by checkpoint: given ones and its own."""
    curves_of_seeds = []
    for seed in seeds:
        files = (folder / method / f"seed{seed}_more").glob("checkpoint-*/records.jsonl")
        of_steps = {step: read_records(file) for file in files if (step := checkpoint_step(file)) is not None}
        curves_of_seeds.append(
            {
                label: {
                    step: correction_rate_of_records(
                        [record for record in records if record.is_turn_1_offline is is_given], bootstrap=0
                    )
                    for step, records in of_steps.items()
                }
                for label, is_given in (("the base's first turns", True), ("its own first turns", False))
            }
        )
    if not all(all(curves.values()) for curves in curves_of_seeds):
        return {}
    return {label: _mean_curve([curves[label] for curves in curves_of_seeds]) for label in curves_of_seeds[0]}


def _or_nan(number: float | None) -> float:
    return float("nan") if number is None else number
