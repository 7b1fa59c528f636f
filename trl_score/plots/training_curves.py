"""
Figures of a training run, drawn from its log history: both turns through both stages.

Each function returns `(fig, axes)` and shows nothing. [`save_figure`] writes the files.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trl_score.plots.log_history import LogHistory, Series, StageSpan, check_logged, get_series, smooth, stage_spans
from trl_score.plots.style import (
    CHANGE_COLOURS,
    GREY,
    RUN_COLOURS,
    RUN_LINE_STYLES,
    TURN_COLOURS,
    in_house_style,
    legend_beside,
    mark_stages,
    new_figure,
    percent_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Key, label, colour and line style of each line of a panel.
Line = tuple[str, str, str, str]

_ACCURACY_LINES: tuple[Line, ...] = (
    ("score/accuracy_t1", "turn 1", TURN_COLOURS[0], "-"),
    ("score/accuracy_t2", "turn 2", TURN_COLOURS[1], "--"),
)
_CHANGE_LINES: tuple[Line, ...] = (
    ("score/delta_t1_t2", "Δ(t1, t2)", CHANGE_COLOURS[0], "-"),
    ("score/delta_i_to_c", "Δ i→c (fixed)", CHANGE_COLOURS[1], "--"),
    ("score/delta_c_to_i", "Δ c→i (broken)", CHANGE_COLOURS[2], "-."),
)
_KL_LINES: tuple[Line, ...] = (
    ("score/kl_t1", "turn 1", TURN_COLOURS[0], "-"),
    ("score/kl_t2", "turn 2", TURN_COLOURS[1], "--"),
)
_LENGTH_LINES: tuple[Line, ...] = (
    ("score/length_t1", "turn 1", TURN_COLOURS[0], "-"),
    ("score/length_t2", "turn 2", TURN_COLOURS[1], "--"),
)
# Without a window of the caller's, the bold line averages this share of the points of the run.
_SMOOTHED_SHARE = 20


@in_house_style
def plot_training_curves(
    log_history: LogHistory,
    *,
    base: Mapping[str, Mapping[str, float | None]] | None = None,
    window: int | None = None,
    with_kl: bool = False,
) -> tuple["Figure", "NDArray[Any]"]:
    """
    Draw accuracy of both turns, and what turn 2 fixes and breaks, through both stages.

    Light lines are the logged values, bold ones their running mean, which stops at the boundary of two stages. Points
    are evaluations, where `eval_` keys were logged.

    Args:
        log_history (`list[dict]`):
            The logged dicts, as [`read_log_history`] reads them.
        base (`Mapping[str, Mapping[str, float]]`, *optional*):
            Metrics of the model before training, in the layout of `summary["base"]["greedy"]`: dashed lines.
        window (`int`, *optional*):
            Number of points that the bold line averages. By default a twentieth of those logged.
        with_kl (`bool`, *optional*, defaults to `False`):
            Whether to add a third panel with the KL of each turn.

    Returns:
        `tuple[Figure, ndarray]`: The figure and its panels, an array of shape (2,) or (3,).

    Raises:
        ValueError: If the log history has none of a panel's keys, its steps go backwards, or `window` is below 1.

    Example:
        >>> log_history = [{"step": step, "score/accuracy_t1": 0.5, "score/delta_t1_t2": 0.1} for step in range(3)]
        >>> fig, axes = plot_training_curves(log_history)
        >>> axes[0].get_ylabel()
        'accuracy'
    """
    num_panels = 3 if with_kl else 2
    fig, axes = new_figure(num_panels, 1, size=(8, 2.6 * num_panels + 0.4), sharex=True)
    panels = axes[:, 0]
    spans = stage_spans(log_history)
    _draw_panel(panels[0], log_history, _ACCURACY_LINES, "accuracy", window, spans, base)
    _draw_panel(panels[1], log_history, _CHANGE_LINES, "share of problems", window, spans, base)
    panels[1].axhline(0, color=GREY, linewidth=0.8)
    percent_axis(panels[0])
    percent_axis(panels[1])
    if with_kl:
        _draw_panel(panels[2], log_history, _KL_LINES, "KL to base\n(nats per turn)", window, spans)
    for panel in panels:
        mark_stages(panel, spans, labels=panel is panels[0])
    panels[-1].set_xlabel("training step")
    fig.align_ylabels()
    return fig, panels


@in_house_style
def plot_kl_per_turn(log_history: LogHistory, *, window: int | None = None) -> tuple["Figure", "Axes"]:
    """
    Draw how far each turn has moved from the reference, in nats.

    Args:
        log_history (`list[dict]`):
            The logged dicts, as [`read_log_history`] reads them.
        window (`int`, *optional*):
            Number of points that the bold line averages. By default a twentieth of those logged.

    Returns:
        `tuple[Figure, Axes]`: The figure and its panel.

    Raises:
        ValueError: If no KL was logged, the steps go backwards, or `window` is below 1.

    Example:
        >>> fig, ax = plot_kl_per_turn([{"step": 1, "score/kl_t1": 0.1, "score/kl_t2": 0.3}])
        >>> [line.get_label() for line in ax.get_lines() if not line.get_label().startswith("_")]
        ['turn 1', 'turn 2']
    """
    return _plot_lines(log_history, _KL_LINES, "KL to base (nats per turn)", window)


@in_house_style
def plot_turn_lengths(log_history: LogHistory, *, window: int | None = None) -> tuple["Figure", "Axes"]:
    """
    Draw the mean length of each turn, in tokens.

    Args:
        log_history (`list[dict]`):
            The logged dicts, as [`read_log_history`] reads them.
        window (`int`, *optional*):
            Number of points that the bold line averages. By default a twentieth of those logged.

    Returns:
        `tuple[Figure, Axes]`: The figure and its panel.

    Raises:
        ValueError: If no length was logged, the steps go backwards, or `window` is below 1.

    Example:
        >>> fig, ax = plot_turn_lengths([{"step": 1, "score/length_t1": 12.0, "score/length_t2": 14.0}])
        >>> ax.get_ylabel()
        'mean length (tokens)'
    """
    return _plot_lines(log_history, _LENGTH_LINES, "mean length (tokens)", window)


@in_house_style
def plot_answer_change_rate(
    log_histories: Mapping[str, LogHistory], *, window: int | None = None
) -> tuple["Figure", "Axes"]:
    """
    Draw how often turn 2 gives another answer than turn 1, for one run or several (Figure 5b of arXiv 2409.12917).

    A rate that falls to 0 is the mark of a model that no longer tries to correct itself.

    Args:
        log_histories (`Mapping[str, list[dict]]`):
            The log history of each run by its label.
        window (`int`, *optional*):
            Number of points that the bold lines average. By default a twentieth of those logged.

    Returns:
        `tuple[Figure, Axes]`: The figure and its panel. Stage boundaries are those of the first run that has any.

    Raises:
        ValueError: If there is no run, a run did not log the rate, its steps go backwards, or `window` is below 1.

    Example:
        >>> fig, ax = plot_answer_change_rate({"SCoRe": [{"step": 1, "score/answers_changed": 0.3}]})
        >>> ax.get_ylabel()
        'answers changed'
    """
    if not log_histories:
        raise ValueError("Expected the log history of at least one run, got none.")
    fig, axes = new_figure(size=(8, 3.4))
    ax = axes[0, 0]
    all_spans = [stage_spans(log_history) for log_history in log_histories.values()]
    for number, (label, log_history) in enumerate(log_histories.items()):
        colour = RUN_COLOURS[number % len(RUN_COLOURS)]
        line_style = RUN_LINE_STYLES[number % len(RUN_LINE_STYLES)]
        lines = (("score/answers_changed", label, colour, line_style),)
        _draw_panel(ax, log_history, lines, "answers changed", window, all_spans[number])
    ax.set_ylim(bottom=0)
    percent_axis(ax)
    mark_stages(ax, next((spans for spans in all_spans if spans), []))
    ax.set_xlabel("training step")
    return fig, ax


def _plot_lines(
    log_history: LogHistory, lines: Sequence[Line], label: str, window: int | None
) -> tuple["Figure", "Axes"]:
    fig, axes = new_figure(size=(8, 3.4))
    ax = axes[0, 0]
    spans = stage_spans(log_history)
    _draw_panel(ax, log_history, lines, label, window, spans)
    mark_stages(ax, spans)
    ax.set_xlabel("training step")
    return fig, ax


def _draw_panel(
    ax: "Axes",
    log_history: LogHistory,
    lines: Sequence[Line],
    y_label: str,
    window: int | None,
    spans: Sequence[StageSpan],
    base: Mapping[str, Mapping[str, float | None]] | None = None,
) -> None:
    check_logged(log_history, [key for key, *_ in lines])
    for key, label, colour, line_style in lines:
        series, evaluated = get_series(log_history, key), get_series(log_history, f"eval_{key}")
        if len(series.steps):
            _draw_run(ax, series, spans, window, label, colour, line_style)
        if len(evaluated.steps):
            ax.plot(*evaluated, "o", color=colour, markeredgecolor="white", label=f"{label}, eval")
        level = (base or {}).get(key.removeprefix("score/"), {}).get("value")
        if level is not None:
            ax.axhline(level, color=colour, linewidth=1, linestyle=(0, (2, 2)), label=f"{label}, base")
    ax.set_ylabel(y_label)
    legend_beside(ax)


def _draw_run(
    ax: "Axes", series: Series, spans: Sequence[StageSpan], window: int | None, label: str, colour: str, line_style: str
) -> None:
    if window is None:
        window = max(1, len(series.steps) // _SMOOTHED_SHARE)
    mean = smooth(series, spans, window)
    ax.plot(*series, color=colour, alpha=0.25, linewidth=1)
    ax.plot(*mean, color=colour, linestyle=line_style, linewidth=2, label=label)
