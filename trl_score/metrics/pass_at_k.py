"""
What several samples of a problem are worth: pass@k (any of k is right) and maj@k (the majority of k is right).
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from trl_score.metrics.correctness import Correctness, correctness_array
from trl_score.metrics.intervals import CONFIDENCE, NUM_RESAMPLES, Interval, bootstrap_intervals


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """
    Estimate without bias the chance that one of k samples of a problem is right (arXiv 2107.03374, section 2.1).

        pass@k = 1 - C(n - c, k) / C(n, k) = 1 - product over i = n - c + 1 .. n of (1 - k / i)

    The product never forms the large binomials, so it neither overflows nor cancels.

    Args:
        num_samples (`int`):
            Number of samples of the problem, n.
        num_correct (`int`):
            How many of them are right, c.
        k (`int`):
            Number of samples that one may draw.

    Returns:
        `float`: The estimate.

    Raises:
        ValueError: If not `1 <= k <= num_samples` and `0 <= num_correct <= num_samples`.

    Example:
        >>> pass_at_k(num_samples=4, num_correct=2, k=1)
        0.5
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"Expected `k` to be from 1 to `num_samples` ({num_samples}), got {k}. Draw more samples.")
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"Expected `num_correct` to be from 0 to `num_samples` ({num_samples}), got {num_correct}.")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1))


def mean_pass_at_k(
    correct_by_problem: Sequence[Correctness],
    k: int,
    *,
    bootstrap: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """
    Mean of pass@k over problems, with an interval over problems.

    Args:
        correct_by_problem (`Sequence[Sequence[float | None]]`):
            For each problem the correctness of its samples, not necessarily equally many. Samples that could not be
            scored (`None` or `nan`) are left out, and so is a problem of which none could.
        k (`int`):
            Number of samples that one may draw.
        bootstrap (`int`, *optional*, defaults to `2000`):
            Number of resamples of problems. With `0` the bounds are `nan`.
        confidence (`float`, *optional*, defaults to `0.95`):
            Confidence level of the interval.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling.

    Returns:
        [`Interval`]: The mean and its bounds.

    Raises:
        ValueError: If a problem has some scorable samples but fewer than k, or no problem has any.

    Example:
        >>> mean_pass_at_k([[1, 0], [0, 0]], k=1).value
        0.25
    """
    chances = []
    for number, samples in enumerate(correct_by_problem):
        scored = correctness_array(samples)
        scored = scored[~np.isnan(scored)]
        if 0 < len(scored) < k:
            raise ValueError(
                f"Expected at least {k} scorable samples of problem {number} for pass@{k}, got {len(scored)}."
            )
        if len(scored):
            chances.append(pass_at_k(len(scored), int(scored.sum()), k))
    return _mean(chances, bootstrap, confidence, seed)


def majority_answer(answers: Sequence[str | None]) -> str | None:
    """
    The most frequent answer. A tie goes to the answer that was given first, so that no draw of chance is needed.

    Args:
        answers (`Sequence[str | None]`):
            Extracted answers in the order in which they were sampled. `None`, no answer, does not vote.

    Returns:
        `str` or `None`: The winner, `None` if nobody voted.

    Example:
        >>> majority_answer(["8", "7", None, None, None, "7", "8"])
        '8'
    """
    votes = Counter(answer for answer in answers if answer is not None)
    # Counter keeps the order of first appearance, and max returns the first of equals.
    return max(votes, key=votes.__getitem__, default=None)


def maj_at_k(
    answers_by_problem: Sequence[Sequence[str | None]],
    correct_by_problem: Sequence[Correctness],
    k: int,
    *,
    bootstrap: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """
    maj@k: accuracy of the majority answer among the first k samples of each problem, with an interval over problems.

    A tie goes to the answer that was sampled first. Samples without an answer do not vote. A problem in which nobody
    voted counts as wrong, unless none of its k samples could be scored. The majority is right if the first sample that
    gave this answer is.

    Args:
        answers_by_problem (`Sequence[Sequence[str | None]]`):
            For each problem the extracted answers of its samples. Bring them to one form first: `"1/2"` and `"0.5"` are
            two answers here.
        correct_by_problem (`Sequence[Sequence[float | None]]`):
            Correctness of the same samples. A problem whose majority could not be scored is left out, and so is one of
            which none of the k samples could.
        k (`int`):
            Number of samples that vote.
        bootstrap (`int`, *optional*, defaults to `2000`):
            Number of resamples of problems. With `0` the bounds are `nan`.
        confidence (`float`, *optional*, defaults to `0.95`):
            Confidence level of the interval.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling.

    Returns:
        [`Interval`]: The accuracy and its bounds.

    Raises:
        ValueError: If `k` is below 1, a problem has fewer than k samples, its answers and correctness differ in number,
            or no problem is left.

    Example:
        >>> maj_at_k([["7", "8", "8"], ["1", "2", "3"]], [[0, 1, 1], [0, 0, 1]], k=3).value
        0.5
    """
    if len(answers_by_problem) != len(correct_by_problem):
        raise ValueError(
            f"Expected answers and correctness of the same problems, got {len(answers_by_problem)} and "
            f"{len(correct_by_problem)} problems."
        )
    outcomes = []
    for number, (answers, correct) in enumerate(zip(answers_by_problem, correct_by_problem, strict=True)):
        if not 1 <= k <= len(answers) == len(correct):
            raise ValueError(
                f"Expected at least {max(k, 1)} samples of problem {number} for maj@{k}, each with its correctness, "
                f"got {len(answers)} answers and {len(correct)} values of correctness."
            )
        scored = correctness_array(correct)
        winner = majority_answer(answers[:k])
        if not np.isnan(scored[:k]).all():
            outcomes.append(0.0 if winner is None else float(scored[list(answers).index(winner)]))
    return _mean([outcome for outcome in outcomes if not math.isnan(outcome)], bootstrap, confidence, seed)


def _mean(values: list[float], bootstrap: int, confidence: float, seed: int) -> Interval:
    numbers = np.array(values)
    ratios = {"mean": (numbers, np.ones_like(numbers))}
    return bootstrap_intervals(ratios, bootstrap=bootstrap, confidence=confidence, seed=seed)["mean"]
