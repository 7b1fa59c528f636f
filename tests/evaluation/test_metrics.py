"""All numbers of an evaluation: each worked by hand on a few records, or counted a second time in a slower way."""

import json
from itertools import combinations

import pytest

from trl_score.evaluation.metrics import headline_metrics, pair_metrics, summarize_records
from trl_score.evaluation.records import EvaluationRecord
from trl_score.metrics import accuracy_by_turn, delta_standard_error, self_correction_metrics


def record(rewards, problem="a", answers=None, **fields):
    answers = answers or tuple(str(reward) for reward in rewards)
    turns = tuple(f"It is {answer}." for answer in answers)
    return EvaluationRecord(problem, turns, rewards, answers, problem, truncated=(False,) * len(turns), **fields)


def values(metrics):
    return {name: metric["value"] for name, metric in metrics.items() if isinstance(metric, dict)}


# Four problems: fixed, broken, right, wrong; and one that could not be scored at turn 2.
FOUR = [
    record((0.0, 1.0), "a", task="sums", level=1),
    record((1.0, 0.0), "b", task="sums", level=2),
    record((1.0, 1.0), "c", task="sums", level=2),
    record((0.0, 0.0), "d", task="words", level=None),
    record((1.0, None), "e", task="words", level=3),
]


def test_counts_and_the_pair_of_two_turns():
    summary = summarize_records(FOUR)
    assert summary["num_problems"] == summary["num_records"] == 5
    assert (summary["num_unscorable"], summary["num_failed"]) == (1, 0)
    assert list(summary["pairs"]) == ["t1_t2"]
    pair = summary["pairs"]["t1_t2"]
    assert values(pair) == {
        "accuracy_t1": 0.5,
        "accuracy_t2": 0.5,
        "delta_t1_t2": 0.0,
        "delta_i_to_c": 0.25,
        "delta_c_to_i": 0.25,
        "correction_rate": 0.5,
        "regression_rate": 0.5,
        "answers_changed": 0.5,
        # Two of 10 characters differ ("0" and "1"), of 20 in both, in half of the problems; as indels twice as much.
        "edit_distance_ratio": pytest.approx(0.5 * 1 / 20),
        "edit_distance_ratio_indel": pytest.approx(0.5 * 2 / 20),
        "turns_unchanged": 0.5,
    }
    assert pair["delta_standard_error"] == pytest.approx(((0.25 + 0.25 - 0.0) / 4) ** 0.5)
    # Each turn over the problems scorable at it: 3 of 5, and 2 of 4.
    assert [interval["value"] for interval in summary["accuracy_by_turn"]] == [0.6, 0.5]
    assert "pass_at_k" not in summary


def test_json_can_hold_it():
    text = json.dumps(summarize_records(FOUR), allow_nan=False)
    assert json.loads(text) == summarize_records(FOUR)


def test_levels_and_tasks_have_tables_of_their_own():
    summary = summarize_records(FOUR)
    assert list(summary["by_level"]) == ["1", "2", "3"]
    assert list(summary["by_task"]) == ["sums", "words"]
    level_2 = summary["by_level"]["2"]
    assert (level_2["num_problems"], level_2["num_unscorable"]) == (2, 0)
    assert level_2["pairs"]["t1_t2"]["delta_c_to_i"]["value"] == 0.5
    assert level_2["accuracy_by_turn"][0]["value"] == 1.0
    # The only problem of level 3 has no second turn to compare with.
    level_3 = summary["by_level"]["3"]
    assert (level_3["num_unscorable"], level_3["pairs"]["t1_t2"]) == (1, None)
    assert level_3["accuracy_by_turn"][1] == {"value": None, "low": None, "high": None}
    assert summary["by_task"]["words"]["num_unscorable"] == 1
    assert summarize_records([record((0.0, 1.0))])["by_level"] == {}


def test_first_and_last_turn_and_all_neighbours():
    summary = summarize_records([record((0.0, 1.0, 1.0, 0.0), "a"), record((0.0, 0.0, 1.0, 1.0), "b")])
    assert list(summary["pairs"]) == ["t1_t4", "t1_t2", "t2_t3", "t3_t4"]
    deltas = {name: pair[f"delta_{name}"]["value"] for name, pair in summary["pairs"].items()}
    assert deltas == {"t1_t4": 0.5, "t1_t2": 0.5, "t2_t3": 0.5, "t3_t4": -0.5}
    assert [interval["value"] for interval in summary["accuracy_by_turn"]] == [0.0, 0.5, 1.0, 0.5]


def test_a_single_turn_has_an_accuracy_and_no_pair():
    records = [record((0.0,), "a"), record((1.0,), "b")]
    assert headline_metrics(records)["accuracy_t1"].value == 0.5
    summary = summarize_records(records)
    assert summary["pairs"] == {}
    assert len(summary["accuracy_by_turn"]) == 1


def sampled(rewards_by_problem, answers_by_problem):
    """Records in the order in which they are made: all problems once, then again."""
    problems = list(zip("abcdefgh", rewards_by_problem, answers_by_problem, strict=False))
    num_samples = len(rewards_by_problem[0])
    return [
        record(rewards[sample], name, answers[sample], sample=sample)
        for sample in range(num_samples)
        for name, rewards, answers in problems
    ]


