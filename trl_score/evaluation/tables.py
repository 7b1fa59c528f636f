"""
The paper's table (arXiv 2409.12917, tables 1 to 3) in a terminal: accuracy of both turns, delta, fixed, broken.

Last step of an evaluation; what it shows may also come from a `summary.json` or a `metrics.json`. Torch-free.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trl_score.metrics import Interval, McNemarTest, PairedComparison

Metrics: TypeAlias = Mapping[str, Interval | Mapping[str, float | None]]
"""Metrics of a pair of turns by name: as `self_correction_metrics` gives them, or as JSON holds them."""

_OF_SAMPLES = {
    "pass_at_k": "pass@k of each turn, by k",
    "maj_at_k": "maj@k of each turn, by k",
    "inference_scaling": "Majority of 2K first turns or K corrected, by 2K",
}
_COUNTS = {
    "num_failed": "had no reply from the endpoint, are not scored, and are asked again by the next run",
    "num_unscorable": "could not be scored at turn 1 or the last turn and are in no difference",
}
_NUMBERS = ("value", "low", "high")
_PAIR_KEY = re.compile(r"delta_t(\d+)_t(\d+)")


def print_self_correction_tables(
    rows: Mapping[str, Mapping[str, Metrics]], *, num_problems: int, console: Console | None = None
) -> None:
    """
    Prints a table for each way of decoding, in which each label has a row; 80 columns wide.

    Args:
        rows (`Mapping[str, Mapping[str, Metrics]]`):
            Label -> decoding, such as `"greedy"` -> metrics. A label that lacks a decoding has no row in its table.
        num_problems (`int`):
            Problems that the metrics were measured on, for the title.
        console ([`~rich.console.Console`], *optional*):
            Where to print.

    Example:

    ```python
    >>> base = {name: Interval(0.6, 0.5, 0.7) for name in ("accuracy_t1", "accuracy_t2", "delta_i_to_c")}
    >>> base |= {"delta_t1_t2": Interval(0, -0.1, 0.1), "delta_c_to_i": Interval(0.5, 0.4, 0.6)}
    >>> print_self_correction_tables({"base": {"greedy": base}}, num_problems=100)
    Greedy, 100 problems (%, below it the 95% interval)
    ─────────────────────────────────────────────────────────────────────
               turn 1      turn 2          delta        i->c        c->i
    ─────────────────────────────────────────────────────────────────────
     base        60.0        60.0           +0.0        60.0        50.0
            50.0-70.0   50.0-70.0   -10.0, +10.0   50.0-70.0   40.0-60.0
    ─────────────────────────────────────────────────────────────────────

    ```
    """
    console = console or Console()
    for decoding in dict.fromkeys(decoding for by_decoding in rows.values() for decoding in by_decoding):
        shown = {label: by_decoding[decoding] for label, by_decoding in rows.items() if decoding in by_decoding}
        title = f"{decoding.capitalize()}, {num_problems} problems (%, below it the 95% interval)"
        console.print(self_correction_table(shown, title=title))


def print_summary(console: Console, label: str, summary: Mapping[str, Any]) -> None:
    """
    Prints what a `metrics.json` says: the paper's table, and where there is such a thing the accuracy at each of many
    turns, by level, by task, and of several samples.

    Args:
        console ([`~rich.console.Console`]):
            Where to print.
        label (`str`):
            What the model is called.
        summary (`Mapping`):
            The content of a `metrics.json`, see docs/evaluation.md.
    """
    num_turns = len(summary["accuracy_by_turn"])
    decoding = "sampled" if summary["evaluation"]["do_sample"] else "greedy"
    main_pair = f"t1_t{num_turns}"
    if num_turns > 1:
        rows = {label: {decoding: summary["pairs"][main_pair]}}
        print_self_correction_tables(rows, num_problems=summary["num_problems"], console=console)
    if num_turns != 2:
        by_turn = {f"turn {turn}": {"": interval} for turn, interval in enumerate(summary["accuracy_by_turn"], start=1)}
        _print_numbers(console, f"Accuracy of {label} by turn, {decoding}", by_turn)
    for group, name in (("by_level", "level"), ("by_task", "task")):
        tables = {f"{name} {value}": table["pairs"].get(main_pair) for value, table in summary[group].items()}
        shown = {value: table for value, table in tables.items() if table is not None}
        if len(shown) > 1:
            console.print(self_correction_table(shown, title=f"By {name}, {decoding}"))
    for key, title in _OF_SAMPLES.items():
        if key in summary:
            _print_numbers(console, title, summary[key])
    for key, told in _COUNTS.items():
        if summary[key]:
            console.print(f"{summary[key]} of {summary['num_records']} answers {told}.", soft_wrap=True)


def print_comparison(console: Console, comparison: Mapping[str, Any]) -> None:
    """
    Prints the paired tests of two models.

    Args:
        console ([`~rich.console.Console`]):
            Where to print.
        comparison (`Mapping`):
            As [`~trl_score.evaluation.comparison.compare_records`] gives it.
    """
    console.print(
        f"This model less the other, {comparison['num_records']} answers of both (%, below it the 95% interval)",
        soft_wrap=True,
    )
    table = Table(box=HORIZONTALS)
    for heading in ("", "difference", "p, sign flips", "p, McNemar"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, result in comparison.items():
        if not isinstance(result, PairedComparison):
            continue
        is_accuracy, turn = name.startswith("accuracy_"), name.removeprefix("accuracy_")
        table.add_row(
            turn.replace("t", "turn ") if is_accuracy else "delta",
            _percent(result.difference, is_signed=True),
            _p_value(result.p_value),
            _mcnemar_cell(comparison.get(f"mcnemar_{turn}") if is_accuracy else None),
        )
    console.print(table)


def self_correction_table(rows: Mapping[str, Metrics], *, title: str) -> Table:
    """
    Makes the paper's table.

    Args:
        rows (`Mapping[str, Metrics]`):
            Label -> metrics of a pair of turns: the two accuracies, delta, and `delta_i_to_c` and `delta_c_to_i`.
        title (`str`):
            Its title.

    Returns:
        [`~rich.table.Table`]: the table, in percent. A number that is not defined is a dash.

    Raises:
        `ValueError`: If there is no row, or the rows are of unlike pairs of turns.
    """
    pairs = {_pair_of_turns(metrics) for metrics in rows.values()}
    if len(pairs) != 1:
        raise ValueError(f"Expected rows of one pair of turns, got {sorted(pairs)}. Make a table of each pair.")
    ((first, last),) = pairs
    columns = {
        f"turn {first}": f"accuracy_t{first}",
        f"turn {last}": f"accuracy_t{last}",
        "delta": f"delta_t{first}_t{last}",
        "i->c": "delta_i_to_c",
        "c->i": "delta_c_to_i",
    }
    table = Table(title=Text(title), title_justify="left", box=HORIZONTALS)
    table.add_column("", overflow="fold")  # a long label is broken, a number never
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for label, metrics in rows.items():
        cells = (_percent(metrics[key], is_signed=key.startswith("delta_t")) for key in columns.values())
        table.add_row(Text(label), *cells)  # no markup: a name may hold brackets
    return table


def _mcnemar_cell(test: McNemarTest | None) -> str:
    """The p-value, and below it how many problems only this model gets right, and only the other."""
    return "" if test is None else f"{_p_value(test.p_value)}\n[dim]{test.only_b} : {test.only_a}[/dim]"


def _p_value(value: float) -> str:
    """An exact test's can be far below what four decimals show, and is never 0."""
    return f"{value:.4f}" if value >= 0.00005 else "< 0.0001"


