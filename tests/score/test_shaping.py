"""From rewards to returns: numbers from equations 3 and 4 of the paper, by hand."""

import pytest
import torch

from trl_score.score.shaping import kl_coefficients, shape_reward_t2, turn_returns

NAN = float("nan")

# Four rollouts, one of each outcome of a binary reward: wrong-wrong, fixed, broken, right-right.
REWARDS_T1 = torch.tensor([0.0, 0.0, 1.0, 1.0])
REWARDS_T2 = torch.tensor([0.0, 1.0, 0.0, 1.0])
PENALTIES_T1 = torch.tensor([0.5, 0.25, 0.0, -0.125])
PENALTIES_T2 = torch.tensor([0.0, 1.0, 2.0, -1.0])


def returns_of(stage, alpha=10.0, turn_discount=0.0, rewards_t1=REWARDS_T1, rewards_t2=REWARDS_T2):
    return turn_returns(
        rewards_t1, rewards_t2, PENALTIES_T1, PENALTIES_T2, stage=stage, alpha=alpha, turn_discount=turn_discount
    )


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (10.0, [0.0, 11.0, -10.0, 1.0]),  # r2 + 10 (r2 - r1): 0; 1 + 10; 0 - 10; 1 + 0
        (1.0, [0.0, 2.0, -1.0, 1.0]),
        (0.0, [0.0, 1.0, 0.0, 1.0]),  # no bonus: r2
    ],
)
def test_bonus_of_the_four_outcomes(alpha, expected):
    assert shape_reward_t2(REWARDS_T1, REWARDS_T2, alpha).tolist() == expected


def test_bonus_of_graded_rewards():
    # 0.75 + 2 (0.75 - 0.5) = 1.25 and -1 + 2 (-1 - 1) = -5
    shaped = shape_reward_t2(torch.tensor([0.5, 1.0]), torch.tensor([0.75, -1.0]), alpha=2.0)
    assert shaped.tolist() == [1.25, -5.0]


def test_stage_1_pays_turn_1_with_its_kl_alone_and_turn_2_with_its_reward():
    returns = returns_of(stage=1)
    assert returns.returns_t1.tolist() == [-0.5, -0.25, 0.0, 0.125]  # -penalty 1; r1 is in nobody's return
    assert returns.returns_t2.tolist() == [0.0, 0.0, -2.0, 2.0]  # r2 - penalty 2: 0-0, 1-1, 0-2, 1+1
    assert returns.shaped_rewards_t2.tolist() == REWARDS_T2.tolist()


def test_stage_1_does_not_look_at_alpha_or_at_the_reward_of_turn_1():
    plain = returns_of(stage=1)
    other = returns_of(stage=1, alpha=0.0, rewards_t1=torch.full((4,), NAN))
    assert torch.equal(plain.returns_t1, other.returns_t1)
    assert torch.equal(plain.returns_t2, other.returns_t2)


def test_stage_2_pays_turn_1_with_its_own_reward_and_turn_2_with_the_bonus():
    returns = returns_of(stage=2)
    assert returns.returns_t1.tolist() == [-0.5, -0.25, 1.0, 1.125]  # r1 - penalty 1
    assert returns.returns_t2.tolist() == [0.0, 10.0, -12.0, 2.0]  # 0-0, 11-1, -10-2, 1+1
    assert returns.shaped_rewards_t2.tolist() == [0.0, 11.0, -10.0, 1.0]


def test_turn_discount_adds_a_share_of_what_turn_2_is_paid():
    returns = returns_of(stage=2, turn_discount=0.5)
    assert returns.returns_t1.tolist() == [-0.5, 4.75, -5.0, 2.125]  # -0.5+0, -0.25+5, 1-6, 1.125+1
    assert returns.returns_t2.tolist() == returns_of(stage=2).returns_t2.tolist()


def test_discounted_return_that_the_dossier_works_out():
    # Discount 0.8, alpha 1, no KL: r1 + 0.8 (r2 + r2 - r1) = 0.2 r1 + 1.6 r2.
    none = torch.zeros(4)
    returns = turn_returns(REWARDS_T1, REWARDS_T2, none, none, stage=2, alpha=1.0, turn_discount=0.8)
    assert returns.returns_t1.tolist() == pytest.approx([0.0, 1.6, 0.2, 1.8], rel=1e-6)


def test_unscorable_turns_take_only_the_returns_that_need_them():
    rewards_t1, rewards_t2 = torch.tensor([NAN, 1.0, 1.0, 1.0]), torch.tensor([1.0, NAN, 1.0, 1.0])
    stage_1 = returns_of(1, rewards_t1=rewards_t1, rewards_t2=rewards_t2)
    assert stage_1.returns_t1.isnan().tolist() == [False, False, False, False]
    assert stage_1.returns_t2.isnan().tolist() == [False, True, False, False]
    stage_2 = returns_of(2, rewards_t1=rewards_t1, rewards_t2=rewards_t2)
    assert stage_2.returns_t1.isnan().tolist() == [True, False, False, False]
    assert stage_2.returns_t2.isnan().tolist() == [True, True, False, False]  # the bonus needs both
    discounted = returns_of(2, turn_discount=0.5, rewards_t1=rewards_t1, rewards_t2=rewards_t2)
    assert discounted.returns_t1.isnan().tolist() == [True, True, False, False]


@pytest.mark.parametrize("stage", [0, 3, "1", "both"])
def test_other_stages_are_refused(stage):
    with pytest.raises(ValueError, match=rf"`stage` must be 1 or 2 here, got {stage!r}"):
        returns_of(stage)


def test_kl_coefficients_are_strict_on_turn_1_of_stage_1_only():
    assert kl_coefficients(stage=1, beta_1=0.01, beta_2=0.25) == (0.25, 0.01)
    assert kl_coefficients(stage=2, beta_1=0.01, beta_2=0.25) == (0.01, 0.01)
