"""Tests of the bootstrap: against a slow second implementation, in closed form, and on bad input."""

import json
import math
import random

import numpy as np
import pytest

from trl_score.metrics import Interval, bootstrap_intervals
from trl_score.metrics.intervals import number_groups, sum_by_group


def share_of_all(values):
    values = np.array(values, dtype=float)
    return values, np.ones_like(values)


def slow_bootstrap(numerators, denominators, groups, num_resamples, confidence, seed):
    """One resample at a time with the standard library: draw problems, pool their answers, divide."""
    rng = random.Random(seed)
    names = sorted(set(groups))
    resampled = []
    for _ in range(num_resamples):
        drawn = [rng.choice(names) for _ in names]
        rows = [row for name in drawn for row, group in enumerate(groups) if group == name]
        denominator = sum(denominators[row] for row in rows)
        if denominator:
            resampled.append(sum(numerators[row] for row in rows) / denominator)
    resampled.sort()
    tail = (1 - confidence) / 2
    return resampled[round(tail * (len(resampled) - 1))], resampled[round((1 - tail) * (len(resampled) - 1))]


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_agrees_with_a_slow_second_implementation(confidence):
    rng = np.random.default_rng(1)
    num_answers = 60
    denominators = (rng.random(num_answers) < 0.6).astype(float)
    numerators = denominators * (rng.random(num_answers) < 0.4)
    groups = [f"problem {row % 20}" for row in range(num_answers)]
    slow_low, slow_high = slow_bootstrap(numerators, denominators, groups, 4000, confidence, seed=3)
    interval = bootstrap_intervals(
        {"rate": (numerators, denominators)}, groups=groups, bootstrap=4000, confidence=confidence
    )["rate"]
    assert interval.value == pytest.approx(numerators.sum() / denominators.sum(), abs=1e-12)
    # The two draw from different generators. 4000 resamples leave about 0.003 of noise on a bound.
    assert interval.low == pytest.approx(slow_low, abs=0.012)
    assert interval.high == pytest.approx(slow_high, abs=0.012)


def test_two_problems_have_three_possible_means():
    # One right, one wrong: resamples are right twice (1/4), once (1/2), never (1/4). Hence the quantiles 0 and 1 at
    # 95%, and 0.5 twice for the middle 40% of the resamples, which the middle value alone fills.
    ratios = {"accuracy": share_of_all([1, 0])}
    assert bootstrap_intervals(ratios)["accuracy"] == (0.5, 0.0, 1.0)
    assert bootstrap_intervals(ratios, confidence=0.4)["accuracy"] == (0.5, 0.5, 0.5)


def test_all_metrics_see_the_same_resamples():
    # What adds up to 1 for each problem adds up to 1 in each resample, so the bounds mirror each other.
    rng = np.random.default_rng(0)
    right = (rng.random(50) < 0.7).astype(float)
    intervals = bootstrap_intervals({"right": share_of_all(right), "wrong": share_of_all(1 - right)})
    assert intervals["right"].low == pytest.approx(1 - intervals["wrong"].high, abs=1e-12)
    assert intervals["right"].high == pytest.approx(1 - intervals["wrong"].low, abs=1e-12)


def test_repeated_samples_of_a_problem_do_not_narrow_its_interval():
    # Four equal copies of each answer, grouped, carry as much as one: the same resamples give the same bounds.
    right = (np.random.default_rng(0).random(40) < 0.5).astype(float)
    once = bootstrap_intervals({"accuracy": share_of_all(right)})["accuracy"]
    copies = {"accuracy": share_of_all(np.repeat(right, 4))}
    grouped = bootstrap_intervals(copies, groups=np.repeat(np.arange(40), 4).tolist())["accuracy"]
    ungrouped = bootstrap_intervals(copies)["accuracy"]
    assert grouped == pytest.approx(once, abs=1e-12)
    assert ungrouped.high - ungrouped.low < 0.7 * (once.high - once.low)


def test_interval_width_is_that_of_the_normal_approximation():
    # 300 right of 1000: standard error sqrt(0.3 * 0.7 / 1000) = 0.01449, times 1.96 = 0.0284 to either side.
    interval = bootstrap_intervals({"accuracy": share_of_all([1] * 300 + [0] * 700)}, bootstrap=5000)["accuracy"]
    assert interval.low == pytest.approx(0.3 - 0.0284, abs=0.003)
    assert interval.high == pytest.approx(0.3 + 0.0284, abs=0.003)


def test_seed_repeats_and_changes_the_bounds():
    ratios = {"mean": share_of_all(np.random.default_rng(0).random(30))}
    assert bootstrap_intervals(ratios, seed=1) == bootstrap_intervals(ratios, seed=1)
    assert bootstrap_intervals(ratios, seed=1) != bootstrap_intervals(ratios, seed=2)


def test_blocks_do_not_change_the_number_of_resamples(monkeypatch):
    monkeypatch.setattr("trl_score.metrics.intervals.BLOCK_SIZE", 100)
    interval = bootstrap_intervals({"mean": share_of_all([1, 0] * 15)}, bootstrap=1001)["mean"]
    assert interval.low < 0.5 < interval.high


def test_without_resamples_the_bounds_are_nan():
    value, low, high = bootstrap_intervals({"mean": share_of_all([1, 0])}, bootstrap=0)["mean"]
    assert value == 0.5
    assert math.isnan(low) and math.isnan(high)


def test_undefined_ratio_is_nan_and_null_in_json():
    interval = bootstrap_intervals({"rate": (np.zeros(3), np.zeros(3))})["rate"]
    assert json.dumps(interval.as_dict(), allow_nan=False) == '{"value": null, "low": null, "high": null}'


def test_resamples_without_a_denominator_are_left_out():
    # The condition holds for one problem of three, which is right: each resample that draws it has a rate of 1.
    rate = bootstrap_intervals({"rate": (np.array([1.0, 0, 0]), np.array([1.0, 0, 0]))})["rate"]
    assert rate == Interval(1.0, 1.0, 1.0)


def test_groups_are_numbered_in_order_and_summed():
    group_ids = number_groups(["b", ("a", 1), "b", None], 4)
    assert group_ids.tolist() == [0, 1, 0, 2]
    assert sum_by_group(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]), group_ids).tolist() == [
        [6.0, 8.0],
        [3.0, 4.0],
        [7.0, 8.0],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bootstrap": -1}, "`bootstrap` to be a number of resamples of at least 0, got -1"),
        ({"confidence": 95}, "`confidence` to lie between 0 and 1, e.g. 0.95, got 95"),
        ({"groups": ["a"]}, "each of the 2 answers, got 1 names"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals({"mean": share_of_all([1, 0])}, **options)


def test_no_answers():
    with pytest.raises(ValueError, match="at least one answer to measure, got none"):
        bootstrap_intervals({"mean": share_of_all([])})


def test_an_interval_in_percent():
    nan = float("nan")
    assert Interval(0.6, 0.5, 0.7).as_percent() == "60.0 [50.0, 70.0]"
    assert Interval(0.6, nan, nan).as_percent() == "60.0"
    assert Interval(nan, nan, nan).as_percent() == "–"
