"""The table of logged keys, in itself. That the trainer logs exactly these is a test of the trainer."""

import re

import pytest

from trl_score.log_keys import SCORE_LOG_KEYS


@pytest.mark.parametrize("key", SCORE_LOG_KEYS)
def test_key_is_in_the_group_of_its_method(key):
    assert re.fullmatch(r"score/[a-z0-9]+(_[a-z0-9]+)*", key)


@pytest.mark.parametrize(("key", "sentence"), SCORE_LOG_KEYS.items())
def test_sentence_is_one_and_ends(key, sentence):
    assert sentence[0].isupper() or sentence[0].isdigit() or sentence.startswith("accuracy_")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 120


def test_sentences_are_all_different():
    assert len(set(SCORE_LOG_KEYS.values())) == len(SCORE_LOG_KEYS)


def test_what_is_logged_of_one_turn_is_logged_of_the_other():
    for key in SCORE_LOG_KEYS:
        other = re.sub(r"_t([12])$", lambda match: f"_t{3 - int(match[1])}", key)
        # Turn 1 has no bonus, so its shaped reward would be its reward.
        assert other in SCORE_LOG_KEYS or key in ("score/delta_t1_t2", "score/shaped_reward_t2")


@pytest.mark.parametrize("key", [key for key in SCORE_LOG_KEYS if re.search(r"/(seconds|kl|entropy|length)_", key)])
def test_sentence_says_the_unit(key):
    unit = {"seconds": "Seconds", "kl": "nats", "entropy": "nats per token", "length": "tokens"}
    assert unit[key.removeprefix("score/").split("_")[0]] in SCORE_LOG_KEYS[key]


def test_what_the_issue_asks_for_is_there():
    # Issue 2: accuracy, reward, length, truncation, entropy and KL of each turn, and the paper's five metrics.
    per_turn = ("accuracy", "reward", "length", "truncated", "entropy", "kl", "kl_per_token", "seconds_generation")
    paper = ("delta_t1_t2", "delta_i_to_c", "delta_c_to_i", "answers_changed", "edit_distance_ratio")
    rest = ("shaped_reward_t2", "unscorable", "seconds_rewards", "seconds_log_probs", "seconds_update")
    expected = {*paper, *rest, *(f"{name}_t{turn}" for name in per_turn for turn in (1, 2))}
    assert {f"score/{name}" for name in expected} <= set(SCORE_LOG_KEYS)
