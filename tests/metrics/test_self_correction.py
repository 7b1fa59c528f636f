"""Tests of the metrics of self-correction, on a table of problems that is counted by hand."""

import math

import numpy as np
import pytest

from trl_score import metrics as m

# Ten problems, (turn 1, turn 2): 3 stay right, 2 are broken, 4 are fixed, 1 stays wrong.
#   accuracy_t1 = 5/10, accuracy_t2 = 7/10, delta = 2/10, i->c = 4/10, c->i = 2/10,
#   corrected of the 5 wrong ones: 4/5, broken of the 5 right ones: 2/5.
PAIRS = [(1, 1)] * 3 + [(1, 0)] * 2 + [(0, 1)] * 4 + [(0, 0)]
T1, T2 = [first for first, _ in PAIRS], [second for _, second in PAIRS]
EXPECTED = {
    "accuracy_t1": 0.5,
    "accuracy_t2": 0.7,
    "delta_t1_t2": 0.2,
    "delta_i_to_c": 0.4,
    "delta_c_to_i": 0.2,
    "correction_rate": 0.8,
    "regression_rate": 0.4,
}


def test_each_function_by_hand():
    assert m.accuracy(T1) == 0.5
    assert m.accuracy(T2) == 0.7
    assert m.delta(T1, T2) == pytest.approx(0.2, abs=1e-12)
    assert m.delta_i_to_c(T1, T2) == 0.4
    assert m.delta_c_to_i(T1, T2) == 0.2
    assert m.correction_rate(T1, T2) == 0.8
    assert m.regression_rate(T1, T2) == 0.4


def test_table_of_metrics_by_hand():
    metrics = m.self_correction_metrics(PAIRS)
    assert {name: interval.value for name, interval in metrics.items()} == pytest.approx(EXPECTED, abs=1e-12)
    assert all(interval.low <= interval.value <= interval.high for interval in metrics.values())


def test_keys_with_answers_and_texts():
    # Answers differ in problem 0 alone. Texts: "ab" -> "ab" (0), "ab" -> "cd" (2 substitutions over 4 = 1/2).
    answers, texts = [["1", "2"], ["3", "3"]], [["ab", "ab"], ["ab", "cd"]]
    metrics = m.self_correction_metrics([[0, 1], [1, 1]], answers, texts)
    assert set(metrics) == {*EXPECTED, "answers_changed", "edit_distance_ratio", "turns_unchanged"}
    assert metrics["answers_changed"].value == 0.5
    assert metrics["edit_distance_ratio"].value == 0.25
    assert metrics["turns_unchanged"].value == 0.5
    indel = m.self_correction_metrics([[0, 1], [1, 1]], texts=texts, edit_distance="indel")
    assert indel["edit_distance_ratio"].value == 0.5  # (0 + 4/4) / 2


def test_as_dict_is_the_layout_of_the_summary():
    metrics = m.self_correction_metrics(PAIRS)
    assert set(metrics["accuracy_t1"].as_dict()) == {"value", "low", "high"}


@pytest.mark.parametrize("seed", range(20))
def test_turn_2_is_turn_1_plus_fixed_less_broken(seed):
    # Also where some turns cannot be scored: all metrics of a pair are over the same problems.
    rng = np.random.default_rng(seed)
    correct = np.where(rng.random((37, 2)) < 0.1, np.nan, rng.random((37, 2)) < rng.uniform(0.2, 0.8, 2))
    values = {name: interval.value for name, interval in m.self_correction_metrics(correct, bootstrap=0).items()}
    change = values["delta_i_to_c"] - values["delta_c_to_i"]
    assert values["accuracy_t2"] == pytest.approx(values["accuracy_t1"] + change, abs=1e-12)
    assert values["delta_t1_t2"] == pytest.approx(change, abs=1e-12)
    assert values["delta_i_to_c"] == pytest.approx(values["correction_rate"] * (1 - values["accuracy_t1"]), abs=1e-12)
    assert values["delta_c_to_i"] == pytest.approx(values["regression_rate"] * values["accuracy_t1"], abs=1e-12)


