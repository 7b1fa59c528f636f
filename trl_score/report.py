"""
One self-contained HTML page on a run, from its folder alone: the table, the verdicts of the collapse detectors, the
figures, rollouts to look through, and the configuration.

Nothing in the page is fetched from elsewhere, so it can be mailed and kept. What a model wrote is untrusted: it is
escaped, and a content security policy lets no script run but the page's own.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_score.collapse import CollapseRule, CopyRule, KLBudgetRule, SandbaggingRule, TruncationRule
from trl_score.metrics.changed_words import mark_turns
from trl_score.plots.log_history import LogHistory, find_trainer_state, read_json
from trl_score.plots.records import TurnRecord
from trl_score.plots.run_folder import Run, read_run
from trl_score.plots.run_metrics import TABLE_METRICS, Numbers, evaluated_models
from trl_score.plots.runs import FIGURE_CAPTIONS, figures_of_runs, refuse_to_overwrite
from trl_score.plots.self_correction import STAGE_LABELS
from trl_score.plots.style import inline_svg
from trl_score.records import SCORE_CONFIG_FILE
from trl_score.report_page import PAGE, SCRIPT, STYLE

KINDS = ("fixed", "broken", "changed", "unchanged")
"""What rollouts can be filtered by; the last two speak of the final answer."""

_SIGNED = "delta_t1_t2"
_TONES = {"fixed": "good", "right": "good", "broken": "bad", "wrong": "bad"}
_CONFIGURATION_FILES = {SCORE_CONFIG_FILE: "SCoRe", "adapter_config.json": "Adapter", "config.json": "Model"}


@dataclass(frozen=True)
class Verdict:
    """
    What one collapse detector says of a training log.

    Args:
        detector (`str`):
            Its name.
        title (`str`):
            What it watches for.
        findings (`tuple[tuple[int, str], ...]`):
            Step and sentence of each time that it spoke.
        missing_key (`str`, *optional*):
            A key that it needs and that was not logged.
    """

    detector: str
    title: str
    findings: tuple[tuple[int, str], ...] = ()
    missing_key: str | None = None

    @property
    def status(self) -> str:
        """`str`: In a word or two."""
        if self.missing_key is not None:
            return f"Not checked, {self.missing_key} was not logged:"
        return "Found:" if self.findings else "Not found:"


def write_report(
    run_folder: str | Path, output: str | Path, *, num_rollouts: int = 50, overwrite: bool = False
) -> Path:
    """
    Write one HTML page on a run: the table, the figures, the configuration, the verdicts of the collapse detectors, and
    rollouts that can be filtered, with the changed words marked. It reads in light and in dark, and needs no network.

    Args:
        run_folder (`str` or `Path`):
            The folder of the run, of which whatever is there is shown: the log, the records of evaluations, the tables
            of rollouts, the summary and the configuration. Weights and pickles are not opened.
        output (`str` or `Path`):
            The file to write, or a folder, into which `report.html` is written.
        num_rollouts (`int`, *optional*, defaults to `50`):
            Most rollouts to show.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether a file that is there already may be replaced.

    Returns:
        `Path`: The file written.

    Raises:
        FileNotFoundError: If there is no such folder, or neither a log nor records lie in it.
        FileExistsError: If the file is there already and may not be replaced.
        ValueError: If a file of the run is cut off, there is nothing to draw, or `num_rollouts` is below 1.
    """
    if num_rollouts < 1:
        raise ValueError(f"Expected `num_rollouts` to be at least 1, got {num_rollouts}.")
    place = Path(output)
    place = place / "report.html" if place.is_dir() or not place.suffix else place
    refuse_to_overwrite([place], overwrite)
    page = render_report(read_run(run_folder), num_rollouts)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(page, encoding="utf-8")
    return place


def render_report(run: Run, num_rollouts: int) -> str:
    """
    Fill in the page.

    Args:
        run (`Run`):
            The run, as [`read_run`] reads it.
        num_rollouts (`int`):
            Most rollouts to show.

    Returns:
        `str`: The HTML.

    Raises:
        ValueError: If there is nothing to draw, or no problem of an evaluation could be scored.
    """
    from jinja2 import Environment, StrictUndefined

    source, records = _rollouts_to_show(run)
    chosen = choose_rollouts(records, num_rollouts)
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE)
    return template.render(
        label=run.label,
        columns=_column_names(run),
        rows=_table_rows(run),
        verdicts=replay_detectors(run.log_history),
        figures=_inline_figures(run),
        rollouts=[_describe_rollout(record) for record in chosen],
        num_rollouts=len(records),
        rollouts_source=source,
        counts=_count_kinds(records),
        buttons={"all": len(chosen), **_count_kinds(chosen)},
        configuration=_read_configuration(run),
        style=STYLE,
        script=SCRIPT,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
    )


def replay_detectors(log_history: LogHistory) -> list[Verdict]:
    """
    Let the collapse detectors, with their default thresholds, read a training log from its start.

    Args:
        log_history (`list[dict]`):
            The logged dicts.

    Returns:
        `list[Verdict]`: One of each detector; none if nothing of both turns was logged in training.

    Example:
        >>> log = {"score/accuracy_t1": 0.5, "score/answers_changed": 0.0, "score/edit_distance_ratio": 0.0}
        >>> copies = replay_detectors([{"step": step, **log} for step in range(1, 8)])[0]
        >>> copies.status, copies.findings[0][0]
        ('Found:', 5)
    """
    entries = [entry for entry in log_history if "score/accuracy_t1" in entry]
    if not entries:
        return []
    detectors: dict[str, tuple[str, CollapseRule]] = {
        "CopyDetector": ("Turn 2 copies turn 1", CopyRule()),
        "SandbaggingDetector": ("Turn 1 gets worse so that turn 2 can correct it", SandbaggingRule()),
        "KLBudgetDetector": ("A turn moves too far from the reference", KLBudgetRule()),
        "TruncationDetector": ("A length budget cuts turns off", TruncationRule()),
    }
    return [_replay(name, title, rule, entries) for name, (title, rule) in detectors.items()]


def choose_rollouts(records: Sequence[TurnRecord], num_rollouts: int) -> list[TurnRecord]:
    """
    Choose rollouts to look at: as many as there are of the rare kinds, filled up with the common ones.

    Args:
        records (`Sequence[TurnRecord]`):
            All rollouts.
        num_rollouts (`int`):
            Most to choose.

    Returns:
        `list[TurnRecord]`: Those that were fixed, broken, changed otherwise and unchanged, each in the order of the
        records. All kinds have equal shares, as far as there are enough of them.

    Example:
        >>> records = [TurnRecord("q", ("7", last), (0.0, float(last == "8")), ("7", last), "q") for last in "77778"]
        >>> [record.outcome for record in choose_rollouts(records, 2)]
        ['fixed', 'wrong']
    """
    queues: dict[str, list[TurnRecord]] = {kind: [] for kind in KINDS}
    for record in records:
        queues[kinds_of(record)[0]].append(record)
    ranked = [(rank, kind) for kind, queue in queues.items() for rank in range(len(queue))]
    kept = sorted(ranked, key=lambda place: place[0])[:num_rollouts]
    return [queues[kind][rank] for rank, kind in sorted(kept, key=lambda place: (KINDS.index(place[1]), place[0]))]


def kinds_of(record: TurnRecord) -> list[str]:
    """
    Name the filters that a rollout passes.

    Args:
        record ([`TurnRecord`]):
            The rollout.

    Returns:
        `list[str]`: One or two of `KINDS`, the rarer one first.

    Example:
        >>> kinds_of(TurnRecord("q", ("7", "8"), (0.0, 1.0), ("7", "8"), "q"))
        ['fixed', 'changed']
    """
    outcome = [record.outcome] if record.outcome in ("fixed", "broken") else []
    return [*outcome, "changed" if record.is_changed else "unchanged"]


def _replay(name: str, title: str, rule: CollapseRule, entries: LogHistory) -> Verdict:
    try:
        spoken = [(int(entry["step"]), rule.check(entry)) for entry in entries]
    except KeyError as error:
        return Verdict(name, title, missing_key=str(error.args[0]))
    return Verdict(name, title, tuple((step, message) for step, message in spoken if message is not None))


def _column_names(run: Run) -> list[str]:
    has_more = any(len(record.turns) > 2 for records in run.final_records.values() for record in records)
    return ["n", "turn 1", "last turn" if has_more else "turn 2", "Δ", "i→c", "c→i", "answers changed"]


def _table_rows(run: Run) -> list[dict[str, Any]]:
    return [_table_row(model.label, model.num_problems, model.metrics) for model in evaluated_models(run)]


def _table_row(label: str, num_problems: int | None, metrics: Mapping[str, Numbers]) -> dict[str, Any]:
    count = {"value": "–" if num_problems is None else str(num_problems), "interval": ""}
    return {"label": label, "cells": [count, *(_cell(metrics.get(name), name == _SIGNED) for name in TABLE_METRICS)]}


def _cell(metric: Numbers | None, is_signed: bool) -> dict[str, str]:
    if metric is None or metric["value"] is None:
        return {"value": "–", "interval": ""}
    value, low, high = (
        None if number is None else f"{100 * number:{'+' if is_signed else ''}.1f}".replace("-", "−")
        for number in (metric["value"], metric["low"], metric["high"])
    )
    return {"value": str(value), "interval": "" if low is None else f"{low} to {high}"}


def _inline_figures(run: Run) -> list[dict[str, str]]:
    from matplotlib import pyplot

    figures = []
    for name, draw in figures_of_runs([run]).items():
        title, text = FIGURE_CAPTIONS[name]
        fig, _ = draw()
        figures.append({"name": name, "title": title, "text": text, "svg": inline_svg(fig, name)})
        pyplot.close(fig)
    return figures


def _rollouts_to_show(run: Run) -> tuple[str, Sequence[TurnRecord]]:
    """The trained model's records if there are any, or else the last rollouts of evaluation or of training."""
    shown = {name: records for name, records in run.final_records.items() if not name.startswith("base")}
    for name, records in (shown or run.final_records).items():
        return f"the records of evaluation {name!r}" if name else "the records", records
    for kind, what in (("eval", "the last rollouts of evaluation"), ("train", "the last rollouts of training")):
        if kind in run.tables:
            return what, run.tables[kind]
    return "", []


