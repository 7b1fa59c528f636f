"""Tests of how correctness is read and checked."""

import numpy as np
import pytest

from trl_score.metrics.correctness import (
    correctness_array,
    correctness_table,
    number_array,
    scored_in_both,
    turn_columns,
)


def test_none_and_nan_are_unscorable():
    assert np.isnan(correctness_array([None, float("nan")])).all()
    assert correctness_array(np.array([True, False])).tolist() == [1.0, 0.0]
    assert number_array([0.5, None])[0] == 0.5


@pytest.mark.parametrize("value", [0.5, 2, -1, float("inf")])
def test_graded_reward_is_refused(value):
    with pytest.raises(
        ValueError, match=rf"to be 0, 1, or None .* got {float(value)} at index 1\. Turn a graded reward"
    ):
        correctness_array([1, value])


def test_table_keeps_problems_in_rows_and_turns_in_columns():
    table = correctness_table([[0, 1, 1], [1, None, 0]])
    assert table.shape == (2, 3)
    assert turn_columns(table, (1, 3))[1].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("rows", "message"), [([], "got 0 problems"), ([[0, 1], [1]], r"2 problems with \[1, 2\] turns")]
)
def test_empty_or_ragged_table_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        correctness_table(rows)


@pytest.mark.parametrize("turns", [(0, 1), (1, 3), (2, 1), (1, 1)])
def test_turns_that_do_not_exist_are_refused(turns):
    with pytest.raises(ValueError, match=r"`turns` to be an earlier and a later turn, .* with 2 turns, got \("):
        turn_columns(np.zeros((1, 2)), turns)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="the same problems, got 1 and 2 values"):
        scored_in_both(np.zeros(1), np.zeros(2))