def test_papers_base_row_satisfies_the_identity():
    # Base model on MATH500 (arXiv 2409.12917, table 1): 52.6 -> 41.4, i->c 4.6, c->i 15.8, that is 263 right at turn 1,
    # 23 fixed and 79 broken of 500.
    pairs = [(1, 1)] * (263 - 79) + [(1, 0)] * 79 + [(0, 1)] * 23 + [(0, 0)] * (500 - 263 - 23)
    values = {name: 100 * interval.value for name, interval in m.self_correction_metrics(pairs).items()}
    names = ["accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i"]
    assert [values[name] for name in names] == pytest.approx([52.6, 41.4, -11.2, 4.6, 15.8], abs=1e-9)


def test_unscorable_turns_are_left_out_in_pairs_and_counted():
    # Problem 1 lacks turn 1, problem 2 lacks turn 2. Problems 0 and 3 are left: one fixed, one right.
    correct = [[0, 1], [None, 1], [1, float("nan")], [1, 1]]
    t1, t2 = [row[0] for row in correct], [row[1] for row in correct]
    metrics = m.self_correction_metrics(correct, [["1", "2"]] * 3 + [["1", "1"]])
    assert metrics["accuracy_t1"].value == 0.5
    assert metrics["accuracy_t2"].value == 1.0
    assert metrics["answers_changed"].value == 0.5
    assert m.delta(t1, t2) == 0.5
    assert m.count_unscorable(t1, t2) == 2
    # On its own a turn takes all that is scorable: 0, 1, 1 at turn 1.
    assert m.accuracy(t1) == pytest.approx(2 / 3, abs=1e-12)


def test_any_number_of_turns():
    correct = [[0, 1, 1], [0, 0, 1], [1, 1, None], [1, 0, 0]]
    assert [turn.value for turn in m.accuracy_by_turn(correct)] == pytest.approx([0.5, 0.5, 2 / 3], abs=1e-12)
    first_to_third = m.self_correction_metrics(correct, turns=(1, 3))
    # Without problem 2: turn 1 is right in 1 of 3, turn 3 in 2 of 3, two fixed and one broken.
    assert first_to_third["accuracy_t1"].value == pytest.approx(1 / 3, abs=1e-12)
    assert first_to_third["accuracy_t3"].value == pytest.approx(2 / 3, abs=1e-12)
    assert first_to_third["delta_t1_t3"].value == pytest.approx(1 / 3, abs=1e-12)
    assert first_to_third["delta_i_to_c"].value == pytest.approx(2 / 3, abs=1e-12)
    texts = [["a", "b", "a"]] * 4
    assert m.self_correction_metrics(correct, texts=texts, turns=(1, 3))["turns_unchanged"].value == 1.0
    assert m.self_correction_metrics(correct, texts=texts, turns=(2, 3))["turns_unchanged"].value == 0.0


def test_missing_answers():
    # Same, other, lost, found, and missing twice: three of five changed.
    assert m.answers_changed(["1", "1", "1", None, None], ["1", "2", None, "1", None]) == 0.6


def test_turns_unchanged_is_the_share_of_edit_distances_that_are_0():
    texts_t1, texts_t2 = ["a", "b ", "", "xyz"], ["a", "b", "", "zyx"]
    ratios = m.edit_distance_ratios(texts_t1, texts_t2)
    assert m.turns_unchanged(texts_t1, texts_t2) == sum(ratio == 0 for ratio in ratios) / 4 == 0.5


@pytest.mark.parametrize(
    ("function", "t1", "t2"),
    [
        (m.correction_rate, [1, 1], [0, 1]),
        (m.regression_rate, [0, 0], [0, 1]),
        (m.delta, [None, 1], [1, None]),
        (m.delta_standard_error, [None], [1]),
        (m.answers_changed, [], []),
    ],
)
def test_share_of_nothing_is_nan(function, t1, t2):
    assert math.isnan(function(t1, t2))


def test_standard_error_of_delta_by_hand():
    # sqrt((0.4 + 0.2 - 0.2^2) / 10) = sqrt(0.056) = 0.236643
    assert m.delta_standard_error(T1, T2) == pytest.approx(0.236643, abs=1e-6)


