"""Which rollouts there is something to learn from: of a prompt that is answered alike each time there is not."""

from typing import Any

import torch


def has_signal(returns_t1: torch.Tensor, returns_t2: torch.Tensor, group_size: int) -> torch.Tensor:
    """
    Tells the groups in which the return of one turn or the other differs between rollouts.

    In the others each return equals the mean of its group and of the rest of it, so all advantages are 0, and so is the
    policy gradient.

    Args:
        returns_t1 (`torch.Tensor` of shape `(N,)`):
            Returns of turn 1, without the KL; NaN where it could not be scored.
        returns_t2 (`torch.Tensor` of shape `(N,)`):
            Returns of turn 2.
        group_size (`int`):
            G, rollouts of a prompt, which stand together.

    Returns:
        `torch.Tensor` of shape `(N,)`: `True` for each rollout of a group with a difference.

    Example:

    ```python
    >>> has_signal(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0]), group_size=2)
    tensor([ True,  True, False, False])

    ```
    """
    differs = torch.zeros(len(returns_t1) // group_size, dtype=torch.bool, device=returns_t1.device)
    for returns in (returns_t1, returns_t2):
        groups = returns.view(-1, group_size)
        is_unscored = torch.isnan(groups)
        lowest = groups.masked_fill(is_unscored, torch.inf).amin(dim=1)
        highest = groups.masked_fill(is_unscored, -torch.inf).amax(dim=1)
        differs |= lowest < highest
    return differs.repeat_interleave(group_size)


def only_with_signal(batch: dict[str, Any], is_kept: torch.Tensor) -> tuple[dict[str, Any], float]:
    """
    Leaves rows out of a batch. At least one is left, as a process must take part in each forward and backward; if none
    has a signal, it is one that no token is learned of.

    Args:
        batch (`dict`):
            Tensors, those of B rows with B as their first size, `turn_of_token` of shape `(B, T)` among them.
        is_kept (`torch.Tensor` of shape `(B,)`):
            Which rows are kept.

    Returns:
        `dict` and `float`: the batch of the rows that are kept, and their share of the B rows, by which a mean over
            rows is to be multiplied.
    """
    num_rows = len(is_kept)
    share = float(is_kept.float().mean())
    rows = is_kept.nonzero().squeeze(1) if share else torch.zeros(1, dtype=torch.long, device=is_kept.device)
    kept = {
        name: value[rows] if torch.is_tensor(value) and value.dim() and len(value) == num_rows else value
        for name, value in batch.items()
    }
    if not share:
        kept["turn_of_token"] = torch.zeros_like(kept["turn_of_token"])
    return kept, share
