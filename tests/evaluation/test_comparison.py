"""Two models on the same problems: who is paired with whom, and what the tests then say."""

import pytest

from trl_score.evaluation.comparison import check_comparable, compare_records
from trl_score.metrics import compare_deltas, compare_means, mcnemar_test
from trl_score.plots import TurnRecord


def record(problem, *rewards, prompt=None):
    turns = tuple(map(str, rewards))
    return TurnRecord(prompt or problem, turns, rewards, turns, problem)


BASE = [record("a", 0.0, 0.0), record("b", 0.0, 0.0), record("c", 1.0, 0.0), record("d", 1.0, 1.0)]
TRAINED = [record("d", 1.0, 1.0), record("b", 0.0, 1.0), record("a", 0.0, 1.0), record("c", 1.0, None)]


def test_problems_are_paired_by_name_whatever_their_order():
    comparison = compare_records(BASE, TRAINED)
    assert list(comparison) == [
        "accuracy_t1",
        "mcnemar_t1",
        "accuracy_t2",
        "mcnemar_t2",
        "delta_t1_t2",
        "num_records",
        "num_only_a",
        "num_only_b",
    ]
    a, b = [[0, 0], [0, 0], [1, 0], [1, 1]], [[0, 1], [0, 1], [1, None], [1, 1]]
    assert comparison["mcnemar_t2"] == mcnemar_test([row[1] for row in a], [row[1] for row in b])
    assert (comparison["mcnemar_t2"].only_a, comparison["mcnemar_t2"].only_b) == (0, 2)
    assert comparison["accuracy_t2"] == compare_means([row[1] for row in a], [row[1] for row in b])
    assert comparison["accuracy_t1"].difference.value == 0.0
    assert comparison["delta_t1_t2"] == compare_deltas(a, b)
    assert comparison["delta_t1_t2"].num_unscorable == 1


def test_what_only_one_model_answered_is_left_out_and_counted():
    comparison = compare_records([*BASE, record("e", 1.0, 1.0)], TRAINED[:2])
    assert (comparison["num_records"], comparison["num_only_a"], comparison["num_only_b"]) == (2, 3, 0)


def test_samples_are_paired_in_their_order_and_resampled_together():
    a = [record("a", 0.0, 0.0), record("b", 1.0, 1.0), record("a", 0.0, 1.0), record("b", 1.0, 0.0)]
    b = [
        record("a", 0.0, 1.0),
        record("a", 0.0, 1.0),
        record("b", 1.0, 1.0),
        record("b", 0.0, 1.0),
        record("a", 1.0, 1.0),
    ]
    comparison = compare_records(a, b)
    assert "mcnemar_t1" not in comparison
    # a: 0 and 1 against 1 and 1; b: 1 and 0 against 1 and 1.
    expected = compare_means([0, 1, 1, 0], [1, 1, 1, 1], groups=["a", "a", "b", "b"])
    assert comparison["accuracy_t2"] == expected
    assert (comparison["num_records"], comparison["num_only_b"]) == (4, 1)


def test_single_turns_have_no_delta():
    assert list(compare_records([record("a", 0.0)], [record("a", 1.0)]))[:2] == ["accuracy_t1", "mcnemar_t1"]
    assert not any(name.startswith("delta") for name in compare_records([record("a", 0.0)], [record("a", 1.0)]))


def test_what_cannot_be_compared_is_said_beforehand():
    check_comparable(BASE, ["x", "c"], num_turns=2)
    with pytest.raises(ValueError, match=r"got 0 problems in common, and records of \[2\] turns"):
        check_comparable(BASE, ["x"], num_turns=2)
    with pytest.raises(
        ValueError, match=r"with 3 turns to compare with, got 1 problems in common, and records of \[2\]"
    ):
        check_comparable(BASE, ["a"], num_turns=3)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([record("x", 1.0, 1.0)], r"got 0 in common, with \[\] turns"),
        ([record("a", 1.0, 1.0, 1.0)], r"got 1 in common, with \[2, 3\] turns"),
        ([record("a", 1.0, 1.0, prompt="another")], "the same prompt for both models, got 1 of 1 .* the first 'a'"),
    ],
)
def test_records_of_something_else_are_refused(others, message):
    with pytest.raises(ValueError, match=message):
        compare_records(BASE, others)
