"""What the laboratory found: the numbers of all runs in one `summary.json`, and its tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab_jobs import read_result
from lab_statistics import compare_seeds, t_interval
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table

from trl_score.evaluation.tables import print_self_correction_tables
from trl_score.metrics import compare_means
from trl_score.plots import TurnRecord, read_records

METHODS = {
    "base": "base",
    "self_refine": "Self-Refine",
    "star_plus": "STaR D+",
    "pair_sft": "Pair-SFT",
    "single_turn_rl": "single-turn RL",
    "multi_turn_rl": "multi-turn RL",
    "score_no_stage_1": "SCoRe without Stage I",
    "score_no_shaping": "SCoRe without shaping",
    "score_star_stage_2": "STaR for Stage II",
    "score": "SCoRe",
}
"""Method -> its label, in the order of the paper's tables 2 and 4."""

REFERENCE = "score"
"""The method that all others are compared with."""

RECORDS = {"greedy": "records.jsonl", "sampled": "records_sampled.jsonl"}
TABLE_METRICS = ("accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i")
COMPARED = ("accuracy_t1", "accuracy_t2", "delta_t1_t2")


def summarise(folder: Path, methods: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """
    Brings the finished runs together.

    Args:
        folder (`Path`):
            The laboratory's folder, with `METHOD/seedN` in it.
        methods (`Sequence[str]`):
            The methods, of which all have finished all seeds.
        seeds (`Sequence[int]`):
            The seeds.

    Returns:
        `dict`: what `summary.json` holds, see docs/lab.md.
    """
    runs = {
        method: [json.loads((folder / method / f"seed{seed}" / "summary.json").read_text()) for seed in seeds]
        for method in methods
    }
    results = {method: [read_result(folder / method / f"seed{seed}") for seed in seeds] for method in methods}
    summary: dict[str, Any] = {
        method: {
            **{decoding: over_seeds([run["trained"][decoding] for run in runs[method]]) for decoding in RECORDS},
            "samples": [run["samples"] for run in runs[method]],
            "updates": [run["updates"] for run in runs[method]],
            "seconds": [result["seconds"] for result in results[method]],
            "commits": sorted({str(result["commit"]) for result in results[method]}),
        }
        for method in methods
    }
    if REFERENCE in methods:
        for method in (method for method in methods if method != REFERENCE):
            summary[method]["against_score"] = compare_with_reference(folder, method, seeds, summary)
    some_run = runs[methods[0]][0]
    return summary | {"seeds": list(seeds), "num_problems": some_run["num_problems"], "versions": some_run["versions"]}


def over_seeds(metrics_of_seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """
    Gives each metric's mean over seeds with its t interval, and each seed's value.

    Args:
        metrics_of_seeds (`Sequence[Mapping]`):
            For each seed the metrics as a run's `summary.json` holds them.

    Returns:
        `dict`: metric -> `value`, `low`, `high` and `seeds`.

    Example:

    ```python
    >>> over_seeds([{"accuracy_t1": {"value": 0.5}}, {"accuracy_t1": {"value": 0.5}}])
    {'accuracy_t1': {'value': 0.5, 'low': 0.5, 'high': 0.5, 'seeds': [0.5, 0.5]}}

    ```
    """
    values = {name: [metrics[name]["value"] for metrics in metrics_of_seeds] for name in metrics_of_seeds[0]}
    return {name: t_interval(of_seeds).as_dict() | {"seeds": of_seeds} for name, of_seeds in values.items()}


def compare_with_reference(
    folder: Path, method: str, seeds: Sequence[int], summary: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """
    Tests a method against SCoRe in two ways: the same problems, pooled over seeds, and the same seeds.

    Args:
        folder (`Path`):
            The laboratory's folder.
        method (`str`):
            The method.
        seeds (`Sequence[int]`):
            The seeds.
        summary (`Mapping`):
            The metrics of all methods over seeds.

    Returns:
        `dict`: decoding -> metric -> `problems` and `seeds`, each with the difference (SCoRe less the method) and its
        p-value.
    """
    compared: dict[str, dict[str, Any]] = {}
    for decoding, file in RECORDS.items():
        records, of_reference = (
            [record for seed in seeds for record in read_records(folder / name / f"seed{seed}" / file)]
            for name in (method, REFERENCE)
        )
        compared[decoding] = {
            metric: {
                "problems": compare_records(records, of_reference, metric),
                "seeds": as_json(
                    compare_seeds(*(summary[name][decoding][metric]["seeds"] for name in (method, REFERENCE)))
                ),
            }
            for metric in COMPARED
        }
    return compared


def compare_records(records: Sequence[TurnRecord], of_reference: Sequence[TurnRecord], metric: str) -> dict[str, Any]:
    """
    Tests two methods on the same problems. A problem is resampled and flipped with all its seeds.

    Args:
        records (`Sequence[TurnRecord]`):
            The method's, of all seeds.
        of_reference (`Sequence[TurnRecord]`):
            The reference's, in the same order.
        metric (`str`):
            One of `COMPARED`.

    Returns:
        `dict`: `difference` (the reference less the method) and `p_value`.

    Raises:
        `ValueError`: If the two were not given the same problems in the same order.
    """
    problems = [record.question for record in records]
    if problems != [record.question for record in of_reference]:
        raise ValueError(
            f"Expected records of the same problems in the same order, got {len(records)} and {len(of_reference)} that "
            "differ. Were the runs made with one configuration?"
        )
    values, reference_values = ([_value_of(record, metric) for record in side] for side in (records, of_reference))
    return as_json(compare_means(values, reference_values, groups=problems))


def as_json(comparison: Any) -> dict[str, Any]:
    """Gives the difference and the p-value of a comparison as JSON can hold them."""
    p_value = comparison.p_value
    return {"difference": comparison.difference.as_dict(), "p_value": None if p_value != p_value else p_value}


def _value_of(record: TurnRecord, metric: str) -> float | None:
    first, second = record.correct
    if metric == "delta_t1_t2":
        return None if first is None or second is None else second - first
    return {"accuracy_t1": first, "accuracy_t2": second}[metric]


def print_tables(console: Console, summary: Mapping[str, Any]) -> None:
    """
    Prints the paper's table over seeds, greedy and sampled, and each method against SCoRe.

    Args:
        console ([`~rich.console.Console`]):
            Where to.
        summary (`Mapping`):
            As [`summarise`] gives it.
    """
    methods = [method for method in METHODS if method in summary]
    console.print(f"Means over seeds {', '.join(map(str, summary['seeds']))}, intervals over seeds (Student's t).")
    print_self_correction_tables(
        {METHODS[method]: {decoding: summary[method][decoding] for decoding in RECORDS} for method in methods},
        num_problems=summary["num_problems"],
        console=console,
    )
    for decoding in RECORDS:
        console.print(_comparison_table(summary, methods, decoding))


def markdown_tables(summary: Mapping[str, Any]) -> str:
    """
    Writes the tables as Markdown, as docs/lab.md shows them.

    Args:
        summary (`Mapping`):
            As [`summarise`] gives it.

    Returns:
        `str`: for each decoding the paper's table, and each method against SCoRe.
    """
    methods = [method for method in METHODS if method in summary]
    blocks = []
    for decoding in RECORDS:
        rows = [(METHODS[method], *_metric_cells(summary[method][decoding])) for method in methods]
        blocks.append(_markdown((decoding, "turn 1", "turn 2", "Δ(t1, t2)", "Δ i→c", "Δ c→i"), rows))
    for decoding in RECORDS:
        rows = [
            (METHODS[method], *_comparison_cells(compared["accuracy_t2"]), *_comparison_cells(compared["delta_t1_t2"]))
            for method in methods
            if "against_score" in summary[method]
            for compared in [summary[method]["against_score"][decoding]]
        ]
        heading = (
            f"SCoRe less ..., {decoding}",
            "turn 2",
            "p seeds",
            "p problems",
            "Δ(t1, t2)",
            "p seeds",
            "p problems",
        )
        blocks.append(_markdown(heading, rows))
    return "\n".join(blocks)


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _metric_cells(metrics: Mapping[str, Any]) -> list[str]:
    """Mean and half the width of the interval, in percent."""
    cells = []
    for name in TABLE_METRICS:
        metric = metrics[name]
        sign = "+" if name == "delta_t1_t2" else ""
        half = "" if metric["high"] is None else f" ± {100 * (metric['high'] - metric['value']):.1f}"
        cells.append(f"{_points(metric['value']):{sign}.1f}{half}")
    return cells


def _points(share: float) -> float:
    """Percentage points with one decimal; what rounds to 0 has no sign."""
    return round(100 * share, 1) + 0.0


def _comparison_table(summary: Mapping[str, Any], methods: Sequence[str], decoding: str) -> Table:
    title = f"{decoding.capitalize()}: SCoRe less the method (points), p over seeds and over problems"
    table = Table(title=title, title_justify="left", box=HORIZONTALS)
    table.add_column("", overflow="fold")
    for heading in ("turn 2", "p seeds", "p problems", "delta", "p seeds", "p problems"):
        table.add_column(heading, justify="right", no_wrap=True)
    for method in methods:
        if "against_score" in summary[method]:
            compared = summary[method]["against_score"][decoding]
            table.add_row(
                METHODS[method],
                *_comparison_cells(compared["accuracy_t2"]),
                *_comparison_cells(compared["delta_t1_t2"]),
            )
    return table


def _comparison_cells(compared: Mapping[str, Any]) -> list[str]:
    p_values = [compared[over]["p_value"] for over in ("seeds", "problems")]
    shown = ("–" if p_value is None else f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001" for p_value in p_values)
    return [f"{_points(compared['seeds']['difference']['value']):+.1f}", *shown]
