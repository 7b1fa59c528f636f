"""Baselines per prompt and per turn, and what each token gets: numbers by hand."""

import pytest
import torch

from trl_score.score.advantages import group_advantages, spread_over_turns

NAN = float("nan")


def advantages_of(returns, num_generations, baseline):
    return group_advantages(torch.tensor(returns), num_generations, baseline).tolist()


def test_leave_one_out_of_two_prompts():
    # Prompt 1: 3 - (0+0)/2 = 3; 0 - (3+0)/2 = -1.5, twice. Prompt 2: 1 - (2+6)/2 = -3; 2 - 3.5; 6 - 1.5.
    returns = [3.0, 0.0, 0.0, 1.0, 2.0, 6.0]
    assert advantages_of(returns, 3, "leave_one_out") == [3.0, -1.5, -1.5, -3.0, -1.5, 4.5]


def test_group_mean_of_two_prompts():
    # Means 1 and 3.
    returns = [3.0, 0.0, 0.0, 1.0, 2.0, 6.0]
    assert advantages_of(returns, 3, "group_mean") == [2.0, -1.0, -1.0, -2.0, -1.0, 3.0]


def test_no_baseline_is_the_return():
    assert advantages_of([3.0, -1.0], 2, "none") == [3.0, -1.0]


def test_group_mean_is_leave_one_out_times_g_minus_1_over_g():
    returns = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leave_one_out = group_advantages(returns, 4, "leave_one_out")
    torch.testing.assert_close(group_advantages(returns, 4, "group_mean"), leave_one_out * 3 / 4)


@pytest.mark.parametrize("baseline", ["leave_one_out", "group_mean"])
def test_prompts_do_not_see_each_other(baseline):
    first = advantages_of([1.0, 2.0, 100.0, 300.0], 2, baseline)
    second = advantages_of([1.0, 2.0, -7.0, 7.0], 2, baseline)
    assert first[:2] == second[:2]


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        # Scorable: 1, 2, 6. Leave-one-out means: 4, 3.5, 1.5. Were the unscorable one a 0, the first would be 1-8/3.
        ("leave_one_out", [-3.0, 0.0, -1.5, 4.5]),
        ("group_mean", [-2.0, 0.0, -1.0, 3.0]),  # mean 3
        ("none", [1.0, 0.0, 2.0, 6.0]),
    ],
)
def test_unscorable_return_is_in_no_baseline_and_has_no_advantage(baseline, expected):
    assert advantages_of([1.0, NAN, 2.0, 6.0], 4, baseline) == expected


def test_lone_scorable_return_has_nothing_to_be_compared_with():
    assert advantages_of([5.0, NAN, NAN], 3, "leave_one_out") == [0.0, 0.0, 0.0]
    assert advantages_of([5.0, NAN, NAN], 3, "group_mean") == [0.0, 0.0, 0.0]
    assert advantages_of([5.0, NAN, NAN], 3, "none") == [5.0, 0.0, 0.0]


@pytest.mark.parametrize("baseline", ["leave_one_out", "group_mean", "none"])
def test_group_without_any_scorable_return_is_all_zero(baseline):
    assert advantages_of([NAN, NAN, 1.0, 1.0], 2, baseline)[:2] == [0.0, 0.0]


@pytest.mark.parametrize("baseline", ["leave_one_out", "group_mean"])
def test_equal_returns_have_no_advantage(baseline):
    assert advantages_of([2.0, 2.0, 2.0], 3, baseline) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("baseline", ["leave_one_out", "group_mean", "none"])
def test_advantages_grow_with_the_returns(baseline):
    # Ten times the returns are ten times the advantages: nothing is divided by a standard deviation.
    small, large = advantages_of([1.0, 0.0, 0.5], 3, baseline), advantages_of([10.0, 0.0, 5.0], 3, baseline)
    assert large == pytest.approx([10 * value for value in small])


def test_leave_one_out_does_not_depend_on_the_sample_it_is_taken_from():
    # d advantage / d own return is 1 for leave-one-out, and 1 - 1/G for the group mean.
    returns = torch.tensor([1.0, 4.0, 2.0], requires_grad=True)
    group_advantages(returns, 3, "leave_one_out")[1].backward()
    assert returns.grad.tolist() == [-0.5, 1.0, -0.5]


def test_half_a_group_is_refused():
    with pytest.raises(ValueError, match=r"whole groups of `num_generations=4` rollouts, got 6 returns.*all processes"):
        group_advantages(torch.zeros(6), 4, "leave_one_out")


def test_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match=r"'leave_one_out', 'group_mean' or 'none', got 'critic'"):
        group_advantages(torch.zeros(4), 2, "critic")


def test_each_token_gets_the_value_of_its_turn():
    turn_of_token = torch.tensor([[1, 1, 0, 0, 2], [0, 0, 2, 2, 0]])  # the second one's turn 1 is offline
    values = spread_over_turns(torch.tensor([3.0, 5.0]), torch.tensor([-1.0, 2.0]), turn_of_token)
    assert values.tolist() == [[3.0, 3.0, 0.0, 0.0, -1.0], [0.0, 0.0, 2.0, 2.0, 0.0]]


def test_spreading_keeps_the_type_of_the_values():
    values = torch.ones(1, dtype=torch.float64)
    assert spread_over_turns(values, values, torch.tensor([[1, 2]])).dtype == torch.float64
