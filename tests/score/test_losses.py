"""The loss token by token: values and gradients by hand."""

import math

import pytest
import torch

from trl_score.score.losses import (
    importance_log_ratio,
    per_token_kl,
    reduce_loss,
    score_loss,
    sequence_kl,
    sum_over_turn,
)

LOG_2 = math.log(2.0)
NAN, INFINITY = float("nan"), float("inf")

# One rollout: turn 1 (two tokens), the correction prompt, turn 2, padding.
TURNS = torch.tensor([[1, 1, 0, 2, 0]])


def tensor(*values, requires_grad=False):
    return torch.tensor([values], dtype=torch.float64, requires_grad=requires_grad)


def test_sum_over_turn_ignores_what_stands_outside():
    values = tensor(1.0, 2.0, NAN, 4.0, INFINITY)
    assert sum_over_turn(values, TURNS, 1).tolist() == [3.0]
    assert sum_over_turn(values, TURNS, 2).tolist() == [4.0]


def test_sequence_kl_is_the_sum_of_the_log_ratio_and_may_be_negative():
    logps, ref = tensor(-1.0, -2.0, -9.0, -1.0, 0.0), tensor(-1.5, -3.0, 0.0, -0.25, 0.0)
    assert sequence_kl(logps, ref, TURNS, 1).tolist() == [1.5]  # (-1 + 1.5) + (-2 + 3)
    assert sequence_kl(logps, ref, TURNS, 2).tolist() == [-0.75]


def test_k2_is_half_the_squared_log_ratio():
    logps = tensor(-1.0, -3.0, requires_grad=True)
    kl = per_token_kl(logps, tensor(-3.0, -2.0), "k2")
    assert kl.tolist() == [[2.0, 0.5]]  # 2^2 / 2 and (-1)^2 / 2
    kl.sum().backward()
    assert logps.grad.tolist() == [[2.0, -1.0]]  # d itself


def test_k3_is_the_estimator_of_trl():
    # d = log 2: exp(-d) + d - 1 = 1/2 + log 2 - 1; gradient 1 - exp(-d) = 1/2.
    logps = tensor(-1.0, requires_grad=True)
    kl = per_token_kl(logps, tensor(-1.0 - LOG_2), "k3")
    assert kl.item() == pytest.approx(LOG_2 - 0.5)
    kl.sum().backward()
    assert logps.grad.item() == pytest.approx(0.5)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_in_the_loss_is_zero_and_flat_at_the_reference_and_never_negative(estimator):
    logps = tensor(-1.0, requires_grad=True)
    kl = per_token_kl(logps, tensor(-1.0), estimator)
    kl.sum().backward()
    assert (kl.item(), logps.grad.item()) == (0.0, 0.0)
    grid = torch.linspace(-4, 0, 41, dtype=torch.float64)
    assert (per_token_kl(grid, torch.full_like(grid, -2.0), estimator) >= 0).all()


def test_k2_has_the_gradient_of_the_reverse_kl_and_k3_that_of_the_forward_kl():
    # A policy over three tokens, all of which are sampled with their own probability: the expectation is exact.
    logits = torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.tensor([1.0, 0.2, -0.4], dtype=torch.float64), dim=0)
    logps = torch.log_softmax(logits, dim=0)
    reverse_kl = (logps.exp() * (logps - ref)).sum()
    forward_kl = (ref.exp() * (ref - logps)).sum()
    for estimator, kl in (("k2", reverse_kl), ("k3", forward_kl)):
        sampled = (logps.detach().exp() * per_token_kl(logps, ref, estimator)).sum()
        (expected,) = torch.autograd.grad(kl, logits, retain_graph=True)
        (got,) = torch.autograd.grad(sampled, logits, retain_graph=True)
        torch.testing.assert_close(got, expected)


def test_k1_in_the_loss_is_refused():
    with pytest.raises(ValueError, match=r"`estimator` must be 'k2' or 'k3' in the loss, got 'k1'.*in the reward"):
        per_token_kl(tensor(0.0), tensor(0.0), "k1")


def test_token_level_ratio_is_the_tokens_own():
    log_ratio = importance_log_ratio(tensor(-1.0, -2.0, 0.0, -3.0, 0.0), tensor(-1.5, -1.0, 0.0, -3.0, 0.0), TURNS)
    assert log_ratio.tolist() == [[0.5, -1.0, 0.0, 0.0, 0.0]]


def test_sequence_level_ratio_is_the_mean_of_its_own_turn():
    new, old = tensor(-1.0, -2.0, -7.0, -3.0, -8.0), tensor(-1.5, -1.0, -1.0, -5.0, 0.0)
    log_ratio = importance_log_ratio(new, old, TURNS, "sequence")
    assert log_ratio.tolist() == [[-0.25, -0.25, 0.0, 2.0, 0.0]]  # (0.5 - 1) / 2 and 2 / 1


def test_unknown_ratio_level_is_refused():
    with pytest.raises(ValueError, match="`level` must be 'token' or 'sequence', got 'turn'"):
        importance_log_ratio(tensor(0.0), tensor(0.0), torch.tensor([[1]]), "turn")


