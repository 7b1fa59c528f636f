"""What is logged of the two turns: sums and counts by hand."""

import pytest
import torch

from trl_score.log_keys import SCORE_LOG_KEYS
from trl_score.records import GeneratedTurn, Rollout
from trl_score.score.turn_metrics import (
    ROLLOUT_COLUMNS,
    MetricWindow,
    correctness,
    rollout_columns,
    self_correction_columns,
    turn_text,
    weighted_rewards,
)

NAN = float("nan")


def test_window_weighs_rollouts_and_not_batches():
    window = MetricWindow()
    window.add_mean("score/accuracy_t1", torch.tensor([1.0, 1.0, 1.0, 0.0]))
    window.add_mean("score/accuracy_t1", torch.tensor([0.0]))
    assert window.take_means() == {"score/accuracy_t1": 0.6}  # 3 of 5; the mean of both means would be 0.375


def test_window_leaves_out_what_is_not_known():
    window = MetricWindow()
    window.add_mean("score/reward_t1", torch.tensor([NAN, 2.0, NAN, 4.0]))
    window.add_mean("score/reward_t2", torch.tensor([NAN, NAN]))
    assert window.take_means() == {"score/reward_t1": 3.0, "score/reward_t2": None}


def test_window_starts_anew_after_its_means_were_taken():
    window = MetricWindow()
    window.add("score/stage", 1)
    assert window.take_means() == {"score/stage": 1.0}
    assert window.take_means() == {}
    window.add("score/stage", 2)
    assert window.take_means() == {"score/stage": 2.0}


def test_window_without_a_count_is_a_plain_mean_over_calls():
    window = MetricWindow()
    for seconds in (1.0, 2.0, 6.0):
        window.add("score/seconds_rewards", seconds)
    assert window.take_means() == {"score/seconds_rewards": 3.0}


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("4", "4"),
        ([{"role": "assistant", "content": "4"}], "4"),
        ([{"role": "assistant", "content": "It is "}, {"role": "assistant", "content": "4"}], "It is 4"),
        ([{"role": "assistant", "content": None, "reasoning_content": "2 + 2"}], ""),
        ([{"role": "assistant"}], ""),
        ([], ""),
    ],
)
def test_text_of_a_completion(completion, text):
    assert turn_text(completion) == text


def test_columns_of_two_rollouts():
    rollouts = [
        Rollout([1], GeneratedTurn([5, 6, 9], False), [7], GeneratedTurn([5, 9], False)),
        Rollout([1], GeneratedTurn([5, 6], True), [9, 7], GeneratedTurn([5], True), is_turn_1_offline=True),
    ]
    first = ["so \\boxed{4}", [{"role": "assistant", "content": "four"}]]
    second = ["no, \\boxed{4}", [{"role": "assistant", "content": "five"}]]
    columns = dict(zip(ROLLOUT_COLUMNS, rollout_columns(rollouts, first, second).T.tolist(), strict=True))
    assert columns["length_t1"] == [3.0, 2.0]
    assert columns["length_t2"] == [2.0, 1.0]
    assert columns["truncated_t1"] == columns["truncated_t2"] == columns["offline_turn_1"] == [0.0, 1.0]
    assert columns["answers_changed"] == [0.0, 1.0]  # both boxes hold 4; "four" is not "five"
    # "so" to "no," takes 2 edits, texts of 12 and 13 letters; "four" to "five" takes 3, texts of 4 and 4.
    assert columns["edit_distance_ratio"] == pytest.approx([2 / 25, 3 / 8])


def test_columns_are_logged_under_their_names():
    assert {f"score/{column}" for column in ROLLOUT_COLUMNS} <= set(SCORE_LOG_KEYS)


def test_completions_must_be_as_many_as_rollouts():
    rollout = Rollout([1], GeneratedTurn([5], False), [7], GeneratedTurn([5], False))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        rollout_columns([rollout], ["4"], [])


def test_right_is_above_one_half_by_the_first_function():
    rewards = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.51, 0.0], [-1.0, 1.0], [NAN, 1.0]])
    assert correctness(rewards)[:4].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert correctness(rewards)[4].isnan()


def test_weighted_rewards_sum_what_could_be_scored():
    rewards = torch.tensor([[1.0, 2.0], [NAN, 2.0], [1.0, NAN], [NAN, NAN]])
    weighted = weighted_rewards(rewards, torch.tensor([1.0, 0.25]))
    assert weighted[:3].tolist() == [1.5, 0.5, 1.0]
    assert weighted[3].isnan()  # never 0


def test_self_correction_columns_of_the_four_outcomes():
    columns = self_correction_columns(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert {key: values.tolist() for key, values in columns.items()} == {
        "score/delta_t1_t2": [0.0, 1.0, -1.0, 0.0],
        "score/delta_i_to_c": [0.0, 1.0, 0.0, 0.0],
        "score/delta_c_to_i": [0.0, 0.0, 1.0, 0.0],
    }


def test_self_correction_columns_need_both_turns():
    columns = self_correction_columns(torch.tensor([NAN, 1.0, 1.0]), torch.tensor([1.0, NAN, 1.0]))
    for values in columns.values():
        assert values.isnan().tolist() == [True, True, False]


def test_delta_is_what_is_fixed_less_what_is_broken():
    correct = torch.randint(0, 2, (2, 50), generator=torch.Generator().manual_seed(0)).float()
    columns = self_correction_columns(*correct)
    torch.testing.assert_close(
        columns["score/delta_t1_t2"], columns["score/delta_i_to_c"] - columns["score/delta_c_to_i"]
    )
