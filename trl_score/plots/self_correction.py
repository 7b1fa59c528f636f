"""
Figures of what a model does with its second turn, drawn from metrics and records.

Each function returns `(fig, axes)` and shows nothing. [`save_figure`] writes the files.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trl_score.metrics import Interval
from trl_score.metrics.edit_distance import EditDistanceKind
from trl_score.plots.style import (
    RUN_COLOURS,
    RUN_MARKERS,
    TURN_COLOURS,
    draw_intervals,
    error_bars,
    in_house_style,
    legend_beside,
    new_figure,
    percent_axis,
    run_look,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

STAGE_LABELS = {"base": "base", "stage1": "after Stage I", "stage2": "after Stage II", "trained": "trained"}
"""What the models are called that `summary.json` compares, in the order of training; the last one is a baseline's."""
_DECODING = ("greedy", "sampled")
_DISTANCE_NAMES: dict[EditDistanceKind, str] = {"levenshtein": "Levenshtein", "indel": "insert-and-delete"}
_NUM_BINS = 20


@in_house_style
def plot_stage_summary(summary: Mapping[str, Any]) -> tuple["Figure", "NDArray[Any]"]:
    """
    Draw accuracy at both turns before training and after each stage, with intervals. Above stands Delta(t1, t2), with
    its own paired interval, in percentage points.

    Args:
        summary (`Mapping[str, Any]`):
            The content of `runs/demo/summary.json`: for `base`, `stage1`, `stage2` and `trained`, and each of `greedy`
            and `sampled`, metrics as `{"value", "low", "high"}`. What is not there is not drawn. Other keys are
            ignored.

    Returns:
        `tuple[Figure, ndarray]`: The figure and a panel for each decoding, an array of shape (panels,).

    Raises:
        ValueError: If the summary has no stage with greedy or sampled metrics.

    Example:
        >>> accuracy = {"value": 0.5, "low": 0.4, "high": 0.6}
        >>> summary = {"base": {"greedy": {"accuracy_t1": accuracy, "accuracy_t2": accuracy}}}
        >>> fig, axes = plot_stage_summary(summary)
        >>> axes[0].get_title()
        'greedy'
    """
    stages = [stage for stage in STAGE_LABELS if stage in summary]
    panels = [decoding for decoding in _DECODING if any(decoding in summary[stage] for stage in stages)]
    if not panels:
        raise ValueError(
            f"Expected `summary` to have one of {list(STAGE_LABELS)}, each with one of {list(_DECODING)}, got the keys "
            f"{sorted(summary)}."
        )
    fig, axes = new_figure(1, len(panels), size=(4 * len(panels) + 1, 3.8), sharey=True)
    for ax, decoding in zip(axes[0], panels, strict=True):
        shown = [stage for stage in stages if decoding in summary[stage]]
        _draw_stages(ax, [summary[stage][decoding] for stage in shown])
        ax.set_xticks(range(len(shown)), [STAGE_LABELS[stage] for stage in shown])
        ax.set_xlim(-0.5, len(shown) - 0.5)
        ax.set_title(decoding)
    axes[0, 0].set_ylabel("accuracy")
    axes[0, 0].margins(y=0.2)  # room for the delta above the highest interval
    percent_axis(axes[0, 0])
    legend_beside(axes[0, -1])
    return fig, axes[0]


@in_house_style
def plot_edit_distance_histogram(
    ratios_by_label: Mapping[str, Sequence[float]], *, kind: EditDistanceKind | None = None
) -> tuple["Figure", "NDArray[Any]"]:
    """
    Draw how much of the text changes between turns, one panel for each model (Figure 3 of arXiv 2409.12917).

    A spike in the first bin is the mark of a model that only copies its first turn.

    Args:
        ratios_by_label (`Mapping[str, Sequence[float]]`):
            The edit-distance ratios of each model's problems, as [`edit_distance_ratios`] gives them, by its label. All
            are to be of one kind of distance.
        kind (`str`, *optional*):
            That kind, `"levenshtein"` or `"indel"`, for the label below.

    Returns:
        `tuple[Figure, ndarray]`: The figure and its panels from top to bottom, an array of shape (labels,).

    Raises:
        ValueError: If there is no model, a model has no ratio, or a ratio is not between 0 and 1.

    Example:
        >>> fig, axes = plot_edit_distance_histogram({"base": [0.0, 0.6, 0.7], "SCoRe": [0.3, 0.5]})
        >>> [ax.get_title(loc="left") for ax in axes]
        ['base (n = 3)', 'SCoRe (n = 2)']
    """
    if not ratios_by_label:
        raise ValueError("Expected the edit-distance ratios of at least one model, got none.")
    fig, axes = new_figure(
        len(ratios_by_label), 1, size=(6, 1.5 * len(ratios_by_label) + 0.9), sharex=True, sharey=True
    )
    panels = axes[:, 0]
    for number, (label, ratios) in enumerate(ratios_by_label.items()):
        if len(ratios) == 0 or not all(0 <= ratio <= 1 for ratio in ratios):
            raise ValueError(f"Expected ratios from 0 to 1 of the problems of {label!r}, got {_describe(ratios)}.")
        weights = np.full(len(ratios), 1 / len(ratios))
        colour = RUN_COLOURS[number % len(RUN_COLOURS)]
        panels[number].hist(ratios, bins=_NUM_BINS, range=(0, 1), weights=weights, color=colour, edgecolor="white")
        panels[number].set_title(f"{label} (n = {len(ratios)})", loc="left")
        percent_axis(panels[number])
    panels[-1].set_xlim(0, 1)
    distance = "edit distance" if kind is None else f"{_DISTANCE_NAMES[kind]} distance"
    panels[-1].set_xlabel(f"{distance} between turns / summed length of both")
    fig.supylabel("share of problems", fontsize=11)
    return fig, panels


