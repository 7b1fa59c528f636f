"""
What a run's folder says of how it went, for its card: tables of metrics with their intervals, and figures.

Read from `summary.json` and `metrics.json`, from records of evaluations, and from the trainer's log. Whatever is not
there is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_score.log_keys import CLOUD_LOG_KEYS, SCORE_LOG_KEYS
from trl_score.plots.log_history import find_trainer_state, read_json, read_log_history
from trl_score.plots.run_folder import Run, read_run
from trl_score.plots.run_metrics import EvaluatedModel, Numbers, evaluated_models
from trl_score.plots.runs import FIGURE_CAPTIONS, figures_of_runs
from trl_score.plots.style import save_figure

FIGURES_FOLDER = "figures"
_COLUMNS = {
    "accuracy_t1": "turn 1",
    "accuracy_t2": "turn 2",
    "delta_t1_t2": "Δ(t1, t2)",
    "delta_i_to_c": "i→c",
    "delta_c_to_i": "c→i",
    "answers_changed": "answers changed",
}
_SIGNED = "delta_t1_t2"
_TURNS_TITLE = "Both turns, in % with 95% intervals over problems"
# Of what an evaluation logs, what says how good the model is.
_LOGGED = (
    *("score/accuracy_t1", "score/accuracy_t2", "score/delta_t1_t2", "score/delta_i_to_c", "score/delta_c_to_i"),
    *("cloud/accuracy", "cloud/critique_accuracy"),
)


@dataclass(frozen=True)
class ResultTable:
    """
    One table of results.

    Args:
        title (`str`):
            What was measured.
        columns (`Sequence[str]`):
            The heads of its columns.
        rows (`Sequence[Sequence[str]]`):
            The cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def read_run_or_none(folder: Path) -> Run | None:
    """
    Read a run's folder, without its tables of rollouts, which nothing here is made from.

    Args:
        folder (`Path`):
            The folder.

    Returns:
        `Run`, *optional*: The run; `None` if neither a log nor records lie in the folder.

    Raises:
        ValueError: If one of its files is cut off.
    """
    has_records = next(folder.rglob("records*.jsonl"), None) is not None
    return read_run(folder, with_tables=False) if has_records or _has_log(folder) else None


def _has_log(folder: Path) -> bool:
    """Whether anything was logged: a checkpoint may be older than the first entry."""
    state = find_trainer_state(folder)
    return state is not None and bool(read_json(state).get("log_history"))


def result_tables(folder: Path) -> list[ResultTable]:
    """
    Make the tables of results.

    Args:
        folder (`Path`):
            A run's folder.

    Returns:
        `list[ResultTable]`: None where nothing was evaluated.

    Raises:
        ValueError: If a file is cut off, or no problem of an evaluation could be scored.
    """
    tables = [_table_of_turns(folder) or _table_of_metrics(folder), _table_of_pairs(folder), _table_of_log(folder)]
    return [table for table in tables if table is not None]


def main_results(folder: Path) -> dict[str, float]:
    """
    Choose the numbers that stand for the model: of the last stage, greedy if that was evaluated.

    Args:
        folder (`Path`):
            A run's folder.

    Returns:
        `dict[str, float]`: Metrics of docs/metrics.md as shares, by name; empty where nothing was evaluated.

    Raises:
        ValueError: If a file is cut off, or no problem of an evaluation could be scored.
    """
    models = [model for model in _evaluated(folder) if "base" not in model.label.split(", ")]
    # The summary compares the stages; records may be of anything.
    models = [model for model in models if not model.label.startswith("records")] or models
    if not models:
        logged = _last_evaluation(folder)
        return {key.partition("/")[2]: logged[f"eval_{key}"] for key in _LOGGED if f"eval_{key}" in logged}
    last = models[-1].label.partition(",")[0]
    of_last = [model for model in models if model.label.partition(",")[0] == last]
    metrics = next((model for model in of_last if "greedy" in model.label), of_last[-1]).metrics
    values = {name: metrics[name]["value"] for name in _COLUMNS if name in metrics}
    return {name: value for name, value in values.items() if value is not None}


def figures(folder: Path) -> dict[str, str]:
    """
    Find the figures that lie in a run's folder.

    Args:
        folder (`Path`):
            The folder.

    Returns:
        `dict[str, str]`: The caption of each, by its path in the folder.
    """
    places = [*sorted(folder.glob("*.png")), *sorted((folder / FIGURES_FOLDER).glob("*.png"))]
    ranked = sorted(
        places, key=lambda place: list(FIGURE_CAPTIONS).index(place.stem) if place.stem in FIGURE_CAPTIONS else 99
    )
    return {place.relative_to(folder).as_posix(): _caption(place.stem) for place in ranked}