def test_standard_error_of_delta_is_that_of_the_mean_difference():
    rng = np.random.default_rng(0)
    t1, t2 = (rng.random(200) < 0.6).astype(float), (rng.random(200) < 0.7).astype(float)
    assert m.delta_standard_error(t1, t2) == pytest.approx(np.std(t2 - t1) / math.sqrt(200), rel=1e-12)


def test_standard_error_with_groups_by_hand():
    # d = 1, 1, 0, -1, delta = 1/4, deviations 3/4, 3/4, -1/4, -5/4. Problem a has the first two, b the others:
    # sqrt((6/4)^2 + (-6/4)^2) / 4 = 0.530330.
    t1, t2 = [0, 0, 1, 1], [1, 1, 1, 0]
    assert m.delta_standard_error(t1, t2, groups=["a", "a", "b", "b"]) == pytest.approx(0.530330, abs=1e-6)
    assert m.delta_standard_error(t1, t2, groups=[1, 2, 3, 4]) == pytest.approx(
        m.delta_standard_error(t1, t2), rel=1e-12
    )
    # An answer that is not scorable is left out together with its group's name.
    with_unscorable = m.delta_standard_error([None, *t1], [1, *t2], groups=["c", "a", "a", "b", "b"])
    assert with_unscorable == pytest.approx(0.530330, abs=1e-6)


def test_bootstrap_interval_of_delta_has_the_width_of_its_standard_error():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(150), 4)
    gain = np.repeat(rng.choice([-0.4, 0.5], 150), 4)  # a problem's samples gain or lose together
    correct = np.stack([rng.random(600) < 0.5, rng.random(600) < 0.5 + gain], axis=1)
    interval = m.self_correction_metrics(correct, groups=groups.tolist(), bootstrap=4000)["delta_t1_t2"]
    error = m.delta_standard_error(correct[:, 0], correct[:, 1], groups=groups.tolist())
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(error, rel=0.05)
    # Taking the samples for independent would say a good deal less.
    assert m.delta_standard_error(correct[:, 0], correct[:, 1]) < 0.8 * error


def test_paired_bootstrap_of_delta_is_narrower_than_that_of_independent_turns():
    # Turn 2 repeats turn 1 but for one problem: the difference hardly varies, although each accuracy does.
    correct = [[0, 0]] * 50 + [[1, 1]] * 49 + [[0, 1]]
    metrics = m.self_correction_metrics(correct)
    widths = {name: interval.high - interval.low for name, interval in metrics.items()}
    assert widths["delta_t1_t2"] <= 0.04 < 0.15 < widths["accuracy_t1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answers": [["1", "2"]]}, r"`answers` to have 10 rows of at least 2 turns, .* got 1 rows of \[2\] turns"),
        ({"texts": [["1"]] * 10}, r"`texts` to have 10 rows of at least 2 turns, .* got 10 rows of \[1\] turns"),
        ({"groups": [1]}, "each of the 10 answers, got 1 names"),
        ({"turns": (1, 3)}, r"with 2 turns, got \(1, 3\)"),
        (
            {"texts": PAIRS, "edit_distance": "hamming"},
            r"`kind` to be one of \['indel', 'levenshtein'\], got 'hamming'",
        ),
    ],
)
def test_bad_options(options, message):
    texts = [["a", "b"]] * 10 if options.get("texts") is PAIRS else options.get("texts")
    with pytest.raises(ValueError, match=message):
        m.self_correction_metrics(PAIRS, **{**options, "texts": texts})


def test_nothing_scorable_is_an_error():
    with pytest.raises(ValueError, match="scorable at turns 1 and 2, got none among 2"):
        m.self_correction_metrics([[None, 1], [1, None]])


def test_turns_of_unequal_number_are_an_error():
    with pytest.raises(ValueError, match="got 1 and 2 values"):
        m.delta([1], [1, 0])
    with pytest.raises(ValueError, match="got 1 and 2 values"):
        m.delta_standard_error([1], [1, 0])
    with pytest.raises(ValueError, match="one turn 2 for each turn 1, got 1 of turn 1, 2 of turn 2"):
        m.answers_changed(["1"], ["1", "2"])