def _print_numbers(console: Console, title: str, rows: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> None:
    """A row of numbers with their bounds for each label. A title in such a narrow table would be broken."""
    console.print(f"{title} (%, below it the 95% interval)", soft_wrap=True, markup=False)
    table = Table(box=HORIZONTALS)
    table.add_column("", overflow="fold")
    headings = list(dict.fromkeys(heading for numbers in rows.values() for heading in numbers))
    for heading in headings:
        table.add_column(heading, justify="right")
    for label, numbers in rows.items():
        cells = [_percent(numbers[name], is_signed=False) if name in numbers else "" for name in headings]
        table.add_row(Text(label), *cells)  # no markup: a name may hold brackets
    console.print(table)


def _pair_of_turns(metrics: Metrics) -> tuple[int, int]:
    found = [match for key in metrics if (match := _PAIR_KEY.fullmatch(key))]
    if len(found) != 1:
        raise ValueError(f"Expected the metrics of one pair of turns, such as `delta_t1_t2`, got {sorted(metrics)}.")
    return int(found[0][1]), int(found[0][2])


def _percent(metric: Interval | Mapping[str, float | None], *, is_signed: bool) -> str:
    """A number in percent with its bounds below it."""
    numbers = metric.as_dict() if isinstance(metric, Interval) else metric
    sign = "+" if is_signed else ""
    value, low, high = ("–" if number is None else f"{100 * number:{sign}.1f}" for number in map(numbers.get, _NUMBERS))
    return f"{value}\n[dim]{low}{', ' if is_signed else '-'}{high}[/dim]"
