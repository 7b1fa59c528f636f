"""
Does a model correct itself: the metrics of SCoRe (arXiv 2409.12917, section 3), for any pair of any number of turns.

Correctness is 0 or 1 for each turn of each problem. `None` or `nan` says that a turn could not be scored: a metric of
two turns leaves out the problems of which it lacks either turn, so that both turns are always compared on the same
problems and

    accuracy_t2 = accuracy_t1 + delta_i_to_c - delta_c_to_i

holds exactly. [`count_unscorable`] says how many were left out.
"""

import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trl_score.metrics.correctness import (
    Correctness,
    correctness_array,
    correctness_table,
    scored_in_both,
    turn_columns,
)
from trl_score.metrics.edit_distance import EditDistanceKind, edit_distance_ratios
from trl_score.metrics.intervals import (
    CONFIDENCE,
    NUM_RESAMPLES,
    FloatArray,
    Interval,
    Ratio,
    bootstrap_intervals,
    number_groups,
    sum_by_group,
)

Text = TypeVar("Text", str, str | None)


def accuracy(correct: Correctness) -> float:
    """
    Share of the scorable answers of one turn that are right.

    Args:
        correct (`Sequence[float | None]` of length n):
            Correctness of the turn for each problem: 0 or 1, `None` or `nan` where it could not be scored.

    Returns:
        `float`: The share, `nan` if no answer could be scored.

    Raises:
        ValueError: If a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> accuracy([1, 0, None, 1, 1])
        0.75
    """
    scored = correctness_array(correct)
    scored = scored[~np.isnan(scored)]
    return _share((scored, np.ones_like(scored)))


def delta(correct_t1: Correctness, correct_t2: Correctness) -> float:
    """
    Delta(t1, t2): accuracy at turn 2 less accuracy at turn 1.

    Args:
        correct_t1 (`Sequence[float | None]` of length n):
            Correctness of turn 1 for each problem.
        correct_t2 (`Sequence[float | None]` of length n):
            Correctness of turn 2 for each problem.

    Returns:
        `float`: The difference, from -1 to 1. `nan` if no problem is scorable at both turns.

    Raises:
        ValueError: If the turns are not equally many, or a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> delta([1, 0, 0, 0], [0, 1, 1, 0])
        0.25
    """
    return _share(_delta_terms(*_both_scored(correct_t1, correct_t2)))


def delta_i_to_c(correct_t1: Correctness, correct_t2: Correctness) -> float:
    """
    Delta i->c: share of *all* problems that are wrong at turn 1 and right at turn 2.

    Args:
        correct_t1 (`Sequence[float | None]` of length n):
            Correctness of turn 1 for each problem.
        correct_t2 (`Sequence[float | None]` of length n):
            Correctness of turn 2 for each problem.

    Returns:
        `float`: The share. `nan` if no problem is scorable at both turns.

    Raises:
        ValueError: If the turns are not equally many, or a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> delta_i_to_c([1, 0, 0, 0], [0, 1, 1, 0])
        0.5
    """
    return _share(_i_to_c_terms(*_both_scored(correct_t1, correct_t2)))


def delta_c_to_i(correct_t1: Correctness, correct_t2: Correctness) -> float:
    """
    Delta c->i: share of *all* problems that are right at turn 1 and wrong at turn 2.

    Args:
        correct_t1 (`Sequence[float | None]` of length n):
            Correctness of turn 1 for each problem.
        correct_t2 (`Sequence[float | None]` of length n):
            Correctness of turn 2 for each problem.

    Returns:
        `float`: The share. `nan` if no problem is scorable at both turns.

    Raises:
        ValueError: If the turns are not equally many, or a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> delta_c_to_i([1, 0, 0, 0], [0, 1, 1, 0])
        0.25
    """
    return _share(_c_to_i_terms(*_both_scored(correct_t1, correct_t2)))


def correction_rate(correct_t1: Correctness, correct_t2: Correctness) -> float:
    """
    Share of the problems *wrong at turn 1* that turn 2 gets right: Delta i->c over 1 - accuracy at turn 1.

    Args:
        correct_t1 (`Sequence[float | None]` of length n):
            Correctness of turn 1 for each problem.
        correct_t2 (`Sequence[float | None]` of length n):
            Correctness of turn 2 for each problem.

    Returns:
        `float`: The share. `nan` if turn 1 is never wrong.

    Raises:
        ValueError: If the turns are not equally many, or a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> round(correction_rate([1, 0, 0, 0], [0, 1, 1, 0]), 4)
        0.6667
    """
    return _share(_correction_terms(*_both_scored(correct_t1, correct_t2)))


