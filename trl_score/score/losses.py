"""The loss: a policy-gradient term and, if asked for, a KL term, both turns in one row of tokens.

Pure functions of tensors. Nothing here knows a stage: the stage is in the advantages and in the KL coefficients.
"""

from dataclasses import dataclass
from typing import Literal

import torch

KLEstimator = Literal["k1", "k2", "k3"]
RatioLevel = Literal["token", "sequence"]
LossType = Literal["rloo", "dapo", "dr_grpo"]


@dataclass(frozen=True)
class SCoReLoss:
    """
    The loss of a batch, token by token, before it is summed and normalised.

    Args:
        per_token_loss (`torch.Tensor` of shape `(B, T)`):
            Zero outside both turns.
        is_clipped (`torch.Tensor` of shape `(B, T)`):
            Whether the clip bound holds the token's gradient back. Detached.
    """

    per_token_loss: torch.Tensor
    is_clipped: torch.Tensor


def sum_over_turn(values: torch.Tensor, turn_of_token: torch.Tensor, turn: int) -> torch.Tensor:
    """
    Sums a value over the tokens of one turn.

    Args:
        values (`torch.Tensor` of shape `(B, T)`):
            Per-token values.
        turn_of_token (`torch.Tensor` of shape `(B, T)`):
            1 and 2 on the tokens of that turn, 0 elsewhere.
        turn (`int`):
            1 or 2.

    Returns:
        `torch.Tensor` of shape `(B,)`: the sums.

    Example:

    ```python
    >>> sum_over_turn(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([[1, 1, 0, 2]]), turn=1)
    tensor([3.])

    ```

    B: rollouts on this process; T: completion tokens.
    """
    return torch.where(turn_of_token == turn, values, torch.zeros_like(values)).sum(dim=1)


def sequence_kl(
    per_token_logps: torch.Tensor, ref_per_token_logps: torch.Tensor, turn_of_token: torch.Tensor, turn: int
) -> torch.Tensor:
    """
    The k1 estimate of a turn's reverse KL to the reference: the sum of log pi - log pi_ref over the turn's tokens.

    In nats per sequence. Unbiased for tokens sampled from pi; a single rollout's estimate can be negative. This is the
    KL that RLOO (arXiv 2402.14740) and SCoRe put in the reward.

    Args:
        per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the policy that sampled.
        ref_per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the frozen reference.
        turn_of_token (`torch.Tensor` of shape `(B, T)`):
            1 and 2 on the tokens of that turn, 0 elsewhere.
        turn (`int`):
            1 or 2.

    Returns:
        `torch.Tensor` of shape `(B,)`: nats per sequence.

    Example:

    ```python
    >>> logps, ref = torch.tensor([[-1.0, -1.0, -3.0]]), torch.tensor([[-1.5, -2.0, -1.0]])
    >>> sequence_kl(logps, ref, torch.tensor([[1, 1, 2]]), turn=1)
    tensor([1.5000])

    ```

    B: rollouts on this process; T: completion tokens.
    """
    return sum_over_turn(per_token_logps - ref_per_token_logps, turn_of_token, turn)


def per_token_kl(
    per_token_logps: torch.Tensor, ref_per_token_logps: torch.Tensor, estimator: Literal["k2", "k3"]
) -> torch.Tensor:
    """
    A KL term that can stand in the loss, differentiable through `per_token_logps`.

    With d = log pi - log pi_ref:
    - `"k2"`: d^2 / 2. Its on-policy gradient, d * grad log pi, is the reverse KL's gradient, token by token.
    - `"k3"`: exp(-d) + d - 1, TRL's estimator. Its value is unbiased, but as a loss its on-policy gradient,
      (1 - exp(-d)) * grad log pi, is that of the *forward* KL (arXiv 2506.09477, 2512.21852). For comparison only.
    (k1 = d has zero expected gradient as a loss, so it belongs in the reward: see `sequence_kl`.)

    Args:
        per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the policy, with gradient.
        ref_per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the frozen reference.
        estimator (`str`):
            `"k2"` or `"k3"`.

    Returns:
        `torch.Tensor` of shape `(B, T)`: nats per token, never negative.

    Raises:
        `ValueError`: If `estimator` is neither.

    Example:

    ```python
    >>> per_token_kl(torch.tensor([[-1.0]]), torch.tensor([[-3.0]]), "k2")
    tensor([[2.]])

    ```

    B: rollouts on this process; T: completion tokens.
    """
    log_ratio = per_token_logps - ref_per_token_logps
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    if estimator == "k3":
        return torch.exp(-log_ratio) + log_ratio - 1.0
    raise ValueError(f"`estimator` must be 'k2' or 'k3' in the loss, got {estimator!r}. k1 belongs in the reward.")