REWARDS = [
    [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0), (0.0, 0.0)],
    [(0.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.0, 0.0)],
]
ANSWERS = [
    [("8", "8"), ("7", "9"), ("7", "8"), ("6", "6")],
    [("1", "1"), ("2", "1"), ("3", "5"), ("1", "1")],
]


def test_samples_of_a_problem_are_resampled_together():
    records = sampled(REWARDS, ANSWERS)
    pair = headline_metrics(records)
    expected = self_correction_metrics([one.correct for one in records], groups=["a", "b"] * 4)
    assert pair["delta_t1_t2"] == expected["delta_t1_t2"]
    assert pair["delta_t1_t2"] != self_correction_metrics([one.correct for one in records])["delta_t1_t2"]
    assert pair == pair_metrics(records, (1, 2))
    summary = summarize_records(records)
    options = {"groups": ["a", "b"] * 4}
    by_turn = accuracy_by_turn([one.correct for one in records], **options)
    assert summary["accuracy_by_turn"] == [interval.as_dict() for interval in by_turn]
    error = delta_standard_error(*zip(*(one.correct for one in records), strict=True), **options)
    assert summary["pairs"]["t1_t2"]["delta_standard_error"] == error
    assert error != delta_standard_error(*zip(*(one.correct for one in records), strict=True))


def any_of_k(rewards, k):
    """pass@k the slow way: all ways to draw k samples."""
    draws = list(combinations(rewards, k))
    return sum(max(draw) for draw in draws) / len(draws)


def test_pass_at_k_and_maj_at_k_of_each_turn():
    summary = summarize_records(sampled(REWARDS, ANSWERS))
    assert (summary["num_problems"], summary["num_records"]) == (2, 8)
    for turn in (0, 1):
        curve = values(summary["pass_at_k"][f"t{turn + 1}"])
        assert list(curve) == ["1", "2", "4"]
        for k in (1, 2, 4):
            chances = [any_of_k([rewards[turn] for rewards in samples], k) for samples in REWARDS]
            assert curve[str(k)] == pytest.approx(sum(chances) / 2)
    # First turns of a: 8 7 7 6, where 8 is right; of b: 1 2 3 1, where none is. A tie goes to the first.
    assert values(summary["maj_at_k"]["t1"]) == {"1": 0.5, "2": 0.5, "4": 0.0}
    # Second turns of a: 8 9 8 6; of b: 1 1 5 1.
    assert values(summary["maj_at_k"]["t2"]) == {"1": 0.5, "2": 0.5, "4": 0.5}
    # 2K first turns against the second turns of K rollouts.
    assert values(summary["inference_scaling"]["parallel"]) == {"2": 0.5, "4": 0.0}
    assert values(summary["inference_scaling"]["corrected"]) == {"2": 0.5, "4": 0.5}


def test_k_goes_up_to_the_fewest_scorable_samples():
    rewards = [REWARDS[0], [(None, None), (0.0, 0.0), (0.0, 1.0), (0.0, 0.0)], [(None, None)] * 4]
    summary = summarize_records(sampled(rewards, [*ANSWERS, ANSWERS[1]]))
    # The third problem could not be scored at all and does not count.
    assert list(summary["pass_at_k"]["t1"]) == ["1", "2", "3"]
    assert summary["pass_at_k"]["t1"]["1"]["value"] == pytest.approx((1 / 4 + 0) / 2)


def test_no_k_where_a_turn_was_never_scored():
    rewards = [[(0.0, 1.0, None)] * 2]
    summary = summarize_records(sampled(rewards, [[("7", "8", "9")] * 2]))
    assert summary["pass_at_k"]["t3"] == {} and list(summary["pass_at_k"]["t2"]) == ["1", "2"]
    assert summary["maj_at_k"]["t3"] == {}
    never_t2 = summarize_records(sampled([[(0.0, None, 1.0)] * 2], [[("7", "8", "9")] * 2]))
    assert "inference_scaling" in summary and "inference_scaling" not in never_t2
    assert summary["pairs"]["t1_t3"] is None


def test_a_budget_whose_majority_nobody_could_score_leaves_inference_scaling_out():
    # K = 1 is the first second turn, which was not scored; the majority of two was.
    summary = summarize_records(sampled([[(1.0, None), (1.0, 1.0)]], [[("5", "4"), ("5", None)]]))
    assert "1" not in summary["maj_at_k"]["t2"] and "inference_scaling" not in summary


def test_single_turns_have_no_inference_scaling():
    summary = summarize_records(sampled([[(1.0,), (0.0,)]], [[("8",), ("7",)]]))
    assert "inference_scaling" not in summary
    assert values(summary["maj_at_k"]["t1"]) == {"1": 1.0, "2": 1.0}


def test_failures_are_counted():
    assert summarize_records([*FOUR, record((None, None), "f", failure="HTTP 500")])["num_failed"] == 1


def test_nothing_scorable_is_an_error_and_no_number():
    with pytest.raises(ValueError, match="at least one problem that is scorable at turns 1 and 2, got none among 1"):
        headline_metrics([record((1.0, None))])
