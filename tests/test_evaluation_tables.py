"""The paper's table in a terminal: its numbers, their bounds, and that it fits into 80 columns."""

import io

import pytest
from rich.console import Console

from trl_score.evaluation_tables import print_self_correction_tables, self_correction_table
from trl_score.metrics import Interval

# Table 2 of the paper, with bounds of our own.
BASE = {
    "accuracy_t1": Interval(0.526, 0.482, 0.57),
    "accuracy_t2": Interval(0.414, 0.37, 0.458),
    "delta_t1_t2": Interval(-0.112, -0.15, -0.074),
    "delta_i_to_c": Interval(0.046, 0.028, 0.064),
    "delta_c_to_i": Interval(0.158, 0.128, 0.19),
    "answers_changed": Interval(0.5, 0.4, 0.6),
}


def printed(rows, **options):
    file = io.StringIO()
    print_self_correction_tables(rows, num_problems=500, console=Console(file=file, width=80), **options)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_numbers_stand_above_their_bounds_in_percent():
    lines = printed({"base": {"greedy": BASE}})
    assert lines[0] == "Greedy, 500 problems (%, below it the 95% interval)"
    row = next(number for number, line in enumerate(lines) if line.split()[:1] == ["base"])
    assert lines[row].split() == ["base", "52.6", "41.4", "-11.2", "4.6", "15.8"]
    assert lines[row + 1].split() == ["48.2-57.0", "37.0-45.8", "-15.0,", "-7.4", "2.8-6.4", "12.8-19.0"]


def test_a_table_for_each_decoding_and_a_row_for_each_label_that_has_it():
    as_json = {name: interval.as_dict() for name, interval in BASE.items()}
    lines = printed({"base": {"greedy": BASE, "sampled": BASE}, "after": {"sampled": as_json}})
    titles = [number for number, line in enumerate(lines) if "problems" in line]
    assert [lines[number].split(",")[0] for number in titles] == ["Greedy", "Sampled"]
    labels = [line.split()[0] for line in lines[titles[1] :] if line.split()[:1] in (["base"], ["after"])]
    assert labels == ["base", "after"]
    assert not any("after" in line for line in lines[: titles[1]])


def test_long_labels_are_broken_and_numbers_are_whole():
    full = {name: Interval(1.0, 1.0, 1.0) for name in BASE} | {"delta_t1_t2": Interval(-1.0, -1.0, -1.0)}
    lines = printed({"multi-turn RL without shaping and without Stage I": {"greedy": full}})
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    assert text.count("100.0-100.0") == 4 and "-100.0, -100.0" in text


def test_other_turns_and_numbers_that_are_not_defined():
    nan = float("nan")
    metrics = {**BASE, "accuracy_t3": BASE["accuracy_t2"], "delta_t1_t3": Interval(nan, nan, nan)}
    for name in ("accuracy_t2", "delta_t1_t2"):
        del metrics[name]
    lines = printed({"base": {"greedy": metrics}})
    assert any(line.split() == ["turn", "1", "turn", "3", "delta", "i->c", "c->i"] for line in lines)
    assert any(line.split() == ["base", "52.6", "41.4", "–", "4.6", "15.8"] for line in lines)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, r"rows of one pair of turns, got \[\]"),
        ({"a": BASE, "b": {"delta_t1_t3": BASE["delta_t1_t2"]}}, r"got \[\(1, 2\), \(1, 3\)\]"),
        ({"a": {"accuracy_t1": BASE["accuracy_t1"]}}, r"one pair of turns, such as `delta_t1_t2`, got \['accuracy_t1'"),
    ],
)
def test_rows_that_make_no_table_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        self_correction_table(rows, title="")