def regression_rate(correct_t1: Correctness, correct_t2: Correctness) -> float:
    """
    Share of the problems *right at turn 1* that turn 2 gets wrong: Delta c->i over accuracy at turn 1.

    Args:
        correct_t1 (`Sequence[float | None]` of length n):
            Correctness of turn 1 for each problem.
        correct_t2 (`Sequence[float | None]` of length n):
            Correctness of turn 2 for each problem.

    Returns:
        `float`: The share. `nan` if turn 1 is never right.

    Raises:
        ValueError: If the turns are not equally many, or a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> regression_rate([1, 0, 0, 0], [0, 1, 1, 0])
        1.0
    """
    return _share(_regression_terms(*_both_scored(correct_t1, correct_t2)))


def answers_changed(answers_t1: Sequence[str | None], answers_t2: Sequence[str | None]) -> float:
    """
    Share of problems whose extracted answers differ between both turns.

    Answers are compared as they are, so bring them to one form first (`"1/2"` and `"0.5"` differ here). `None` says
    that no answer could be extracted. It equals only itself: a lost or a found answer is a change, two missing ones
    are none.

    Args:
        answers_t1 (`Sequence[str | None]` of length n):
            Extracted answer of turn 1 for each problem.
        answers_t2 (`Sequence[str | None]` of length n):
            Extracted answer of turn 2 for each problem.

    Returns:
        `float`: The share. `nan` if there is no problem.

    Raises:
        ValueError: If the turns are not equally many.

    Example:
        >>> answers_changed(["7", "7", None, None], ["7", "8", "7", None])
        0.5
    """
    return _share(_over_all(_differs(answers_t1, answers_t2)))


def turns_unchanged(texts_t1: Sequence[str], texts_t2: Sequence[str]) -> float:
    """
    Share of problems whose turn 2 repeats turn 1 character for character: the mark of a collapsed second turn.

    Args:
        texts_t1 (`Sequence[str]` of length n):
            Turn 1 of each problem.
        texts_t2 (`Sequence[str]` of length n):
            Turn 2 of each problem.

    Returns:
        `float`: The share. `nan` if there is no problem.

    Raises:
        ValueError: If the turns are not equally many.

    Example:
        >>> turns_unchanged(["1+1=2", "1+2=4"], ["1+1=2", "1+2=3"])
        0.5
    """
    return _share(_over_all(1 - _differs(texts_t1, texts_t2)))


def count_unscorable(correct_t1: Correctness, correct_t2: Correctness) -> int:
    """
    Number of problems that the metrics of two turns leave out, because either turn could not be scored.

    Args:
        correct_t1 (`Sequence[float | None]` of length n):
            Correctness of turn 1 for each problem.
        correct_t2 (`Sequence[float | None]` of length n):
            Correctness of turn 2 for each problem.

    Returns:
        `int`: The number.

    Raises:
        ValueError: If the turns are not equally many, or a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> count_unscorable([1, None, 0], [1, 0, None])
        2
    """
    return len(correct_t1) - len(_both_scored(correct_t1, correct_t2)[0])


def delta_standard_error(
    correct_t1: Correctness, correct_t2: Correctness, *, groups: Sequence[Hashable] | None = None
) -> float:
    """
    Paired standard error of Delta(t1, t2).

    For n problems answered once each it is `sqrt((delta_i_to_c + delta_c_to_i - delta^2) / n)`: only problems that
    changed sides tell anything. With several answers to a problem, the deviations are first summed over each problem:

        sqrt(sum over problems g of (sum over answers i in g of (d_i - delta))^2) / n,    d_i = correct_t2 - correct_t1

    which is the same number when each problem has one answer.

    Args:
        correct_t1 (`Sequence[float | None]` of length n):
            Correctness of turn 1 for each answer.
        correct_t2 (`Sequence[float | None]` of length n):
            Correctness of turn 2 for each answer.
        groups (`Sequence[Hashable]` of length n, *optional*):
            The problem of each answer, where problems were sampled several times.

    Returns:
        `float`: The standard error. `nan` if no problem is scorable at both turns.

    Raises:
        ValueError: If the lengths differ, or a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> round(delta_standard_error([1, 0, 0, 0], [0, 1, 1, 0]), 4)
        0.4146
    """
    first, second = correctness_array(correct_t1), correctness_array(correct_t2)
    scored = scored_in_both(first, second)
    if not scored.any():
        return math.nan
    differences = (second - first)[scored]
    deviations = differences - differences.mean()
    if groups is not None:
        deviations = sum_by_group(deviations, number_groups(groups, len(scored))[scored])
    return math.sqrt(float((deviations**2).sum())) / len(differences)


