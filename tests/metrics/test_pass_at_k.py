"""Tests of pass@k and maj@k: by counting all subsets, by hand, and on bad input."""

from itertools import combinations

import pytest

from trl_score.metrics import maj_at_k, majority_answer, mean_pass_at_k, pass_at_k


@pytest.mark.parametrize("num_samples", [1, 4, 7])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_sample(num_samples):
    for num_correct in range(num_samples + 1):
        samples = [1] * num_correct + [0] * (num_samples - num_correct)
        for k in range(1, num_samples + 1):
            subsets = list(combinations(samples, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_neither_overflows_nor_cancels():
    # One right of 10^5: the chance of drawing it among k is k / n exactly.
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5, rel=1e-12)
    assert pass_at_k(100_000, 1, 1) == pytest.approx(1e-5, rel=1e-9)


def test_mean_leaves_out_what_cannot_be_scored():
    # Problem 0: one of two scorable samples right, pass@1 = 1/2. Problem 1: none of three. Problem 2 is unscorable.
    interval = mean_pass_at_k([[1, None, 0], [0, 0, 0], [None, float("nan"), None]], k=1)
    assert interval.value == 0.25
    assert interval.low == 0.0
    assert interval.high == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2, 5), r"`k` to be from 1 to `num_samples` \(4\), got 5"),
        ((4, 2, 0), r"`k` to be from 1 to `num_samples` \(4\), got 0"),
        ((4, 5, 1), r"`num_correct` to be from 0 to `num_samples` \(4\), got 5"),
    ],
)
def test_pass_at_k_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(*arguments)


def test_mean_with_too_few_samples_names_the_problem():
    with pytest.raises(ValueError, match="at least 2 scorable samples of problem 1 for pass@2, got 1"):
        mean_pass_at_k([[1, 0], [1, None]], k=2)


def test_majority_and_its_ties():
    assert majority_answer(["1", "2", "2"]) == "2"
    assert majority_answer(["2", "1", "2", "1"]) == "2"  # a tie goes to the answer that came first
    assert majority_answer([None, None, "1"]) == "1"  # no answer does not vote
    assert majority_answer([None, None]) is None
    assert majority_answer([]) is None


def test_maj_at_k_by_hand():
    answers = [["1", "2", "2"], ["5", "6", "7"], [None, None, None], ["9", "9", "8"]]
    correct = [[0, 1, 1], [0, 1, 0], [0, 0, 0], [None, None, 1]]
    # k = 3: "2" is right; a tie of three goes to "5", wrong; nobody votes, wrong; "9" is unscorable and left out.
    assert maj_at_k(answers, correct, k=3).value == pytest.approx(1 / 3, abs=1e-12)
    # k = 1 takes the first sample alone: wrong, wrong, wrong, left out.
    assert maj_at_k(answers, correct, k=1).value == 0.0


def test_maj_at_k_leaves_out_what_could_not_be_scored():
    answers, correct = (
        [["1", "1"], [None, None], [None, None], ["2", "3"]],
        [[1, 1], [None, None], [0, None], [None, 1]],
    )
    # The second problem has no scorable sample, the fourth no scorable majority; in the third nobody voted.
    assert maj_at_k(answers, correct, k=2).value == 0.5
    assert maj_at_k([["1", "2", "2"], ["1"] * 3], [[None, 1, 1], [1] * 3], k=1).value == 1.0
    assert maj_at_k([["1", "2", "2"], ["1"] * 3], [[None, 0, 0], [1] * 3], k=3).value == 0.5


def test_maj_at_k_of_equal_answers_is_accuracy():
    assert maj_at_k([["1"] * 4, ["2"] * 4], [[1] * 4, [0] * 4], k=4).value == 0.5


@pytest.mark.parametrize(
    ("answers", "correct", "k", "message"),
    [
        ([["1"]], [[1]], 2, "at least 2 samples of problem 0 for maj@2, .* got 1 answers and 1 values"),
        ([["1", "2"]], [[1]], 1, "got 2 answers and 1 values of correctness"),
        ([["1"]], [[1]], 0, "at least 1 samples of problem 0 for maj@0"),
        ([["1"]], [], 1, "the same problems, got 1 and 0 problems"),
        ([], [], 1, "at least one answer to measure, got none"),
    ],
)
def test_maj_at_k_bad_input(answers, correct, k, message):
    with pytest.raises(ValueError, match=message):
        maj_at_k(answers, correct, k)
