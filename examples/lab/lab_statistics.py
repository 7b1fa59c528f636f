"""
Statistics over seeds: what is said of a method that was trained several times.

The unit is a trained model. An interval over problems says how well one model is known; an interval over seeds says
what another training run would give. With few seeds the mean has Student's t distribution, if the seeds' values are
about normal: that is the assumption here, and all of it.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from mpmath import betainc, findroot

from trl_score.metrics import Interval

CONFIDENCE = 0.95


class PairedSeeds(NamedTuple):
    """
    Two methods compared seed by seed.

    Args:
        difference (`Interval`):
            Mean of the differences, with its t interval.
        p_value (`float`):
            Two-sided p-value of the paired t test; `nan` with a single seed.
    """

    difference: Interval
    p_value: float


def t_tail(t: float, degrees: int) -> float:
    r"""
    The probability that Student's t is further from 0 than a value, to either side.

    $$P(|T| > t) = I_{d / (d + t^2)}(d/2, 1/2)$$

    with the regularised incomplete beta function I (Abramowitz and Stegun, 26.7.1 and 26.5.27).

    Args:
        t (`float`):
            The value.
        degrees (`int`):
            Degrees of freedom d, 1 or more.

    Returns:
        `float`: the probability.

    Example:

    ```python
    >>> t_tail(0.0, 4), round(t_tail(1.0, 1), 6)  # one degree is Cauchy's: half of it is beyond 1
    (1.0, 0.5)

    ```
    """
    return float(betainc(degrees / 2, 0.5, 0, degrees / (degrees + t * t), regularized=True))


def t_quantile(confidence: float, degrees: int) -> float:
    """
    How far from 0 Student's t stays with some confidence.

    Args:
        confidence (`float`):
            The probability that it does, above 0 and below 1.
        degrees (`int`):
            Degrees of freedom, 1 or more.

    Returns:
        `float`: the distance.

    Example:

    ```python
    >>> round(t_quantile(0.95, 4), 3), round(t_quantile(0.5, 1), 3)
    (2.776, 1.0)

    ```
    """
    upper = 1.0
    while t_tail(upper, degrees) > 1 - confidence:
        upper *= 2
    return float(findroot(lambda t: t_tail(t, degrees) - (1 - confidence), (0, upper), solver="anderson", tol=1e-20))


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    r"""
    The mean over seeds, with Student's t interval.

    $$\bar{x} \pm t_{n-1} s / \sqrt{n}$$

    where s is the standard deviation with n - 1 in its denominator.

    Args:
        values (`Sequence[float]`):
            A number from each seed.
        confidence (`float`, *optional*, defaults to `0.95`):
            Confidence level.

    Returns:
        [`~trl_score.metrics.Interval`]: mean and bounds. With a single seed the bounds are `nan`.

    Raises:
        `ValueError`: If there is no value.

    Example:

    ```python
    >>> t_interval([1.0, 3.0, 5.0]).value
    3.0

    ```
    """
    if not values:
        raise ValueError("Expected a number from at least one seed, got none.")
    mean, num_seeds = fmean(values), len(values)
    if num_seeds == 1:
        return Interval(mean, math.nan, math.nan)
    half = t_quantile(confidence, num_seeds - 1) * stdev(values) / math.sqrt(num_seeds)
    return Interval(mean, mean - half, mean + half)


def compare_seeds(values_a: Sequence[float], values_b: Sequence[float]) -> PairedSeeds:
    """
    Compares two methods seed by seed: the paired t test.

    Runs of one seed share their training problems and their evaluation, and that is what pairing takes out.

    Args:
        values_a (`Sequence[float]`):
            A number from each seed of method A.
        values_b (`Sequence[float]`):
            The same of method B, seeds in the same order.

    Returns:
        [`PairedSeeds`]: B less A. Where all seeds differ equally, the p-value is 0, or 1 if they do not differ at all.

    Raises:
        `ValueError`: If the methods have unequal numbers of seeds, or none.

    Example:

    ```python
    >>> compare_seeds([0.5, 0.5], [0.75, 0.75])
    PairedSeeds(difference=Interval(value=0.25, low=0.25, high=0.25), p_value=0.0)

    ```
    """
    if len(values_a) != len(values_b):
        raise ValueError(f"Expected the same seeds of both methods, got {len(values_a)} and {len(values_b)} values.")
    differences = [b - a for a, b in zip(values_a, values_b, strict=True)]
    interval = t_interval(differences)
    if len(differences) == 1:
        return PairedSeeds(interval, math.nan)
    spread = stdev(differences)
    if spread == 0:
        return PairedSeeds(interval, float(interval.value == 0))
    t = interval.value / (spread / math.sqrt(len(differences)))
    return PairedSeeds(interval, t_tail(t, len(differences) - 1))


def mean_log_history(histories: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """
    Averages the logs of one method over its seeds, step by step.

    Args:
        histories (`Sequence[Sequence[Mapping]]`):
            The log history of each seed.

    Returns:
        `list[dict[str, float]]`: an entry for each step that all seeds logged, with those keys that all of them have.

    Example:

    ```python
    >>> mean_log_history([[{"step": 1, "loss": 2.0}], [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 1.0}]])
    [{'step': 1, 'loss': 3.0}]

    ```
    """
    by_step = [_numbers_by_step(history) for history in histories]
    steps = sorted(set.intersection(*(set(entries) for entries in by_step))) if by_step else []
    return [{"step": step} | _mean_entry([entries[step] for entries in by_step]) for step in steps]


def _numbers_by_step(history: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    entries: dict[int, dict[str, float]] = {}
    for entry in history:
        numbers = {key: value for key, value in entry.items() if key != "step" and isinstance(value, (int, float))}
        entries.setdefault(entry["step"], {}).update(numbers)
    return entries


def _mean_entry(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    shared = [key for key in entries[0] if all(key in entry for entry in entries)]
    return {key: fmean(entry[key] for entry in entries) for key in shared}