def loss_and_gradient(new, old, advantages, turns=TURNS, **kwargs):
    logps = new.clone().requires_grad_()
    loss = score_loss(logps, old, advantages, turns, **kwargs)
    loss.per_token_loss.sum().backward()
    return loss, logps.grad


@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
def test_on_policy_gradient_is_reinforce(ratio_level):
    logps, advantages = tensor(-1.0, -2.0, -3.0, -4.0, 0.0), tensor(3.0, 3.0, 7.0, -2.0, 7.0)
    loss, gradient = loss_and_gradient(logps, logps, advantages, ratio_level=ratio_level)
    assert loss.per_token_loss.tolist() == [[-3.0, -3.0, 0.0, 2.0, 0.0]]  # ratio 1: -A
    assert gradient.tolist() == [[-3.0, -3.0, 0.0, 2.0, 0.0]]  # -A grad log pi
    assert not loss.is_clipped.any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "is_clipped"),
    [
        (1.1, 2.0, -2.2, -2.2, False),  # inside the range: -ratio A, and its gradient is the same
        (1.5, 2.0, -2.4, 0.0, True),  # good and already likelier: held at 1.2
        (0.5, 2.0, -1.0, -1.0, False),  # good but less likely: no bound holds it back
        (0.5, -2.0, 1.6, 0.0, True),  # bad and already less likely: held at 0.8
        (1.5, -2.0, 3.0, 3.0, False),  # bad but likelier: no bound
        (1.5, 0.0, 0.0, 0.0, False),
    ],
)
def test_clipping(ratio, advantage, loss, gradient, is_clipped):
    turns = torch.tensor([[2]])
    got, got_gradient = loss_and_gradient(tensor(math.log(ratio)), tensor(0.0), tensor(advantage), turns)
    assert got.per_token_loss.item() == pytest.approx(loss)
    assert got_gradient.item() == pytest.approx(gradient)
    assert got.is_clipped.item() is is_clipped


def test_clip_ranges_are_set_apart():
    ratios = tensor(math.log(0.65), math.log(1.35), math.log(0.75), math.log(1.25))
    advantages, turns = tensor(-1.0, 1.0, -1.0, 1.0), torch.tensor([[1, 1, 2, 2]])
    loss, _ = loss_and_gradient(ratios, torch.zeros(1, 4), advantages, turns, epsilon_low=0.3, epsilon_high=0.28)
    assert loss.is_clipped.tolist() == [[True, True, False, False]]
    assert loss.per_token_loss[0].tolist() == pytest.approx([0.7, -1.28, 0.75, -1.25])


def test_drift_of_turn_1_never_clips_turn_2_at_sequence_level():
    # Turn 1 has drifted by exp(1); turn 2 not at all. A ratio over the whole row would be exp(2/3) and clip both.
    new, old = tensor(1.0, 1.0, 0.0), tensor(0.0, 0.0, 0.0)
    turns = torch.tensor([[1, 1, 2]])
    loss, gradient = loss_and_gradient(new, old, tensor(1.0, 1.0, 5.0), turns, ratio_level="sequence")
    assert loss.is_clipped.tolist() == [[True, True, False]]
    assert gradient.tolist() == [[0.0, 0.0, -5.0]]


def test_a_turns_gradient_at_sequence_level_is_shared_by_its_tokens():
    # Ratio exp(0.1) in both tokens of turn 1; each token's loss is -2 exp(0.1), each gradient their sum / 2.
    loss, gradient = loss_and_gradient(
        tensor(0.2, 0.0, 0.0, 0.0, 0.0), torch.zeros(1, 5), tensor(2.0, 2.0, 0.0, 0.0, 0.0), ratio_level="sequence"
    )
    assert loss.per_token_loss[0, :2].tolist() == pytest.approx([-2 * math.exp(0.1)] * 2)
    assert gradient[0, :2].tolist() == pytest.approx([-2 * math.exp(0.1)] * 2)


def test_kl_in_the_loss_pulls_each_turn_back_with_its_own_coefficient():
    logps, ref = tensor(-1.0, -2.0, -3.0, -4.0, 0.0), tensor(-1.5, -1.0, 0.0, -8.0, -9.0)
    coefficients = tensor(0.5, 0.5, 0.0, 0.125, 0.0)
    loss, gradient = loss_and_gradient(
        logps, logps, torch.zeros(1, 5), ref_per_token_logps=ref, kl_coefficients=coefficients
    )
    # beta d^2 / 2 with d = 0.5, -1 and 4; gradient beta d. On the correction prompt and the padding nothing.
    assert loss.per_token_loss.tolist() == [[0.0625, 0.25, 0.0, 1.0, 0.0]]
    assert gradient.tolist() == [[0.25, -0.5, 0.0, 0.5, 0.0]]


