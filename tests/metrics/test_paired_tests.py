"""Tests of the paired tests: exact values, enumeration of all sign flips, and their behaviour under the hypothesis."""

from itertools import product
from math import comb

import numpy as np
import pytest

from trl_score.metrics import compare_deltas, compare_means, mcnemar_test


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 32),  # 2 * (1/2)^5
        (1, 7, 2 * (1 + 8) / 256),  # 2 * (C(8,0) + C(8,1)) / 2^8
        (3, 3, 1.0),  # 2 * 42/64 is above 1
        (10, 2, 2 * (comb(12, 0) + comb(12, 1) + comb(12, 2)) / 4096),
    ],
)
def test_mcnemar_by_hand(only_a, only_b, expected):
    both = [(1, 1)] * 4 + [(0, 0)] * 3
    a, b = zip(*both, *[(1, 0)] * only_a, *[(0, 1)] * only_b, strict=True)
    test = mcnemar_test(a, b)
    assert (test.only_a, test.only_b) == (only_a, only_b)
    assert test.p_value == pytest.approx(expected, rel=1e-12)
    assert mcnemar_test(b, a).p_value == test.p_value


def test_mcnemar_with_many_problems_stays_exact():
    # 2 * (1/2)^1000 would be lost in a sum of rounded floats.
    assert mcnemar_test([0] * 1000, [1] * 1000).p_value == pytest.approx(2.0**-999, rel=1e-12)


def test_mcnemar_leaves_out_and_counts_the_unscorable():
    test = mcnemar_test([0, None, 1, 0], [1, 1, None, 1])
    assert (test.only_a, test.only_b, test.num_unscorable) == (0, 2, 2)


def test_permutation_p_value_agrees_with_all_sign_flips():
    differences = np.array([0.9, 0.4, -0.3, 0.6, 0.2, -0.1, 0.5, 0.3])
    flipped = [abs(np.dot(signs, differences)) for signs in product([-1, 1], repeat=8)]
    exact = np.mean(np.array(flipped) >= abs(differences.sum()) - 1e-9)
    comparison = compare_means(np.zeros(8), differences, permutations=20_000)
    # Standard error of the share of 20000 draws: sqrt(0.05 * 0.95 / 20000) = 0.0015.
    assert comparison.p_value == pytest.approx(exact, abs=0.006)
    assert comparison.difference.value == pytest.approx(differences.mean(), abs=1e-12)


def test_equal_models_have_a_p_value_of_1():
    assert compare_means([0.5, 0.1, 0.9], [0.5, 0.1, 0.9]).p_value == 1.0


def test_p_value_is_never_0():
    # All of 200 differences are 1: no sign flip comes near.
    assert compare_means([0] * 200, [1] * 200, permutations=99).p_value == pytest.approx(1 / 100, abs=1e-12)


def test_hypothesis_that_holds_is_refused_as_often_as_it_should_be():
    rng = np.random.default_rng(0)
    p_values = [
        compare_means(*rng.random((2, 30)), bootstrap=0, permutations=200, seed=trial).p_value for trial in range(300)
    ]
    # 300 trials at the level 0.1: 30 expected, standard deviation sqrt(300 * 0.1 * 0.9) = 5.2.
    assert 15 <= sum(p_value <= 0.1 for p_value in p_values) <= 45


def test_groups_are_flipped_as_a_whole():
    # Two problems with 50 equal samples each tell no more than two answers: p = 1/2, not 2^-99.
    comparison = compare_means([0] * 100, [1] * 100, groups=[0] * 50 + [1] * 50, permutations=4000)
    assert comparison.p_value == pytest.approx(0.5, abs=0.04)
    assert compare_means([0] * 100, [1] * 100, permutations=4000).p_value < 0.001


def test_compare_deltas_by_hand():
    # Model A: deltas -1, 0, 0. Model B: 0, 1, 1. Problem 3 is unscorable for B. Difference = (1 + 1 + 1) / 3 = 1.
    a = [[1, 0], [0, 0], [1, 1], [0, 1]]
    b = [[1, 1], [0, 1], [0, 1], [None, 1]]
    comparison = compare_deltas(a, b)
    assert comparison.difference == (1.0, 1.0, 1.0)
    assert comparison.num_unscorable == 1


def test_compare_deltas_of_later_turns():
    # From turn 2 to turn 3: A loses one, B wins one, of one problem each.
    assert compare_deltas([[0, 1, 0]], [[0, 0, 1]], turns=(2, 3)).difference.value == 2.0


def test_bootstrap_interval_of_the_difference_holds_the_truth():
    rng = np.random.default_rng(0)
    a = rng.random(400)
    comparison = compare_means(a, a + 0.1 + 0.05 * rng.standard_normal(400))
    # Standard error 0.05 / sqrt(400) = 0.0025, although each model alone varies by 0.29 / 20 = 0.0145.
    assert comparison.difference.low == pytest.approx(0.1 - 0.005, abs=0.004)
    assert comparison.difference.high == pytest.approx(0.1 + 0.005, abs=0.004)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare_means([1, 0], [1]), "the same problems, got 2 and 1 values"),
        (lambda: compare_means([None], [1]), "at least one answer to measure, got none"),
        (lambda: compare_means([1], [1], permutations=0), "`permutations` to be at least 1, got 0"),
        (lambda: compare_deltas([[1]], [[1]]), r"with 1 turns, got \(1, 2\)"),
        (lambda: mcnemar_test([0.5], [1]), "to be 0, 1, or None .* got 0.5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
