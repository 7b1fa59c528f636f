"""The paper's table in a terminal: its numbers, their bounds, and that it fits into 80 columns."""

import io

import pytest
from rich.console import Console

from trl_score.evaluation.comparison import compare_records
from trl_score.evaluation.metrics import summarize_records
from trl_score.evaluation.records import EvaluationRecord
from trl_score.evaluation.tables import (
    print_comparison,
    print_self_correction_tables,
    print_summary,
    self_correction_table,
)
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


def lines_of(show, *arguments, **options):
    file = io.StringIO()
    show(Console(file=file, width=80), *arguments, **options)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def printed(rows):
    return lines_of(lambda console: print_self_correction_tables(rows, num_problems=500, console=console))


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


def test_a_name_may_hold_brackets():
    assert any("[/b] [red]" in line for line in printed({"[/b] [red]": {"greedy": BASE}}))
    lines = lines_of(print_summary, "[/b]", summary_of(record("a", 0.0, 0.0, 0.0), record("b", 1.0, 1.0, 0.0)))
    assert any("[/b]" in line for line in lines) and "Accuracy of [/b] by turn, greedy" in " ".join(lines)


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


# What `trl-score evaluate` prints


def record(problem, *rewards, **fields):
    turns = tuple(map(str, rewards))
    return EvaluationRecord(problem, turns, rewards, turns, problem, truncated=(False,) * len(turns), **fields)


def summary_of(*records, do_sample=False):
    return {**summarize_records(records), "evaluation": {"do_sample": do_sample}}


def rows(lines):
    return [line.split() for line in lines]


def test_two_turns_are_the_papers_table_and_no_more():
    lines = lines_of(print_summary, "base", summary_of(record("a", 0.0, 1.0), record("b", 1.0, 1.0)))
    assert ["base", "50.0", "100.0", "+50.0", "50.0", "0.0"] in rows(lines)
    assert sum("%" in line for line in lines) == 1
    assert lines[0].startswith("Greedy, 2 problems")


def test_many_turns_have_a_row_each_and_fit():
    lines = lines_of(print_summary, "base", summary_of(record("a", *[0.0, 1.0] * 5), record("b", *[1.0] * 10)))
    assert ["base", "50.0", "100.0", "+50.0", "50.0", "0.0"] in rows(lines)
    assert "Accuracy of base by turn, greedy (%, below it the 95% interval)" in lines
    assert [line for line in rows(lines) if line[:1] == ["turn"] and len(line) == 3] == [
        ["turn", str(turn), "50.0" if turn % 2 else "100.0"] for turn in range(1, 11)
    ]
    assert max(map(len, lines)) <= 80


def test_a_single_turn_has_its_accuracy():
    lines = lines_of(print_summary, "base", summary_of(record("a", 0.0), record("b", 1.0), do_sample=True))
    assert ["turn", "1", "50.0"] in rows(lines) and "Accuracy of base by turn, sampled" in lines[0]
    assert not any("delta" in line for line in lines)


def test_levels_and_tasks_where_there_are_several():
    records = [record("a", 0.0, 1.0, level=1, task="sums"), record("b", 1.0, 1.0, level=2, task="sums")]
    lines = lines_of(print_summary, "base", summary_of(*records, record("c", 1.0, None, level=3, task="sums")))
    assert ["level", "1", "0.0", "100.0", "+100.0", "100.0", "0.0"] in rows(lines)
    assert ["level", "2", "100.0", "100.0", "+0.0", "0.0", "0.0"] in rows(lines)
    assert not any(line[:2] == ["level", "3"] for line in rows(lines))  # nothing to compare there
    assert not any("By task" in line for line in lines)
    assert lines[-1].startswith("1 of 3 answers could not be scored at turn 1 or the last turn")


def test_several_samples_and_failures():
    records = [record(name, reward, 1.0, sample=sample) for sample, reward in enumerate((0.0, 1.0)) for name in "ab"]
    failed = record("a", None, None, sample=2, failure="HTTP 500")
    lines = lines_of(print_summary, "base", summary_of(*records, failed, record("b", 1.0, 1.0, sample=2)))
    text = "\n".join(lines)
    for title in ("pass@k of each turn, by k", "maj@k of each turn, by k", "Majority of 2K first turns"):
        assert title in text
    assert "1 of 6 answers had no reply from the endpoint" in text
    # Of a two of two samples are scored, of b three, two of them right at turn 1: k goes up to 2.
    assert ["t1", "58.3", "100.0"] in rows(lines)


def test_a_comparison_has_both_tests_for_single_answers():
    a = [record(name, 0.0, 0.0) for name in "abcde"]
    b = [record(name, 0.0, 1.0) for name in "abcde"]
    lines = lines_of(print_comparison, compare_records(a, b))
    assert lines[0] == "This model less the other, 5 answers of both (%, below it the 95% interval)"
    difference = next(number for number, line in enumerate(lines) if line.split()[:2] == ["turn", "2"])
    # Five of five sign flips as far from 0: 2 of 32. McNemar's p: 2 / 2^5.
    assert lines[difference].split()[:3] == ["turn", "2", "+100.0"] and lines[difference].split()[4] == "0.0625"
    assert lines[difference + 1].split() == ["+100.0,", "+100.0", "5", ":", "0"]
    assert ["turn", "1", "+0.0", "1.0000", "1.0000"] in rows(lines)
    assert len(next(line for line in rows(lines) if line[:1] == ["delta"])) == 3


def test_a_comparison_of_samples_has_no_exact_test():
    records = [record(name, 0.0, 1.0, sample=sample) for sample in (0, 1) for name in "ab"]
    lines = lines_of(print_comparison, compare_records(records, records))
    assert ["turn", "2", "+0.0", "1.0000"] in rows(lines)


def test_a_p_value_is_never_shown_as_zero():
    names = [str(number) for number in range(20)]
    a, b = ([record(name, 0.0, right) for name in names] for right in (0.0, 1.0))
    row = next(line for line in rows(lines_of(print_comparison, compare_records(a, b))) if line[:2] == ["turn", "2"])
    assert row[-2:] == ["<", "0.0001"]  # 2 / 2^20
