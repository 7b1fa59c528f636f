"""Importance weights: what makes up for an engine that samples by other numbers than the trainer computes.

vLLM has kernels and a precision of its own, so it samples from a policy that differs a little from the trainer's. TRL
weighs the loss by pi_trainer / pi_engine, over a whole completion or token by token
(https://fengyao.notion.site/off-policy-rl). Here a completion holds two turns, so the weight is a turn's own, and only
the tokens that are learned from count. Pure functions of tensors.
"""

from typing import Literal

import torch

ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
IMPORTANCE_MODES: tuple[ImportanceMode, ...] = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
"""TRL's modes: each token's own ratio or one for the whole turn; held within the bounds, or set to 0 beyond them."""

SAMPLING_COLUMNS = ("gap_sum", "gap_count", "gap_max", "ratio_sum", "ratio_count", "ratio_min", "ratio_max")
"""What `sampling_columns` gives of each rollout."""


def sampling_gap(
    per_token_logps: torch.Tensor, sampling_per_token_logps: torch.Tensor, turn_of_token: torch.Tensor
) -> torch.Tensor:
    """
    log pi_trainer - log pi_engine of each token, 0 where nothing is learned or the engine could not say.

    Args:
        per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities as the trainer computes them with the weights that sampled.
        sampling_per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities as the engine sampled; NaN where it could not say.
        turn_of_token (`torch.Tensor` of shape `(B, T)`):
            1 and 2 on the tokens to learn from, 0 elsewhere.

    Returns:
        `torch.Tensor` of shape `(B, T)`: differences, in nats.

    Example:

    ```python
    >>> own, engine = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.5, 0.0, torch.nan]])
    >>> sampling_gap(own, engine, torch.tensor([[1, 0, 2]]))
    tensor([[0.5000, 0.0000, 0.0000]])

    ```

    B: rollouts on this process; T: completion tokens.
    """
    is_known = (turn_of_token > 0) & ~torch.isnan(sampling_per_token_logps)
    return torch.where(is_known, per_token_logps - sampling_per_token_logps, 0.0)


def importance_weights(
    gap: torch.Tensor,
    turn_of_token: torch.Tensor,
    mode: ImportanceMode,
    *,
    clip_min: float | None,
    clip_max: float | None,
) -> torch.Tensor:
    """
    What each token's policy-gradient loss is multiplied by.

    The ratio is exp(gap) of the token (`"token_*"`), or exp of the gap's sum over the token's *turn* (`"sequence_*"`):
    what the engine did in one turn never weighs the other. `"*_truncate"` holds the ratio between `clip_min` and
    `clip_max`; `"*_mask"` sets it to 0 where it lies outside, so that the token or the turn is not learned from.

    Args:
        gap (`torch.Tensor` of shape `(B, T)`):
            From `sampling_gap`.
        turn_of_token (`torch.Tensor` of shape `(B, T)`):
            1 and 2 on the tokens to learn from, 0 elsewhere.
        mode (`str`):
            One of `IMPORTANCE_MODES`.
        clip_min (`float`, *optional*):
            Lower bound; none if `None`.
        clip_max (`float`, *optional*):
            Upper bound; none if `None`.

    Returns:
        `torch.Tensor` of shape `(B, T)`: weights, 1 on tokens that are not learned from.

    Raises:
        `ValueError`: If `mode` is none of them.

    Example:

    ```python
    >>> gap, turns = torch.tensor([[1.0, 1.0, -0.5, 0.5]]).log1p(), torch.tensor([[1, 1, 2, 2]])
    >>> importance_weights(gap, turns, "sequence_mask", clip_min=None, clip_max=3.0)
    tensor([[0.0000, 0.0000, 0.7500, 0.7500]])

    ```

    B: rollouts on this process; T: completion tokens.
    """
    if mode not in IMPORTANCE_MODES:
        raise ValueError(f"`mode` must be one of {', '.join(map(repr, IMPORTANCE_MODES))}, got {mode!r}.")
    ratio = torch.exp(_turn_sums(gap, turn_of_token) if mode.startswith("sequence") else gap)
    low, high = (0.0 if clip_min is None else clip_min), (torch.inf if clip_max is None else clip_max)
    if mode.endswith("truncate"):
        weights = ratio.clamp(low, high)
    else:
        weights = torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)
    return torch.where(turn_of_token > 0, weights, 1.0)


