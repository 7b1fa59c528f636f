"""From returns to advantages: the baselines, one group of rollouts per prompt, each turn on its own.

No advantage is divided by a standard deviation: in Stage II that would cancel alpha, which scales turn 2's return.
"""

from typing import Literal

import torch

Baseline = Literal["leave_one_out", "group_mean", "none"]


def group_advantages(returns: torch.Tensor, num_generations: int, baseline: Baseline) -> torch.Tensor:
    """
    Subtracts from each return the baseline of its prompt's group.

    - `"leave_one_out"` (RLOO, arXiv 2402.14740, what SCoRe uses): the mean of the *other* scorable returns of the
      group, so the baseline does not depend on the sample that it is subtracted from. A rollout with no scorable
      sibling gets advantage 0.
    - `"group_mean"` (GRPO, arXiv 2402.03300, without its division by the standard deviation): the mean of the group,
      the sample itself included. Equals leave-one-out times (G - 1) / G.
    - `"none"`: plain REINFORCE.

    Args:
        returns (`torch.Tensor` of shape `(N,)`):
            Returns of one turn, the G rollouts of a prompt next to each other. NaN marks a rollout that could not be
            scored: it is left out of every baseline and its own advantage is 0.
        num_generations (`int`):
            G, rollouts per prompt.
        baseline (`str`):
            One of the three above.

    Returns:
        `torch.Tensor` of shape `(N,)`: advantages, without NaN.

    Raises:
        `ValueError`: If `returns` does not hold whole groups, or `baseline` is unknown.

    Example:

    ```python
    >>> group_advantages(torch.tensor([1.0, 0.0, 2.0]), num_generations=3, baseline="leave_one_out")
    tensor([ 0.0000, -1.5000,  1.5000])
    >>> group_advantages(torch.tensor([1.0, float("nan"), 2.0]), num_generations=3, baseline="leave_one_out")
    tensor([-1.,  0.,  1.])

    ```

    N: rollouts on all processes; G: rollouts of one prompt.
    """
    if returns.numel() % num_generations != 0:
        raise ValueError(
            f"`returns` must hold whole groups of `num_generations={num_generations}` rollouts, got {returns.numel()} "
            "returns. Pass the returns of all processes, gathered in order."
        )
    groups = returns.view(-1, num_generations)  # (P, G)
    is_scorable = ~torch.isnan(groups)
    known = torch.where(is_scorable, groups, torch.zeros_like(groups))
    total, count = known.sum(dim=1, keepdim=True), is_scorable.sum(dim=1, keepdim=True)  # (P, 1)
    if baseline == "leave_one_out":
        num_others = count - is_scorable.int()
        advantages = known - (total - known) / num_others.clamp(min=1)
        advantages = torch.where(num_others > 0, advantages, torch.zeros_like(advantages))
    elif baseline == "group_mean":
        advantages = known - total / count.clamp(min=1)
    elif baseline == "none":
        advantages = known
    else:
        raise ValueError(f"`baseline` must be 'leave_one_out', 'group_mean' or 'none', got {baseline!r}.")
    return torch.where(is_scorable, advantages, torch.zeros_like(advantages)).view(-1)


def spread_over_turns(values_t1: torch.Tensor, values_t2: torch.Tensor, turn_of_token: torch.Tensor) -> torch.Tensor:
    """
    Gives every token the value of the turn that it belongs to, and 0 where it belongs to neither.

    This is the turn-level credit: turn 1's tokens see turn 1's advantage only, turn 2's tokens turn 2's, and the
    correction prompt and the padding see nothing.

    Args:
        values_t1 (`torch.Tensor` of shape `(B,)`):
            One value per rollout for turn 1, such as its advantage.
        values_t2 (`torch.Tensor` of shape `(B,)`):
            The same for turn 2.
        turn_of_token (`torch.Tensor` of shape `(B, T)`):
            1 and 2 on the tokens that the policy wrote in that turn, 0 elsewhere.

    Returns:
        `torch.Tensor` of shape `(B, T)`: the values token by token.

    Example:

    ```python
    >>> spread_over_turns(torch.tensor([3.0]), torch.tensor([-1.0]), torch.tensor([[1, 1, 0, 2, 0]]))
    tensor([[ 3.,  3.,  0., -1.,  0.]])

    ```

    B: rollouts on this process; T: completion tokens.
    """
    return values_t1.unsqueeze(1) * (turn_of_token == 1) + values_t2.unsqueeze(1) * (turn_of_token == 2)