def accuracy_by_turn(
    correct: Sequence[Correctness] | NDArray[np.generic],
    *,
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Interval]:
    """
    Accuracy at each of any number of turns, each over the problems that are scorable at that turn.

    Args:
        correct (`Sequence[Sequence[float | None]]` of shape (n, turns)):
            Correctness of each turn of each problem.
        groups (`Sequence[Hashable]` of length n, *optional*):
            The problem of each row, where problems were sampled several times.
        bootstrap (`int`, *optional*, defaults to `2000`):
            Number of resamples. With `0` the bounds are `nan`.
        confidence (`float`, *optional*, defaults to `0.95`):
            Confidence level of the intervals.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling.

    Returns:
        `list[Interval]`: The accuracy at turn 1, turn 2, and so on.

    Raises:
        ValueError: If the rows have unequal numbers of turns, a value is neither 0, 1, `None` nor `nan`, or there is no
            row.

    Example:
        >>> [turn.value for turn in accuracy_by_turn([[0, 0, 1], [1, 1, 1]])]
        [0.5, 0.5, 1.0]
    """
    table = correctness_table(correct)
    scored = ~np.isnan(table)
    ratios = {
        str(turn): (np.where(scored[:, turn], table[:, turn], 0.0), scored[:, turn].astype(np.float64))
        for turn in range(table.shape[1])
    }
    intervals = bootstrap_intervals(ratios, groups=groups, bootstrap=bootstrap, confidence=confidence, seed=seed)
    return list(intervals.values())


def self_correction_metrics(
    correct: Sequence[Correctness] | NDArray[np.generic],
    answers: Sequence[Sequence[str | None]] | None = None,
    texts: Sequence[Sequence[str]] | None = None,
    *,
    turns: tuple[int, int] = (1, 2),
    groups: Sequence[Hashable] | None = None,
    edit_distance: EditDistanceKind = "levenshtein",
    bootstrap: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Interval]:
    """
    All metrics of a pair of turns with bootstrap intervals, each over the problems scorable at both turns.

    Args:
        correct (`Sequence[Sequence[float | None]]` of shape (n, turns)):
            Correctness of each turn of each problem: 0 or 1, `None` or `nan` where it could not be scored.
        answers (`Sequence[Sequence[str | None]]` of shape (n, turns), *optional*):
            Extracted answer of each turn, `None` where there is none.
        texts (`Sequence[Sequence[str]]` of shape (n, turns), *optional*):
            Full text of each turn.
        turns (`tuple[int, int]`, *optional*, defaults to `(1, 2)`):
            The pair to compare, counted from 1. Keys are named after it: turns 1 and 3 give `delta_t1_t3`.
        groups (`Sequence[Hashable]` of length n, *optional*):
            The problem of each row, where problems were sampled several times: whole problems are then resampled.
        edit_distance (`str`, *optional*, defaults to `"levenshtein"`):
            Distance of `edit_distance_ratio`: `"levenshtein"` or `"indel"`.
        bootstrap (`int`, *optional*, defaults to `2000`):
            Number of resamples. With `0` the bounds are `nan`.
        confidence (`float`, *optional*, defaults to `0.95`):
            Confidence level of the intervals.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling.

    Returns:
        `dict[str, Interval]`: The keys `accuracy_t1`, `accuracy_t2`, `delta_t1_t2`, `delta_i_to_c`, `delta_c_to_i`,
        `correction_rate` and `regression_rate`. With `answers` also `answers_changed`. With `texts` also
        `edit_distance_ratio` (its mean) and `turns_unchanged`.

    Raises:
        ValueError: If shapes do not agree, a turn of `turns` does not exist, a value is neither 0, 1, `None` nor `nan`,
            or no problem is scorable at both turns.

    Example:
        >>> answers = [["3", "4"], ["1", "1"], ["2", "2"], ["5", "5"]]
        >>> metrics = self_correction_metrics([[0, 1], [1, 1], [0, 0], [1, 1]], answers)
        >>> metrics["delta_t1_t2"]
        Interval(value=0.25, low=0.0, high=0.75)
        >>> metrics["answers_changed"].value
        0.25
    """
    table = correctness_table(correct)
    first, second = turn_columns(table, turns)
    kept = np.flatnonzero(scored_in_both(first, second))
    if kept.size == 0:
        raise ValueError(
            f"Expected at least one problem that is scorable at turns {turns[0]} and {turns[1]}, got none among "
            f"{len(table)}. Check that the gold answers can be parsed."
        )
    ratios = _correctness_ratios(first[kept], second[kept], turns)
    if answers is not None:
        answers_t1, answers_t2 = _turn_pair("answers", answers, kept, turns, len(table))
        ratios["answers_changed"] = _over_all(_differs(answers_t1, answers_t2))
    if texts is not None:
        texts_t1, texts_t2 = _turn_pair("texts", texts, kept, turns, len(table))
        distances = edit_distance_ratios(texts_t1, texts_t2, kind=edit_distance)
        ratios["edit_distance_ratio"] = _over_all(np.array(distances))
        ratios["turns_unchanged"] = _over_all(1 - _differs(texts_t1, texts_t2))
    if groups is not None:
        groups = number_groups(groups, len(table))[kept].tolist()
    return bootstrap_intervals(ratios, groups=groups, bootstrap=bootstrap, confidence=confidence, seed=seed)


