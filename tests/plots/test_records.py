"""Tests of reading records and tables of rollouts: what is read, and what is said of broken files."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from trl_score.evaluation import EvaluationRecord
from trl_score.plots import TurnRecord, edit_ratios_of_records, read_records, read_rollout_table, records
from trl_score.plots.records import group_by_problem
from trl_score.score import turn_metrics

CHAT = [{"role": "user", "content": "1+2?"}]
LINE = {"prompt": CHAT, "turns": ["4", "so \\boxed{3}"], "rewards": [0.0, 1.0]}


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_reads_what_an_evaluation_writes(tmp_path):
    turns = ("4", "so \\boxed{3}")
    written = EvaluationRecord(CHAT, turns, (0.0, 1.0), ("4", "3"), "sum-1", "sums", True, truncated=(False, True))
    write(tmp_path / "records.jsonl", written.as_dict())
    for place in (tmp_path, str(tmp_path / "records.jsonl")):
        (record,) = read_records(place)
        assert (record.prompt, record.turns, record.rewards) == (CHAT, written.turns, (0.0, 1.0))
        assert record.answers == ("4", "3")
        assert (record.correct, record.outcome, record.is_changed) == (written.correct, "fixed", True)
        assert (record.problem, record.task, record.is_turn_1_offline) == ("sum-1", "sums", True)
        assert record.question == "1+2?"


def test_right_is_what_is_right_in_training():
    assert records.RIGHT_ABOVE == turn_metrics.RIGHT_ABOVE


def test_optional_fields_are_read(tmp_path):
    row = {**LINE, "answers": ["4", None], "problem": 17, "task": "sums", "is_turn_1_offline": True}
    (record,) = read_records(write(tmp_path / "records.jsonl", row))
    assert (record.answers, record.problem, record.task, record.is_turn_1_offline) == (("4", None), "17", "sums", True)


def test_a_turn_that_could_not_be_scored_is_not_wrong(tmp_path):
    write(tmp_path / "records.jsonl", {**LINE, "rewards": [None, 1]}, {**LINE, "rewards": [float("nan"), 0]})
    assert [record.correct for record in read_records(tmp_path)] == [(None, 1.0), (None, 0.0)]


@pytest.mark.parametrize(
    ("rewards", "outcome"),
    [
        ((0.0, 0.5, 1.0), "fixed"),
        ((1.0, None, 0.5), "broken"),
        ((0.6, 0.6), "right"),
        ((0.0, 0.0), "wrong"),
        ((None, 1.0), "unscorable"),
        ((1.0,), "right"),
    ],
)
def test_outcome_compares_the_first_turn_with_the_last(rewards, outcome):
    turns = tuple("abc"[: len(rewards)])
    record = TurnRecord("q", turns, rewards, turns, "q")
    assert record.outcome == outcome
    assert record.is_changed is (len(rewards) > 1)


def test_samples_of_a_problem_stand_together():
    record = TurnRecord("a", ("1",), (1.0,), ("1",), "a")
    groups = group_by_problem([record, replace(record, problem="b"), replace(record, turns=("2",))])
    assert [[sample.turns[0] for sample in group] for group in groups] == [["1", "2"], ["1"]]


def test_edit_ratios_are_of_the_first_turn_and_the_last():
    record = TurnRecord("q", ("ab", "zz", "abcd"), (1.0, 1.0, 1.0), ("", "", ""), "q")
    assert edit_ratios_of_records([record]) == pytest.approx([2 / 6], rel=1e-12)  # two letters put in, 2 + 4 in all
    substituted = replace(record, turns=("ab", "ac"))
    assert edit_ratios_of_records([substituted], "levenshtein") == [0.25]
    assert edit_ratios_of_records([substituted]) == [0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            json.dumps(LINE) + "\n" + json.dumps(LINE)[:40],
            r"whole JSON object on line 2 of '.*records\.jsonl', got 40 ",
        ),
        ("\n", "whole JSON object on line 1"),
        ("", "at least one record in .* got an empty file"),
        ("[1, 2]\n", r"record with `prompt`, `turns` and `rewards` on line 1 .* got none of \['prompt', "),
        (json.dumps({"prompt": "q", "turns": ["a"]}) + "\n", r"got none of \['rewards'\]"),
        (json.dumps({**LINE, "rewards": [1.0]}) + "\n", "reward of each turn on line 1 .* got 2 turns, 1 rewards"),
        (json.dumps({**LINE, "turns": [], "rewards": []}) + "\n", "got 0 turns, 0 rewards"),
        (
            json.dumps(LINE) + "\n" + json.dumps({**LINE, "turns": ["a"], "rewards": [1.0]}) + "\n",
            r"equally many turns in each record of .* got \[1, 2\]",
        ),
    ],
)
def test_broken_records_are_named(tmp_path, content, message):
    (tmp_path / "records.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_records(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`records\.jsonl` or a folder that holds one, got '.*nowhere'"):
        read_records(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="table of rollouts, got"):
        read_rollout_table(tmp_path)


def test_reads_the_table_that_training_writes(tmp_path):
    table = pd.DataFrame(
        {
            "step": [3, 3],
            "prompt": [CHAT, CHAT],
            "completion_t1": [[{"role": "assistant", "content": "4"}]] * 2,
            "completion_t2": [[{"role": "assistant", "content": "3"}]] * 2,
            "correct_t1": [0.0, np.nan],
            "correct_t2": [1.0, 1.0],
            "format_t1": [1.0, 1.0],
            "format_t2": [0.0, 0.0],
            "advantage_t1": [0.5, 0.5],
            "advantage_t2": [0.5, 0.5],
        }
    )
    table.to_parquet(tmp_path / "completions_00003.parquet")
    first, second = read_rollout_table(tmp_path / "completions_00003.parquet")
    assert (first.prompt, first.turns, first.rewards) == (CHAT, ("4", "3"), (0.0, 1.0))
    assert second.rewards == (None, 1.0)
    assert first.question == "1+2?"


def test_a_table_of_plain_text_is_read_and_another_is_refused(tmp_path):
    table = pd.DataFrame(
        {"prompt": ["q"], "completion_t1": ["a"], "completion_t2": ["b"], "r_t1": [1.0], "r_t2": [0.0]}
    )
    table.to_parquet(tmp_path / "a.parquet")
    assert read_rollout_table(tmp_path / "a.parquet") == [TurnRecord("q", ("a", "b"), (1.0, 0.0), ("a", "b"), "q")]
    for column in ("completion_t2", "r_t1"):
        table.drop(columns=column).to_parquet(tmp_path / "b.parquet")
        with pytest.raises(ValueError, match=r"table of rollouts with the columns .* got \['prompt'"):
            read_rollout_table(tmp_path / "b.parquet")