@in_house_style
def plot_accuracy_by_turn(
    accuracy_by_label: Mapping[str, Sequence[Interval | tuple[float, float, float]]],
) -> tuple["Figure", "Axes"]:
    """
    Draw accuracy over any number of turns, a line with intervals for each model.

    Args:
        accuracy_by_label (`Mapping[str, Sequence[Interval]]`):
            The accuracy at turn 1, turn 2, and so on of each model, as [`accuracy_by_turn`] gives it, by its label.

    Returns:
        `tuple[Figure, Axes]`: The figure and its panel.

    Raises:
        ValueError: If there is no model, or a model has no turn.

    Example:
        >>> fig, ax = plot_accuracy_by_turn({"SCoRe": [Interval(0.5, 0.4, 0.6), Interval(0.6, 0.5, 0.7)]})
        >>> ax.get_xlabel()
        'turn'
    """
    if not accuracy_by_label or not all(accuracy_by_label.values()):
        raise ValueError(
            f"Expected at least one model, each with its accuracy at one turn or more, got "
            f"{ {label: len(intervals) for label, intervals in accuracy_by_label.items()} }."
        )
    fig, axes = new_figure(size=(7, 3.6))
    ax = axes[0, 0]
    num_labels = len(accuracy_by_label)
    apart = min(0.1, 0.6 / num_labels)
    for number, (label, intervals) in enumerate(accuracy_by_label.items()):
        # Models stand side by side within a turn, so that one's interval never hides another's.
        shift = apart * (number - (num_labels - 1) / 2)
        turns = np.arange(1, len(intervals) + 1)
        draw_intervals(ax, turns + shift, intervals, label=label, **run_look(number))
    ax.set_xticks(range(1, max(map(len, accuracy_by_label.values())) + 1))
    ax.set_xlabel("turn")
    ax.set_ylabel("accuracy")
    percent_axis(ax)
    legend_beside(ax)
    return fig, ax


def _draw_stages(ax: "Axes", metrics_by_stage: Sequence[Mapping[str, Mapping[str, float | None]]]) -> None:
    top = [-math.inf] * len(metrics_by_stage)
    for turn, (colour, marker) in enumerate(zip(TURN_COLOURS, RUN_MARKERS, strict=False), start=1):
        intervals = [_to_interval(metrics[f"accuracy_t{turn}"]) for metrics in metrics_by_stage]
        places = np.arange(len(intervals)) + 0.24 * (turn - 1.5)
        values = [interval.value for interval in intervals]
        errors = error_bars(intervals)
        ax.errorbar(
            places, values, yerr=errors, color=colour, linestyle="", marker=marker, capsize=4, label=f"turn {turn}"
        )
        top = [max(height, value + up) for height, value, up in zip(top, values, errors[1], strict=True)]
    for place, (height, metrics) in enumerate(zip(top, metrics_by_stage, strict=True)):
        if "delta_t1_t2" in metrics:
            text = _describe_delta(_to_interval(metrics["delta_t1_t2"]))
            ax.annotate(text, (place, height), (0, 6), textcoords="offset points", ha="center", fontsize=9)


def _describe_delta(delta: Interval) -> str:
    value, low, high = (f"{100 * number:+.1f}".replace("-", "−") for number in delta)
    bounds = "" if math.isnan(delta.low) else f"\n[{low}, {high}]"
    return f"Δ {value}{bounds}"


def _to_interval(metric: Mapping[str, float | None]) -> Interval:
    numbers = (metric[name] for name in Interval._fields)
    return Interval(*(math.nan if number is None else number for number in numbers))


def _describe(ratios: Sequence[float]) -> str:
    return f"{len(ratios)} ratios from {min(ratios)} to {max(ratios)}" if len(ratios) else "none"