def importance_log_ratio(
    per_token_logps: torch.Tensor,
    old_per_token_logps: torch.Tensor,
    turn_of_token: torch.Tensor,
    level: RatioLevel = "token",
) -> torch.Tensor:
    """
    Log of the ratio between the policy that learns and the policy that sampled, for each token.

    `"token"` (PPO, GRPO): the token's own ratio. `"sequence"` (GSPO, arXiv 2507.18071): the mean of the log ratio over
    the *turn* that the token belongs to, so that one turn's drift never clips the other.

    Args:
        per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the policy that learns.
        old_per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the policy that sampled.
        turn_of_token (`torch.Tensor` of shape `(B, T)`):
            1 and 2 on the tokens of that turn, 0 elsewhere.
        level (`str`, *optional*, defaults to `"token"`):
            `"token"` or `"sequence"`.

    Returns:
        `torch.Tensor` of shape `(B, T)`: log ratios; at level `"sequence"` 0 outside both turns.

    Raises:
        `ValueError`: If `level` is neither.

    Example:

    ```python
    >>> new, old = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.0, -3.0, -3.0]])
    >>> importance_log_ratio(new, old, torch.tensor([[1, 1, 2]]), level="sequence")
    tensor([[0.5000, 0.5000, 0.0000]])

    ```

    B: rollouts on this process; T: completion tokens.
    """
    log_ratio = per_token_logps - old_per_token_logps
    if level == "token":
        return log_ratio
    if level != "sequence":
        raise ValueError(f"`level` must be 'token' or 'sequence', got {level!r}.")
    spread = torch.zeros_like(log_ratio)
    for turn in (1, 2):
        is_turn = turn_of_token == turn
        mean = sum_over_turn(log_ratio, turn_of_token, turn) / is_turn.sum(dim=1).clamp(min=1)
        spread = torch.where(is_turn, mean.unsqueeze(1), spread)
    return spread