def _correctness_ratios(first: FloatArray, second: FloatArray, turns: tuple[int, int]) -> dict[str, Ratio]:
    return {
        f"accuracy_t{turns[0]}": _over_all(first),
        f"accuracy_t{turns[1]}": _over_all(second),
        f"delta_t{turns[0]}_t{turns[1]}": _delta_terms(first, second),
        "delta_i_to_c": _i_to_c_terms(first, second),
        "delta_c_to_i": _c_to_i_terms(first, second),
        "correction_rate": _correction_terms(first, second),
        "regression_rate": _regression_terms(first, second),
    }


# The formulas, each once: what every problem adds to a metric's numerator and denominator, arrays of shape (n,).


def _delta_terms(first: FloatArray, second: FloatArray) -> Ratio:
    return _over_all(second - first)


def _i_to_c_terms(first: FloatArray, second: FloatArray) -> Ratio:
    return _over_all((1 - first) * second)


def _c_to_i_terms(first: FloatArray, second: FloatArray) -> Ratio:
    return _over_all(first * (1 - second))


def _correction_terms(first: FloatArray, second: FloatArray) -> Ratio:
    return (1 - first) * second, 1 - first


def _regression_terms(first: FloatArray, second: FloatArray) -> Ratio:
    return first * (1 - second), first


def _over_all(values: FloatArray) -> Ratio:
    return values, np.ones_like(values)


def _share(terms: Ratio) -> float:
    numerator, denominator = terms
    total = float(denominator.sum())
    return float(numerator.sum()) / total if total else math.nan


def _differs(values_t1: Sequence[str | None], values_t2: Sequence[str | None]) -> FloatArray:
    if len(values_t1) != len(values_t2):
        raise ValueError(
            f"Expected one turn 2 for each turn 1, got {len(values_t1)} of turn 1, {len(values_t2)} of turn 2."
        )
    pairs = zip(values_t1, values_t2, strict=True)
    return np.array([value_t1 != value_t2 for value_t1, value_t2 in pairs], dtype=np.float64)


def _both_scored(correct_t1: Correctness, correct_t2: Correctness) -> tuple[FloatArray, FloatArray]:
    first, second = correctness_array(correct_t1), correctness_array(correct_t2)
    kept = scored_in_both(first, second)
    return first[kept], second[kept]


def _turn_pair(
    name: str, rows: Sequence[Sequence[Text]], kept: NDArray[np.int64], turns: tuple[int, int], num_problems: int
) -> tuple[list[Text], list[Text]]:
    first, second = turns
    if len(rows) != num_problems or any(len(row) < second for row in rows):
        raise ValueError(
            f"Expected `{name}` to have {num_problems} rows of at least {second} turns, like `correct`, got "
            f"{len(rows)} rows of {sorted({len(row) for row in rows})} turns."
        )
    return [rows[row][first - 1] for row in kept], [rows[row][second - 1] for row in kept]
