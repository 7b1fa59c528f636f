"""What passes between the steps."""

import dataclasses
import subprocess
import sys

import pytest

from trl_score.records import GeneratedTurn, Rollout

TURN_1, TURN_2 = GeneratedTurn([3, 4, 9], truncated=False), GeneratedTurn([5, 6], truncated=True)


def test_completion_is_all_that_follows_the_prompt():
    rollout = Rollout([1, 2], TURN_1, [7, 8], TURN_2)
    assert rollout.completion_ids == [3, 4, 9, 7, 8, 5, 6]


def test_turn_of_token_marks_each_turn_and_not_what_stands_between():
    rollout = Rollout([1, 2], TURN_1, [7, 8], TURN_2)
    assert rollout.turn_of_token == [1, 1, 1, 0, 0, 2, 2]


def test_tokens_of_an_offline_turn_are_nobodys():
    rollout = Rollout([1, 2], TURN_1, [7, 8], TURN_2, is_turn_1_offline=True)
    assert rollout.turn_of_token == [0, 0, 0, 0, 0, 2, 2]
    assert rollout.completion_ids == [3, 4, 9, 7, 8, 5, 6]


@pytest.mark.parametrize("is_turn_1_offline", [True, False])
def test_each_token_has_a_turn(is_turn_1_offline):
    for correction_ids in ([], [7]):
        rollout = Rollout([1], TURN_1, correction_ids, TURN_2, is_turn_1_offline)
        assert len(rollout.turn_of_token) == len(rollout.completion_ids)


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TURN_1.truncated = True
    with pytest.raises(dataclasses.FrozenInstanceError):
        Rollout([1], TURN_1, [], TURN_2).turn_2 = TURN_1


def test_records_and_log_keys_load_no_torch():
    code = "import sys, trl_score.records, trl_score.log_keys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
