"""From the rewards of both turns to the return that each turn's tokens are paid with.

SCoRe (arXiv 2409.12917): equation 3 (Stage I), equation 4 (Stage II), the bonus of section 5.2, and the credit
assignment of appendix A.4 (turn discount 0: each turn's tokens see that turn's return only).
"""

from dataclasses import dataclass
from typing import Literal

import torch

Stage = Literal[1, 2]


@dataclass(frozen=True)
class TurnReturns:
    """
    The return of each turn, what the baselines are subtracted from.

    Args:
        returns_t1 (`torch.Tensor` of shape `(N,)`):
            Return of turn 1.
        returns_t2 (`torch.Tensor` of shape `(N,)`):
            Return of turn 2.
        shaped_rewards_t2 (`torch.Tensor` of shape `(N,)`):
            Turn 2's reward after shaping and before any KL penalty: r2 in Stage I, r2 + alpha (r2 - r1) in Stage II.
    """

    returns_t1: torch.Tensor
    returns_t2: torch.Tensor
    shaped_rewards_t2: torch.Tensor


def shape_reward_t2(rewards_t1: torch.Tensor, rewards_t2: torch.Tensor, alpha: float) -> torch.Tensor:
    """
    Adds the progress bonus to turn 2's reward: r2 + alpha (r2 - r1).

    The bonus of SCoRe, section 5.2 (equation 5 of its first version). It pays turn 2 for what it adds to turn 1, and
    is never paid to turn 1: the four outcomes (r1, r2) of a binary reward give 0, 1 + alpha, -alpha and 1.

    Args:
        rewards_t1 (`torch.Tensor` of shape `(N,)`):
            Turn 1's reward; NaN where it could not be scored, which makes the result NaN.
        rewards_t2 (`torch.Tensor` of shape `(N,)`):
            Turn 2's reward; NaN likewise.
        alpha (`float`):
            Weight of the bonus; the paper takes 10.

    Returns:
        `torch.Tensor` of shape `(N,)`: the shaped reward of turn 2.

    Example:

    ```python
    >>> shape_reward_t2(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]), alpha=10.0)
    tensor([  0.,  11., -10.,   1.])

    ```

    N: rollouts.
    """
    return rewards_t2 + alpha * (rewards_t2 - rewards_t1)


def turn_returns(
    rewards_t1: torch.Tensor,
    rewards_t2: torch.Tensor,
    kl_penalties_t1: torch.Tensor,
    kl_penalties_t2: torch.Tensor,
    *,
    stage: Stage,
    alpha: float,
    turn_discount: float = 0.0,
) -> TurnReturns:
    """
    The return of each turn in one of the two stages.

    Stage I (equation 3):   return 1 = -penalty 1,        return 2 = r2 - penalty 2
    Stage II (equation 4):  return 1 = r1 - penalty 1,    return 2 = r2 + alpha (r2 - r1) - penalty 2
    and then                return 1 += turn_discount * return 2.

    A penalty is coefficient times KL: beta_2 KL1 for turn 1 in Stage I, beta_1 KL elsewhere (see `kl_coefficients`).
    It is 0 where the KL is a term of the loss instead.

    Args:
        rewards_t1 (`torch.Tensor` of shape `(N,)`):
            Reward of turn 1. NaN: could not be scored. Stage I does not look at it.
        rewards_t2 (`torch.Tensor` of shape `(N,)`):
            Reward of turn 2. NaN: could not be scored.
        kl_penalties_t1 (`torch.Tensor` of shape `(N,)`):
            Coefficient times the KL of turn 1, in nats per sequence.
        kl_penalties_t2 (`torch.Tensor` of shape `(N,)`):
            The same for turn 2.
        stage (`int`):
            1 or 2.
        alpha (`float`):
            Weight of the bonus, Stage II only.
        turn_discount (`float`, *optional*, defaults to `0.0`):
            Share of turn 2's return that turn 1 is paid too. The paper takes 0 and reports that 0.8 collapses.

    Returns:
        `TurnReturns`: NaN wherever a reward that the return needs is NaN.

    Raises:
        `ValueError`: If `stage` is neither 1 nor 2.

    Example:

    ```python
    >>> r1, r2, none = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([0.0])
    >>> turn_returns(r1, r2, torch.tensor([0.5]), none, stage=1, alpha=10.0).returns_t1
    tensor([-0.5000])
    >>> turn_returns(r1, r2, torch.tensor([0.5]), none, stage=2, alpha=10.0).returns_t2
    tensor([-10.])

    ```

    N: rollouts.
    """
    if stage == 1:
        own_t1, shaped_t2 = torch.zeros_like(rewards_t2), rewards_t2
    elif stage == 2:
        own_t1, shaped_t2 = rewards_t1, shape_reward_t2(rewards_t1, rewards_t2, alpha)
    else:
        raise ValueError(
            f"`stage` must be 1 or 2 here, got {stage!r}. A run through both stages passes the current one."
        )
    returns_t2 = shaped_t2 - kl_penalties_t2
    returns_t1 = own_t1 - kl_penalties_t1
    if turn_discount != 0.0:  # not `+ 0 * NaN`: an unscorable turn 2 must not take turn 1 with it at discount 0
        returns_t1 = returns_t1 + turn_discount * returns_t2
    return TurnReturns(returns_t1, returns_t2, shaped_t2)


def kl_coefficients(*, stage: Stage, beta_1: float, beta_2: float) -> tuple[float, float]:
    """
    The KL coefficient of turn 1 and of turn 2 in a stage.

    Stage I holds turn 1 with the strict beta_2 and turn 2 with the default beta_1; Stage II holds both with beta_1
    (SCoRe, equations 3 and 4; the paper says of Stage I that the default penalty "is omitted from Eq. 3").

    Args:
        stage (`int`):
            1 or 2.
        beta_1 (`float`):
            Default coefficient.
        beta_2 (`float`):
            Strict coefficient of turn 1 in Stage I.

    Returns:
        `tuple[float, float]`: coefficients of turn 1 and of turn 2.

    Example:

    ```python
    >>> kl_coefficients(stage=1, beta_1=0.01, beta_2=0.1)
    (0.1, 0.01)
    >>> kl_coefficients(stage=2, beta_1=0.01, beta_2=0.1)
    (0.01, 0.01)

    ```
    """
    return (beta_2, beta_1) if stage == 1 else (beta_1, beta_1)
