"""
How every figure looks, and how it is saved.

Figures are drawn on opaque white, also on a dark page: one file then serves paper, README and report, and its text
keeps its contrast wherever it is shown. Colours are those of Okabe and Ito, which people with any of the common colour
deficiencies can tell apart. Line style or marker says the same once more, for print without colour.

matplotlib is imported when a figure is drawn, not when this module is.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from trl_score.plots.log_history import StageSpan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

P = ParamSpec("P")
Drawn = TypeVar("Drawn")

TURN_COLOURS = ("#0072B2", "#D55E00")  # blue for turn 1, vermilion for turn 2
CHANGE_COLOURS = ("#000000", "#009E73", "#CC79A7")  # black for delta, green for i->c, purple for c->i
RUN_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
RUN_LINE_STYLES = ("-", "--", "-.", ":")
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#595959"

_STAGE_NAMES = {1: "Stage I", 2: "Stage II"}
_STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "axes.facecolor": "white",
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": "black",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": "#DDDDDD",
    "legend.fontsize": 10,
    "legend.frameon": False,
    "text.color": "black",
    "xtick.color": "black",
    "ytick.color": "black",
}


def in_house_style(plot: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """
    Make a plot function draw in the house style, whatever style its caller has set.

    Args:
        plot (`Callable`):
            The function.

    Returns:
        `Callable`: The same function, in the house style.
    """

    @functools.wraps(plot)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        from matplotlib import rc_context, rcParamsDefault

        # The caller's style is undone first: it may set what the house style leaves to the default. The backend is not
        # part of a style, and must stay.
        defaults = {name: value for name, value in rcParamsDefault.items() if not name.startswith("backend")}
        with rc_context({**defaults, **_STYLE}):
            return plot(*args, **kwargs)

    return styled


def new_figure(
    num_rows: int = 1, num_columns: int = 1, *, size: tuple[float, float], **options: Any
) -> tuple["Figure", "NDArray[Any]"]:
    """
    Make an empty figure.

    Args:
        num_rows (`int`, *optional*, defaults to `1`):
            Rows of panels.
        num_columns (`int`, *optional*, defaults to `1`):
            Columns of panels.
        size (`tuple[float, float]`):
            Width and height in inches.
        **options:
            Passed to `matplotlib.pyplot.subplots`, for instance `sharex`.

    Returns:
        `tuple[Figure, ndarray]`: The figure and its axes, an array of shape (num_rows, num_columns).

    Example:
        >>> fig, axes = new_figure(2, 1, size=(4, 3))
        >>> axes.shape
        (2, 1)
    """
    from matplotlib import pyplot

    return pyplot.subplots(num_rows, num_columns, figsize=size, squeeze=False, layout="constrained", **options)


def save_figure(fig: "Figure", path: str | Path) -> tuple[Path, Path]:
    """
    Save a figure as PNG and as SVG. The same figure gives the same bytes, so that a diff shows real changes only.

    Args:
        fig (`Figure`):
            The figure.
        path (`str` or `Path`):
            Where to, with or without `.png` or `.svg`. Missing folders are made.

    Returns:
        `tuple[Path, Path]`: The PNG and the SVG file.
    """
    from matplotlib import rc_context

    stem = Path(path)
    if stem.suffix in (".png", ".svg"):
        stem = stem.with_suffix("")
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".svg"))
    # The date and the version of the library are what would differ between two equal figures, and random ids in an SVG.
    with rc_context({"svg.hashsalt": "trl_score"}):
        fig.savefig(png, dpi=200, metadata={"Software": None})
        fig.savefig(svg, metadata={"Date": None, "Creator": None})
    return png, svg


def legend_beside(ax: "Axes") -> None:
    """
    Put the legend to the right of the panel, where it covers no data.

    Args:
        ax (`Axes`):
            The panel.
    """
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def mark_stages(ax: "Axes", spans: list[StageSpan], *, labels: bool = True) -> None:
    """
    Draw the boundary between stages, and name the stages above the panel.

    Args:
        ax (`Axes`):
            The panel, with training steps along x.
        spans (`list[StageSpan]`):
            The stages.
        labels (`bool`, *optional*, defaults to `True`):
            Whether to write the names.
    """
    for span in spans[1:]:
        ax.axvline(span.start, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    for span in spans if labels else ():
        name = _STAGE_NAMES.get(span.stage, f"Stage {span.stage}")
        middle = (span.start + span.end) / 2
        ax.text(middle, 1.02, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", color=GREY)


def percent_axis(ax: "Axes") -> None:
    """
    Label the y axis of shares in percent.

    Args:
        ax (`Axes`):
            The panel.
    """
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%".replace("-", "−"))