def draw_figures(folder: Path) -> None:
    """
    Draw the figures that a card shows, as far as the run has the numbers for them, into the folder's `figures/`.

    Args:
        folder (`Path`):
            The folder. What lies beside `figures/` under the same name is shown instead, and not drawn again.

    Raises:
        ValueError: If one of its files is cut off.
    """
    from matplotlib import pyplot

    run = read_run_or_none(folder)
    there = {place.stem for place in folder.glob("*.png")}
    possible = figures_of_runs([run]) if run and _can_draw(run) else {}
    wanted = ("training_curves", "stage_summary" if "stage_summary" in possible else "accuracy_by_turn")
    for name, draw in possible.items():
        if name in wanted and name not in there:
            figure, _ = draw()
            _, svg = save_figure(figure, folder / FIGURES_FOLDER / name)
            svg.unlink()  # the card shows pictures of one kind
            pyplot.close(figure)


def write_number(numbers: Numbers, *, is_signed: bool = False) -> str:
    """
    Write a share and its 95% interval for a table, in per cent.

    Args:
        numbers (`Mapping[str, float | None]`):
            `value`, and perhaps `low` and `high`.
        is_signed (`bool`, *optional*, defaults to `False`):
            Whether to write the sign of positive numbers too.

    Returns:
        `str`: The text.

    Example:
        >>> write_number({"value": 0.953, "low": 0.941, "high": 0.964})
        '95.3 (94.1 to 96.4)'
        >>> write_number({"value": -0.0451}, is_signed=True)
        '−4.5'
    """
    value, low, high = (
        "–" if number is None else f"{100 * number:{'+' if is_signed else ''}.1f}".replace("-", "−")
        for number in (numbers.get("value"), numbers.get("low"), numbers.get("high"))
    )
    return value if low == "–" else f"{value} ({low} to {high})"


def _evaluated(folder: Path) -> list[EvaluatedModel]:
    run = read_run_or_none(folder)
    return evaluated_models(run) if run else []


def _table_of_turns(folder: Path) -> ResultTable | None:
    rows = [
        [
            model.label,
            "–" if model.num_problems is None else str(model.num_problems),
            *(write_number(model.metrics.get(name, {}), is_signed=name == _SIGNED) for name in _COLUMNS),
        ]
        for model in _evaluated(folder)
    ]
    return ResultTable(_TURNS_TITLE, ["", "n", *_COLUMNS.values()], rows) if rows else None


def _table_of_metrics(folder: Path) -> ResultTable | None:
    """The pairs of turns of an evaluation whose records are not there."""
    metrics = _read(folder / "metrics.json")
    rows = []
    for name, pair in (metrics.get("pairs") or {}).items():
        first, last = name.split("_")
        keys = [f"accuracy_{first}", f"accuracy_{last}", f"delta_{name}", *list(_COLUMNS)[3:]]
        numbers = [write_number((pair or {}).get(key, {}), is_signed=key.startswith("delta_t")) for key in keys]
        rows.append([f"turns {first[1:]} and {last[1:]}", str(metrics.get("num_problems", "–")), *numbers])
    columns = ["", "n", "first of them", "second", *list(_COLUMNS.values())[2:]]
    return ResultTable(_TURNS_TITLE, columns, rows) if rows else None


def _table_of_pairs(folder: Path) -> ResultTable | None:
    summary = _read(folder / "summary.json")
    rows = [[name, write_number(entry["accuracy"])] for name, entry in summary.items() if _is_measured(entry)]
    title = f"Held-out pairs ordered rightly, of {summary.get('num_pairs', '?')}, in % with 95% intervals"
    return ResultTable(title, ["", "accuracy"], rows) if rows else None


def _is_measured(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("accuracy"), dict)


def _table_of_log(folder: Path) -> ResultTable | None:
    logged = _last_evaluation(folder)
    says = SCORE_LOG_KEYS | CLOUD_LOG_KEYS
    rows = [
        [f"`{key}`", write_number({"value": logged[f"eval_{key}"]}, is_signed=key.endswith(_SIGNED)), says[key]]
        for key in _LOGGED
        if f"eval_{key}" in logged
    ]
    title = f"Last evaluation in training, step {logged.get('step')}, in %"
    return ResultTable(title, ["key", "value", "what it is"], rows) if rows else None


def _last_evaluation(folder: Path) -> Mapping[str, Any]:
    if not _has_log(folder):
        return {}
    keys = {f"eval_{key}" for key in _LOGGED}
    return next((entry for entry in reversed(read_log_history(folder)) if keys & set(entry)), {})


def _read(file: Path) -> Mapping[str, Any]:
    content = read_json(file) if file.is_file() else {}
    return content if isinstance(content, dict) else {}


def _can_draw(run: Run) -> bool:
    """Whether there is anything to draw, and curves are more than a point."""
    steps = {entry.get("step") for entry in run.log_history if entry.keys() & SCORE_LOG_KEYS.keys()}
    return len(steps) > 1 or bool(run.records)


def _caption(name: str) -> str:
    title, text = FIGURE_CAPTIONS.get(name, (name.replace("_", " ").capitalize(), ""))
    return f"{title}. {text}".strip()