def score_loss(
    per_token_logps: torch.Tensor,
    old_per_token_logps: torch.Tensor,
    advantages: torch.Tensor,
    turn_of_token: torch.Tensor,
    *,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    ratio_level: RatioLevel = "token",
    ref_per_token_logps: torch.Tensor | None = None,
    kl_coefficients: torch.Tensor | None = None,
    kl_estimator: Literal["k2", "k3"] = "k2",
    importance_weights: torch.Tensor | None = None,
) -> SCoReLoss:
    """
    The policy-gradient loss of both turns, clipped, plus the KL term where the KL is not in the reward.

    loss_t = -w_t min(ratio_t A_t, clip(ratio_t, 1 - epsilon_low, 1 + epsilon_high) A_t) + beta_t KL_t

    On-policy (`old_per_token_logps` equal to `per_token_logps` detached) its gradient is -A_t grad log pi_t, which is
    REINFORCE, the paper's policy gradient (equation 2).

    Args:
        per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the policy, with gradient.
        old_per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the policy that sampled, without gradient.
        advantages (`torch.Tensor` of shape `(B, T)`):
            Each token's advantage, from `spread_over_turns`.
        turn_of_token (`torch.Tensor` of shape `(B, T)`):
            1 and 2 on the tokens to learn from, 0 elsewhere (correction prompt, padding, offline turns).
        epsilon_low (`float`, *optional*, defaults to `0.2`):
            Lower clip range.
        epsilon_high (`float`, *optional*, defaults to `0.2`):
            Upper clip range.
        ratio_level (`str`, *optional*, defaults to `"token"`):
            See `importance_log_ratio`.
        ref_per_token_logps (`torch.Tensor` of shape `(B, T)`, *optional*):
            Log-probabilities under the reference; needed with `kl_coefficients`.
        kl_coefficients (`torch.Tensor` of shape `(B, T)`, *optional*):
            Each token's beta. Leave out where the KL is in the reward.
        kl_estimator (`str`, *optional*, defaults to `"k2"`):
            See `per_token_kl`.
        importance_weights (`torch.Tensor` of shape `(B, T)`, *optional*):
            Each token's w, from `importance.importance_weights`, where an engine sampled by other numbers than the
            trainer's. 1 by default. As in TRL, the KL term is not weighed.

    Returns:
        `SCoReLoss`: per-token losses and clip marks.

    Raises:
        `ValueError`: If `kl_coefficients` come without `ref_per_token_logps`.

    Example:

    ```python
    >>> logps = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    >>> turns = torch.tensor([[1, 0, 2]])
    >>> loss = score_loss(logps, logps.detach(), torch.tensor([[2.0, 5.0, -1.0]]), turns).per_token_loss.sum()
    >>> loss.backward(); logps.grad
    tensor([[-2.,  0.,  1.]])

    ```

    B: rollouts on this process; T: completion tokens.
    """
    if kl_coefficients is not None and ref_per_token_logps is None:
        raise ValueError("`kl_coefficients` need `ref_per_token_logps`, got None. Pass both, or neither.")
    is_learned = turn_of_token > 0
    # Tokens that are not learned from leave the graph here, not after the exponentials: where one of those overflows,
    # a zero weight would still give a NaN gradient.
    per_token_logps = torch.where(is_learned, per_token_logps, 0.0)
    old_per_token_logps = torch.where(is_learned, old_per_token_logps, 0.0)
    ratio = torch.exp(importance_log_ratio(per_token_logps, old_per_token_logps, turn_of_token, ratio_level))
    unclipped = ratio * advantages
    clipped = torch.clamp(ratio, 1.0 - epsilon_low, 1.0 + epsilon_high) * advantages
    per_token_loss = torch.where(is_learned, -torch.min(unclipped, clipped), 0.0)
    if importance_weights is not None:
        per_token_loss = per_token_loss * importance_weights
    if kl_coefficients is not None and ref_per_token_logps is not None:
        ref_per_token_logps = torch.where(is_learned, ref_per_token_logps, 0.0)
        kl = per_token_kl(per_token_logps, ref_per_token_logps, kl_estimator)
        per_token_loss = per_token_loss + kl_coefficients * kl
    return SCoReLoss(per_token_loss=per_token_loss, is_clipped=(clipped < unclipped).detach() & is_learned)


def reduce_loss(
    per_token_loss: torch.Tensor,
    loss_type: LossType,
    *,
    num_tokens: torch.Tensor | float,
    max_tokens: torch.Tensor | int,
) -> torch.Tensor:
    """
    From per-token losses to the scalar that is differentiated.

    - `"rloo"`: the sum over a rollout's tokens, averaged over rollouts. The paper's objective (equations 3 and 4 are
      expectations over rollouts, and the KL is one of sequences), so the balance of reward and KL holds at any length.
    - `"dapo"`: the sum over all tokens divided by their number: each token weighs the same, a long turn outweighs a
      short one.
    - `"dr_grpo"`: each rollout's sum divided by its length budget, averaged over rollouts: a constant, whatever the
      policy writes, so no length bias.

    Args:
        per_token_loss (`torch.Tensor` of shape `(B, T)`):
            Zero outside both turns.
        loss_type (`str`):
            One of the three above; the names are TRL's.
        num_tokens (`torch.Tensor` or `float`):
            Tokens learned from, in this process's share of the batch that one update sees. Only `"dapo"` uses it.
        max_tokens (`int` or `torch.Tensor` of shape `(B,)`):
            Length budget of both turns together, each rollout's or the same for all. Only `"dr_grpo"` uses it.

    Returns:
        `torch.Tensor` of shape `()`: the loss.

    Raises:
        `ValueError`: If `loss_type` is unknown.

    Example:

    ```python
    >>> losses = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    >>> reduce_loss(losses, "rloo", num_tokens=3, max_tokens=4)
    tensor(3.)
    >>> reduce_loss(losses, "dapo", num_tokens=3, max_tokens=4)
    tensor(2.)

    ```

    B: rollouts on this process; T: completion tokens.
    """
    if loss_type == "rloo":
        return per_token_loss.sum(dim=1).mean()
    if loss_type == "dapo":
        return per_token_loss.sum() / num_tokens
    if loss_type == "dr_grpo":
        return (per_token_loss.sum(dim=1) / max_tokens).mean()
    raise ValueError(f"`loss_type` must be 'rloo', 'dapo' or 'dr_grpo', got {loss_type!r}.")