def _turn_sums(values: torch.Tensor, turn_of_token: torch.Tensor) -> torch.Tensor:
    """Each token's turn's sum, `(B, T)`; 0 outside both turns."""
    sums = torch.zeros_like(values)
    for turn in (1, 2):
        is_turn = turn_of_token == turn
        sums = torch.where(is_turn, torch.where(is_turn, values, 0.0).sum(dim=1, keepdim=True), sums)
    return sums


def sampling_columns(
    gap: torch.Tensor,
    weights: torch.Tensor,
    sampling_per_token_logps: torch.Tensor,
    turn_of_token: torch.Tensor,
    mode: ImportanceMode,
) -> torch.Tensor:
    """
    What is logged of each rollout's sampling, to be gathered from all processes.

    Args:
        gap (`torch.Tensor` of shape `(B, T)`):
            From `sampling_gap`.
        weights (`torch.Tensor` of shape `(B, T)`):
            From `importance_weights`.
        sampling_per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities as the engine sampled; NaN where it could not say.
        turn_of_token (`torch.Tensor` of shape `(B, T)`):
            1 and 2 on the tokens to learn from, 0 elsewhere.
        mode (`str`):
            With `"token_*"` each token's weight counts, with `"sequence_*"` each turn's, once.

    Returns:
        `torch.Tensor` of shape `(B, len(SAMPLING_COLUMNS))`: sums, counts and extremes. The gap's are those of its size
            where the engine said a log-probability.

    Example:

    ```python
    >>> own, engine, turns = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.75]]), torch.tensor([[1, 2]])
    >>> gap = sampling_gap(own, engine, turns)
    >>> sampling_columns(gap, torch.tensor([[2.0, 0.5]]), engine, turns, "token_truncate")
    tensor([[0.7500, 2.0000, 0.5000, 2.5000, 2.0000, 0.5000, 2.0000]])

    ```

    B: rollouts on this process; T: completion tokens.
    """
    is_learned = turn_of_token > 0
    is_known = is_learned & ~torch.isnan(sampling_per_token_logps)
    # One token of each turn stands for it: the first.
    counts = is_learned
    if mode.startswith("sequence"):
        counts = torch.stack([_first_of(turn_of_token == turn) for turn in (1, 2)]).any(dim=0)
    none_below, none_above = torch.full_like(weights, torch.inf), torch.full_like(weights, -torch.inf)
    return torch.stack(
        [
            gap.abs().sum(dim=1),
            is_known.sum(dim=1),
            torch.where(is_known, gap.abs(), none_above).amax(dim=1),
            torch.where(counts, weights, 0.0).sum(dim=1),
            counts.sum(dim=1),
            torch.where(counts, weights, none_below).amin(dim=1),
            torch.where(counts, weights, none_above).amax(dim=1),
        ],
        dim=1,
    )


def _first_of(mask: torch.Tensor) -> torch.Tensor:
    """Marks the first marked token of each row."""
    return mask & (mask.cumsum(dim=1) == 1)


def sampling_metrics(columns: torch.Tensor) -> dict[str, float]:
    """
    TRL's `sampling/*` keys, over the tokens that are learned from.

    Args:
        columns (`torch.Tensor` of shape `(N, len(SAMPLING_COLUMNS))`):
            From `sampling_columns`, of the rollouts of all processes.

    Returns:
        `dict[str, float]`: mean and largest size of the gap, and smallest, mean and largest weight. What there is
            nothing to say of is left out.

    Example:

    ```python
    >>> sampling_metrics(torch.tensor([[0.75, 3.0, 0.5, 2.0, 2.0, 0.5, 1.5]]))["sampling/sampling_logp_difference/mean"]
    0.25

    ```

    N: rollouts on all processes.
    """
    of = dict(zip(SAMPLING_COLUMNS, columns.T.double(), strict=True))
    metrics = {}
    if of["gap_count"].sum() > 0:
        metrics["sampling/sampling_logp_difference/mean"] = of["gap_sum"].sum() / of["gap_count"].sum()
        metrics["sampling/sampling_logp_difference/max"] = of["gap_max"].max()
    if of["ratio_count"].sum() > 0:
        metrics["sampling/importance_sampling_ratio/min"] = of["ratio_min"].min()
        metrics["sampling/importance_sampling_ratio/mean"] = of["ratio_sum"].sum() / of["ratio_count"].sum()
        metrics["sampling/importance_sampling_ratio/max"] = of["ratio_max"].max()
    return {key: float(value) for key, value in metrics.items()}
