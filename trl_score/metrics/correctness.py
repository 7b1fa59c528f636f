"""
Correctness as the metrics take it: 0 or 1 for each answer, `None` or `nan` where an answer could not be scored.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trl_score.metrics.intervals import FloatArray

# What may stand for the correctness of one turn of each problem: True, 1, False, 0, and None or nan for unscorable.
Correctness = Sequence[float | None] | NDArray[np.generic]


def number_array(values: Correctness) -> FloatArray:
    """
    Convert numbers to an array, `None` to `nan`.

    Args:
        values (`Sequence[float | None]` of length n):
            The numbers.

    Returns:
        `ndarray` of shape (n,): The numbers as 64-bit floats.

    Example:
        >>> number_array([1, None]).tolist()
        [1.0, nan]
    """
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def correctness_array(correct: Correctness) -> FloatArray:
    """
    Convert the correctness of one turn to an array, and check it.

    Args:
        correct (`Sequence[float | None]` of length n):
            Correctness of each answer.

    Returns:
        `ndarray` of shape (n,): 0, 1 or `nan`.

    Raises:
        ValueError: If a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> correctness_array([True, 0, None]).tolist()
        [1.0, 0.0, nan]
    """
    values = number_array(correct)
    wrong = np.flatnonzero(~(np.isnan(values) | (values == 0) | (values == 1)))
    if len(wrong):
        raise ValueError(
            f"Expected correctness to be 0, 1, or None where it could not be scored, got {values[wrong[0]]} at index "
            f"{wrong[0]}. Turn a graded reward into correctness first, e.g. `reward == 1`."
        )
    return values


def correctness_table(correct: Sequence[Correctness] | NDArray[np.generic]) -> FloatArray:
    """
    Convert the correctness of every turn of every problem to an array, and check it.

    Args:
        correct (`Sequence[Sequence[float | None]]` of shape (n, turns)):
            Correctness of each turn of each problem.

    Returns:
        `ndarray` of shape (n, turns): 0, 1 or `nan`.

    Raises:
        ValueError: If there is no problem, the problems have unequal numbers of turns, or a value is neither 0, 1,
            `None` nor `nan`.

    Example:
        >>> correctness_table([[0, 1], [1, None]]).tolist()
        [[0.0, 1.0], [1.0, nan]]
    """
    num_turns = sorted({len(row) for row in correct})
    if len(num_turns) != 1:
        raise ValueError(
            f"Expected at least one problem, and as many turns of each as of the others, got {len(correct)} problems "
            f"with {num_turns} turns. Check that the dataset is not empty and that no record is cut short."
        )
    columns = [correctness_array([row[turn] for row in correct]) for turn in range(num_turns[0])]
    return np.stack(columns, axis=1)


def turn_columns(table: FloatArray, turns: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """
    Take two turns, counted from 1, out of a table of all turns.

    Args:
        table (`ndarray` of shape (n, turns)):
            A number for each turn of each problem.
        turns (`tuple[int, int]`):
            An earlier and a later turn.

    Returns:
        `tuple[ndarray, ndarray]`: Two arrays of shape (n,).

    Raises:
        ValueError: If `turns` are not two turns of the table, the earlier first.

    Example:
        >>> [column.tolist() for column in turn_columns(np.array([[0.0, 1.0, 1.0]]), (1, 3))]
        [[0.0], [1.0]]
    """
    first, second = turns
    if not 1 <= first < second <= table.shape[1]:
        raise ValueError(
            f"Expected `turns` to be an earlier and a later turn, counted from 1, of problems with {table.shape[1]} "
            f"turns, got {turns}."
        )
    return table[:, first - 1], table[:, second - 1]


def scored_in_both(first: FloatArray, second: FloatArray) -> NDArray[np.bool_]:
    """
    Say which problems have a number in both of two columns: two turns, or two models.

    Args:
        first (`ndarray` of shape (n,)):
            A number for each problem, `nan` where it could not be scored.
        second (`ndarray` of shape (n,)):
            The other number for the same problems.

    Returns:
        `ndarray` of shape (n,): True where neither is `nan`.

    Raises:
        ValueError: If the lengths differ.

    Example:
        >>> scored_in_both(np.array([0.0, 1.0]), np.array([1.0, np.nan])).tolist()
        [True, False]
    """
    if len(first) != len(second):
        raise ValueError(f"Expected two columns over the same problems, got {len(first)} and {len(second)} values.")
    return ~(np.isnan(first) | np.isnan(second))
