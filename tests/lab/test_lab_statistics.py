"""Statistics over seeds, against tables of Student's t and numbers worked by hand."""

import math

import pytest
from lab_statistics import compare_seeds, mean_log_history, t_interval, t_quantile, t_tail


@pytest.mark.parametrize(
    ("confidence", "degrees", "expected"),
    # Any printed table of Student's t, two-sided.
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 4, 2.776), (0.99, 4, 4.604), (0.95, 9, 2.262), (0.9, 30, 1.697)],
)
def test_quantiles_are_those_of_the_tables(confidence: float, degrees: int, expected: float) -> None:
    quantile = t_quantile(confidence, degrees)
    assert quantile == pytest.approx(expected, abs=5e-4)
    assert t_tail(quantile, degrees) == pytest.approx(1 - confidence, abs=1e-9)


@pytest.mark.parametrize("t", [0.3, 1.0, 2.5])
def test_tail_has_its_closed_forms(t: float) -> None:
    # One degree of freedom is Cauchy's: P(|T| > t) = 1 - 2/pi arctan t. Two: P(|T| > t) = 1 - t / sqrt(2 + t^2).
    assert t_tail(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-9)
    assert t_tail(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)
    assert t_tail(-t, 2) == t_tail(t, 2)


def test_interval_worked_by_hand() -> None:
    # Mean 3; deviations -2 to 2: s^2 = 10 / 4 = 2.5; s / sqrt(5) = sqrt(0.5) = 0.70711; 2.77645 of it = 1.96325.
    interval = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert tuple(interval) == pytest.approx((3.0, 3.0 - 1.96325, 3.0 + 1.96325), abs=1e-5)


def test_one_seed_has_no_bounds_and_none_is_an_error() -> None:
    value, low, high = t_interval([0.25])
    assert value == 0.25 and math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match="at least one seed, got none"):
        t_interval([])


def test_paired_test_worked_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, s = 1, standard error 1 / sqrt(3), t = 2 sqrt(3) = 3.4641, two degrees of freedom:
    # p = 1 - t / sqrt(2 + t^2) = 1 - 3.4641 / sqrt(14) = 0.0742; half-width 4.30265 / sqrt(3) = 2.48414.
    compared = compare_seeds([10.0, 20.0, 30.0], [11.0, 22.0, 33.0])
    assert compared.p_value == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-9)
    assert tuple(compared.difference) == pytest.approx((2.0, 2.0 - 2.48414, 2.0 + 2.48414), abs=1e-5)


def test_paired_test_without_spread() -> None:
    assert compare_seeds([1.0, 2.0], [1.0, 2.0]).p_value == 1.0
    assert compare_seeds([1.0, 2.0], [2.0, 3.0]).p_value == 0.0
    assert math.isnan(compare_seeds([1.0], [2.0]).p_value)
    with pytest.raises(ValueError, match="same seeds of both methods, got 1 and 2 values"):
        compare_seeds([1.0], [1.0, 2.0])


def test_logs_are_averaged_by_step_and_key() -> None:
    # A trainer logs its last entry, of the whole run, at the last step again; a key or a step that one seed lacks is
    # left out.
    first = [
        {"step": 1, "a": 1.0, "b": 5.0},
        {"step": 2, "a": 3.0},
        {"step": 2, "train_runtime": 7.0, "note": "end"},
        {"step": 3, "a": 0.0},
    ]
    second = [{"step": 1, "a": 2.0}, {"step": 2, "a": 5.0}, {"step": 2, "train_runtime": 9.0, "note": "end"}]
    assert mean_log_history([first, second]) == [{"step": 1, "a": 1.5}, {"step": 2, "a": 4.0, "train_runtime": 8.0}]
    assert mean_log_history([]) == []
