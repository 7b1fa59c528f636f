"""
Is model B better than model A: paired tests on the same problems.

Two models that answer the same problems are compared problem by problem, which removes the spread between easy and hard
problems. Accuracies take McNemar's exact test, any number per problem (each problem's own delta, say) a sign-flip
permutation test with a bootstrap interval.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trl_score.metrics.correctness import (
    Correctness,
    correctness_array,
    correctness_table,
    number_array,
    scored_in_both,
    turn_columns,
)
from trl_score.metrics.intervals import (
    CONFIDENCE,
    NUM_RESAMPLES,
    FloatArray,
    Interval,
    bootstrap_intervals,
    number_groups,
    sum_by_group,
)

NUM_PERMUTATIONS = 10_000
# Signs are drawn in blocks of about this many numbers, so that memory does not grow with the number of problems.
_BLOCK_SIZE = 4_000_000


class McNemarTest(NamedTuple):
    """
    Outcome of McNemar's exact test.

    Args:
        only_a (`int`):
            Number of problems that only model A gets right.
        only_b (`int`):
            Number of problems that only model B gets right.
        p_value (`float`):
            Two-sided p-value.
        num_unscorable (`int`):
            Number of problems left out, because either model could not be scored on them.
    """

    only_a: int
    only_b: int
    p_value: float
    num_unscorable: int


class PairedComparison(NamedTuple):
    """
    Outcome of a paired comparison of two models.

    Args:
        difference (`Interval`):
            Mean of model B less mean of model A, with its paired bootstrap interval.
        p_value (`float`):
            Two-sided p-value of the sign-flip permutation test.
        num_unscorable (`int`):
            Number of answers left out, because either model could not be scored on them.
    """

    difference: Interval
    p_value: float
    num_unscorable: int


def mcnemar_test(correct_a: Correctness, correct_b: Correctness) -> McNemarTest:
    """
    McNemar's exact test that two models are right equally often, on the same problems answered once each.

    Only the problems that one model alone gets right tell the models apart. Under the hypothesis each of them falls to
    either model with probability 1/2, so that

        p = min(1, 2 * P(X <= min(only_a, only_b))),    X ~ Binomial(only_a + only_b, 1/2)

    Args:
        correct_a (`Sequence[float | None]` of length n):
            Correctness of model A for each problem: 0 or 1, `None` or `nan` where it could not be scored.
        correct_b (`Sequence[float | None]` of length n):
            Correctness of model B for the same problems, in the same order.

    Returns:
        [`McNemarTest`]: The two counts and the p-value. It is 1 if the models never differ.

    Raises:
        ValueError: If the models have unequal numbers of problems, or a value is neither 0, 1, `None` nor `nan`.

    Example:
        >>> mcnemar_test([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1])
        McNemarTest(only_a=0, only_b=5, p_value=0.0625, num_unscorable=0)
    """
    a, b = correctness_array(correct_a), correctness_array(correct_b)
    kept = scored_in_both(a, b)
    only_a, only_b = int((a > b)[kept].sum()), int((b > a)[kept].sum())
    num_discordant = only_a + only_b
    # Whole numbers of any size, divided once: exact where a sum of floats would lose the small tails.
    tail = sum(math.comb(num_discordant, count) for count in range(min(only_a, only_b) + 1))
    p_value = min(1.0, 2 * tail / 2**num_discordant)
    return McNemarTest(only_a, only_b, p_value, int((~kept).sum()))


def compare_deltas(
    correct_a: Sequence[Correctness] | NDArray[np.generic],
    correct_b: Sequence[Correctness] | NDArray[np.generic],
    *,
    turns: tuple[int, int] = (1, 2),
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = NUM_RESAMPLES,
    permutations: int = NUM_PERMUTATIONS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedComparison:
    """
    Compare Delta(t1, t2) of two models on the same problems.

    Args:
        correct_a (`Sequence[Sequence[float | None]]` of shape (n, turns)):
            Correctness of each turn of model A.
        correct_b (`Sequence[Sequence[float | None]]` of shape (n, turns)):
            Correctness of each turn of model B on the same problems, in the same order.
        turns (`tuple[int, int]`, *optional*, defaults to `(1, 2)`):
            The pair of turns, counted from 1.
        groups (`Sequence[Hashable]` of length n, *optional*):
            The problem of each row, where problems were sampled several times.
        bootstrap (`int`, *optional*, defaults to `2000`):
            Number of resamples of the interval.
        permutations (`int`, *optional*, defaults to `10000`):
            Number of sign flips of the test.
        confidence (`float`, *optional*, defaults to `0.95`):
            Confidence level of the interval.
        seed (`int`, *optional*, defaults to `0`):
            Seed of resamples and sign flips.

    Returns:
        [`PairedComparison`]: Delta of B less delta of A, over the problems that both models could be scored on.

    Raises:
        ValueError: If shapes do not agree, a turn does not exist, a value is neither 0, 1, `None` nor `nan`, or no
            problem is left.

    Example:
        >>> base, trained = [[1, 0], [0, 0], [1, 1]], [[1, 1], [0, 1], [1, 1]]
        >>> round(compare_deltas(base, trained).difference.value, 4)
        0.6667
    """
    return compare_means(
        _delta_of_each_problem(correct_a, turns),
        _delta_of_each_problem(correct_b, turns),
        groups=groups,
        bootstrap=bootstrap,
        permutations=permutations,
        confidence=confidence,
        seed=seed,
    )


def compare_means(
    values_a: Correctness,
    values_b: Correctness,
    *,
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = NUM_RESAMPLES,
    permutations: int = NUM_PERMUTATIONS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedComparison:
    """
    Compare the means of any number per problem (accuracy, delta, edit-distance ratio) between two models.

    The test flips the sign of each problem's difference at random and counts how often the mean gets as far from 0 as
    it is: `p = (1 + hits) / (1 + permutations)`, which is never 0.

    Args:
        values_a (`Sequence[float | None]` of length n):
            Model A's number for each answer, `None` or `nan` where it could not be scored.
        values_b (`Sequence[float | None]` of length n):
            Model B's number for the same answers, in the same order.
        groups (`Sequence[Hashable]` of length n, *optional*):
            The problem of each answer, where problems were sampled several times: a problem is resampled and flipped as
            a whole.
        bootstrap (`int`, *optional*, defaults to `2000`):
            Number of resamples of the interval.
        permutations (`int`, *optional*, defaults to `10000`):
            Number of sign flips of the test.
        confidence (`float`, *optional*, defaults to `0.95`):
            Confidence level of the interval.
        seed (`int`, *optional*, defaults to `0`):
            Seed of resamples and sign flips.

    Returns:
        [`PairedComparison`]: Mean of B less mean of A, over the answers that both models could be scored on.

    Raises:
        ValueError: If the lengths differ, `permutations` is below 1, or no answer is left.

    Example:
        >>> compare_means([0.0] * 6, [1.0] * 6).difference
        Interval(value=1.0, low=1.0, high=1.0)
    """
    if permutations < 1:
        raise ValueError(f"Expected `permutations` to be at least 1, got {permutations}.")
    a, b = number_array(values_a), number_array(values_b)
    kept = scored_in_both(a, b)
    differences = (b - a)[kept]
    group_ids = np.arange(len(a)) if groups is None else number_groups(groups, len(a))
    intervals = bootstrap_intervals(
        {"difference": (differences, np.ones_like(differences))},
        groups=group_ids[kept].tolist(),
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
    )
    p_value = _sign_flip_p_value(sum_by_group(differences, group_ids[kept]), permutations, seed)
    return PairedComparison(intervals["difference"], p_value, int((~kept).sum()))


def _delta_of_each_problem(correct: Sequence[Correctness] | NDArray[np.generic], turns: tuple[int, int]) -> FloatArray:
    first, second = turn_columns(correctness_table(correct), turns)
    return second - first  # nan where either turn is unscorable


def _sign_flip_p_value(differences: FloatArray, num_permutations: int, seed: int) -> float:
    # A difference of 0 is the same under either sign, and rounding must not make a tie look smaller than the original.
    nonzero = differences[differences != 0]
    threshold = abs(float(nonzero.sum())) * (1 - 1e-12)
    rng = np.random.default_rng(seed)
    rows_per_block = max(1, _BLOCK_SIZE // max(1, len(nonzero)))
    hits = 0
    for start in range(0, num_permutations, rows_per_block):
        num_rows = min(rows_per_block, num_permutations - start)
        signs = 2.0 * rng.integers(2, size=(num_rows, len(nonzero))) - 1
        hits += int((np.abs(signs @ nonzero) >= threshold).sum())
    return (1 + hits) / (1 + num_permutations)