def test_k3_in_the_loss():
    logps, ref = tensor(0.0, 0.0), tensor(-LOG_2, LOG_2)
    loss, gradient = loss_and_gradient(
        logps,
        logps,
        torch.zeros(1, 2),
        torch.tensor([[1, 2]]),
        ref_per_token_logps=ref,
        kl_coefficients=torch.full((1, 2), 2.0),
        kl_estimator="k3",
    )
    assert loss.per_token_loss[0].tolist() == pytest.approx([2 * (LOG_2 - 0.5), 2 * (1 - LOG_2)])
    assert gradient[0].tolist() == pytest.approx([2 * (1 - 0.5), 2 * (1 - 2.0)])


@pytest.mark.parametrize("kl_estimator", ["k2", "k3"])
@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
def test_tokens_outside_both_turns_have_no_loss_and_no_gradient_whatever_they_hold(kl_estimator, ratio_level):
    # Padding may hold anything: -inf where a template token is impossible, values whose exponential overflows.
    new = tensor(-1.0, -1.0, -5000.0, -1.0, -INFINITY)
    old, ref = tensor(-1.0, -1.0, 5000.0, -1.0, NAN), tensor(-1.0, -1.0, 9000.0, -1.0, NAN)
    everywhere = torch.ones(1, 5, dtype=torch.float64)
    loss, gradient = loss_and_gradient(
        new,
        old,
        everywhere,
        ratio_level=ratio_level,
        ref_per_token_logps=ref,
        kl_coefficients=everywhere,
        kl_estimator=kl_estimator,
    )
    assert loss.per_token_loss.tolist() == [[-1.0, -1.0, 0.0, -1.0, 0.0]]
    assert gradient.tolist() == [[-1.0, -1.0, 0.0, -1.0, 0.0]]
    assert not loss.is_clipped.any()


def test_a_row_without_any_learned_token_gives_zero():
    turns = torch.zeros(1, 5, dtype=torch.long)
    loss, gradient = loss_and_gradient(tensor(*[-1.0] * 5), tensor(*[-2.0] * 5), torch.ones(1, 5), turns)
    assert loss.per_token_loss.abs().sum().item() == gradient.abs().sum().item() == 0.0


def test_importance_weights_scale_each_tokens_policy_gradient_and_not_its_kl():
    logps = tensor(-1.0, -2.0, -9.0, -1.0, 0.0, requires_grad=True)
    loss = score_loss(
        logps,
        logps.detach(),
        tensor(3.0, 3.0, 5.0, -2.0, 5.0),
        TURNS,
        importance_weights=tensor(2.0, 0.0, 7.0, 0.5, 7.0),
        ref_per_token_logps=tensor(-1.5, -2.0, 0.0, -1.0, 0.0),
        kl_coefficients=tensor(4.0, 4.0, 4.0, 4.0, 4.0),
    )
    # -w A, and 4 * 0.5^2 / 2 for the first token's KL.
    assert loss.per_token_loss.tolist() == [[-6.0 + 0.5, 0.0, 0.0, 1.0, 0.0]]
    loss.per_token_loss.sum().backward()
    assert logps.grad.tolist() == [[-6.0 + 2.0, 0.0, 0.0, 1.0, 0.0]]


def test_coefficients_without_a_reference_are_refused():
    with pytest.raises(ValueError, match="`kl_coefficients` need `ref_per_token_logps`, got None"):
        score_loss(tensor(0.0), tensor(0.0), tensor(0.0), torch.tensor([[1]]), kl_coefficients=tensor(1.0))


# Two rollouts with three and one tokens.
LOSSES = torch.tensor([[1.0, 2.0, 3.0], [5.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("rloo", 5.5),  # (1 + 2 + 3 + 5) / 2 rollouts
        ("dapo", 2.75),  # 11 / 4 tokens
        ("dr_grpo", 0.55),  # 11 / (2 rollouts * 10 tokens of budget)
    ],
)
def test_reductions(loss_type, expected):
    assert reduce_loss(LOSSES, loss_type, num_tokens=4, max_tokens=10).item() == pytest.approx(expected)


def test_each_rollout_is_divided_by_its_own_budget():
    # (6 / 4 + 5 / 10) / 2 rollouts
    loss = reduce_loss(LOSSES, "dr_grpo", num_tokens=4, max_tokens=torch.tensor([4, 10]))
    assert loss.item() == pytest.approx(1.0)


@pytest.mark.parametrize("loss_type", ["rloo", "dapo", "dr_grpo"])
def test_two_half_batches_give_the_whole_batch(loss_type):
    # Gradient accumulation over two micro-batches: half the tokens counted in each, and the mean of both losses.
    whole = reduce_loss(LOSSES, loss_type, num_tokens=4, max_tokens=10)
    halves = [reduce_loss(LOSSES[row : row + 1], loss_type, num_tokens=4 / 2, max_tokens=10) for row in (0, 1)]
    assert (sum(halves) / 2).item() == pytest.approx(whole.item())


def test_unknown_loss_type_is_refused():
    with pytest.raises(ValueError, match="'rloo', 'dapo' or 'dr_grpo', got 'grpo'"):
        reduce_loss(LOSSES, "grpo", num_tokens=4, max_tokens=10)