def _count_kinds(records: Sequence[TurnRecord]) -> dict[str, int]:
    return {kind: sum(kind in kinds_of(record) for record in records) for kind in KINDS}


def _describe_rollout(record: TurnRecord) -> dict[str, Any]:
    rewards = ["not scorable" if reward is None else f"{reward:.4g}" for reward in record.rewards]
    return {
        "kinds": kinds_of(record),
        "outcome": record.outcome,
        "tone": _TONES.get(record.outcome, ""),
        "question": record.question,
        "turns": [
            {"reward": reward, "mark": "del" if number == 0 else "ins", "pieces": pieces}
            for number, (reward, pieces) in enumerate(zip(rewards, mark_turns(record.turns), strict=True))
        ],
    }


def _read_configuration(run: Run) -> dict[str, dict[str, str]]:
    groups: dict[str, Mapping[str, Any]] = {}
    for file, title in _CONFIGURATION_FILES.items():
        if (run.folder / file).is_file():
            groups[f"{title} ({file})"] = read_json(run.folder / file)
    state = find_trainer_state(run.folder)
    if state is not None:
        groups[f"Training ({state.name})"] = _settings_of_state(read_json(state))
    settings = {name: value for name, value in run.summary.items() if name not in STAGE_LABELS}
    if settings:
        groups["Final evaluation (summary.json)"] = settings
    return {title: {name: _write_value(value) for name, value in group.items()} for title, group in groups.items()}


def _settings_of_state(state: Mapping[str, Any]) -> dict[str, Any]:
    # The log is what the figures show; callbacks' states are the trainer's own business.
    return {name: value for name, value in state.items() if isinstance(value, (int, float, str))}


def _write_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
