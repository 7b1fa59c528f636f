"""What is logged of the two turns: sums and counts of rollouts and tokens, so that every mean is exact.

TRL logs the mean of batch means, which weighs a short last batch like a full one. A `MetricWindow` keeps sums and
counts instead, over all rollouts since the last log and over all processes.
"""

from collections.abc import Mapping, Sequence

import torch

from trl_score.metrics.edit_distance import edit_distance_ratio
from trl_score.records import RIGHT_ABOVE, Completion, Rollout
from trl_score.score.answers import extract_answer

ROLLOUT_COLUMNS = (
    "length_t1",
    "length_t2",
    "truncated_t1",
    "truncated_t2",
    "offline_turn_1",
    "answers_changed",
    "edit_distance_ratio",
)


class MetricWindow:
    """
    Means over everything that was added since the last `take_means`.

    Example:

    ```python
    >>> window = MetricWindow()
    >>> window.add("score/accuracy_t1", total=3.0, count=4)
    >>> window.add("score/accuracy_t1", total=0.0, count=2)
    >>> window.take_means(), window.take_means()
    ({'score/accuracy_t1': 0.5}, {})

    ```
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, key: str, total: float, count: float = 1) -> None:
        """
        Adds a sum over a number of things.

        Args:
            key (`str`):
                A key of `log_keys`.
            total (`float`):
                The sum.
            count (`float`, *optional*, defaults to `1`):
                How many were summed; 0 adds nothing.
        """
        old_total, old_count = self._sums.get(key, (0.0, 0.0))
        self._sums[key] = (old_total + total, old_count + count)

    def add_mean(self, key: str, values: torch.Tensor) -> None:
        """
        Adds values of which NaN ones do not count.

        Args:
            key (`str`):
                A key of `log_keys`.
            values (`torch.Tensor` of shape `(N,)`):
                The values.
        """
        known = values[~torch.isnan(values)]
        self.add(key, known.sum().item(), known.numel())

    def state(self) -> dict[str, tuple[float, float]]:
        """
        Gives what was added and not taken yet.

        Returns:
            `dict`: key to its sum and count.
        """
        return dict(self._sums)

    def load(self, state: Mapping[str, tuple[float, float]]) -> None:
        """
        Takes back what `state` gave, in place of what is here.

        Args:
            state (`Mapping`):
                Key to its sum and count.
        """
        self._sums = dict(state)

    def take_means(self) -> dict[str, float | None]:
        """
        Gives the means and empties the window.

        Returns:
            `dict`: key to mean; `None` where nothing could be counted (a NaN would break JSON logs).
        """
        means = {key: total / count if count else None for key, (total, count) in self._sums.items()}
        self._sums.clear()
        return means


def turn_text(completion: Completion) -> str:
    """
    Gives the text of a completion in either of TRL's forms.

    Args:
        completion (`str` or `list[dict]`):
            A text, or assistant messages.

    Returns:
        `str`: the text.

    Example:

    ```python
    >>> turn_text([{"role": "assistant", "content": "4"}]), turn_text("4")
    ('4', '4')

    ```
    """
    if isinstance(completion, str):
        return completion
    return "".join(message.get("content") or "" for message in completion)


def rollout_columns(
    rollouts: Sequence[Rollout], completions_t1: Sequence[Completion], completions_t2: Sequence[Completion]
) -> torch.Tensor:
    """
    Measures each rollout's two turns.

    Args:
        rollouts (`Sequence[Rollout]`):
            B rollouts.
        completions_t1 (`Sequence`):
            Their first turns, decoded.
        completions_t2 (`Sequence`):
            Their second turns, decoded.

    Returns:
        `torch.Tensor` of shape `(B, 7)`: the columns named in `ROLLOUT_COLUMNS`.
    """
    rows = []
    for rollout, completion_t1, completion_t2 in zip(rollouts, completions_t1, completions_t2, strict=True):
        text_t1, text_t2 = turn_text(completion_t1), turn_text(completion_t2)
        rows.append(
            [
                float(len(rollout.turn_1.token_ids)),
                float(len(rollout.turn_2.token_ids)),
                float(rollout.turn_1.truncated),
                float(rollout.turn_2.truncated),
                float(rollout.is_turn_1_offline),
                float(extract_answer(text_t1) != extract_answer(text_t2)),
                edit_distance_ratio(text_t1, text_t2),
            ]
        )
    return torch.tensor(rows, dtype=torch.float32)


def correctness(rewards_per_func: torch.Tensor) -> torch.Tensor:
    """
    Whether each turn is right, by the first reward function.

    Args:
        rewards_per_func (`torch.Tensor` of shape `(N, functions)`):
            Rewards of one turn; NaN where a function gave None.

    Returns:
        `torch.Tensor` of shape `(N,)`: 1, 0, or NaN where the first function could not score.

    Example:

    ```python
    >>> correctness(torch.tensor([[1.0, 0.2], [0.0, 0.9], [float("nan"), 0.9]]))
    tensor([1., 0., nan])

    ```

    N: rollouts on all processes.
    """
    first = rewards_per_func[:, 0]
    return torch.where(torch.isnan(first), first, (first > RIGHT_ABOVE).to(first.dtype))


def weighted_rewards(rewards_per_func: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    The weighted sum of a turn's rewards, as TRL forms it.

    Args:
        rewards_per_func (`torch.Tensor` of shape `(N, functions)`):
            Rewards of one turn; NaN where a function gave None.
        weights (`torch.Tensor` of shape `(functions,)`):
            TRL's `reward_weights`.

    Returns:
        `torch.Tensor` of shape `(N,)`: sums over the functions that could score; NaN where none could.

    Example:

    ```python
    >>> nan = float("nan")
    >>> weighted_rewards(torch.tensor([[1.0, 0.5], [nan, 0.5], [nan, nan]]), torch.tensor([1.0, 2.0]))
    tensor([2., 1., nan])

    ```

    N: rollouts on all processes.
    """
    rewards = (rewards_per_func * weights).nansum(dim=1)
    return torch.where(torch.isnan(rewards_per_func).all(dim=1), torch.nan, rewards)


def self_correction_columns(correct_t1: torch.Tensor, correct_t2: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """
    Per rollout, what the means of which are delta(t1,t2), delta i->c and delta c->i (SCoRe, section 4).

    Args:
        correct_t1 (`torch.Tensor` of shape `(N,)`):
            1, 0 or NaN (unscorable).
        correct_t2 (`torch.Tensor` of shape `(N,)`):
            The same of turn 2.

    Returns:
        `Mapping`: log key to a tensor `(N,)`, NaN where either turn is unscorable.

    Example:

    ```python
    >>> columns = self_correction_columns(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]))
    >>> columns["score/delta_i_to_c"], columns["score/delta_c_to_i"]
    (tensor([1., 0., 0.]), tensor([0., 1., 0.]))

    ```

    N: rollouts on all processes.
    """
    return {
        "score/delta_t1_t2": correct_t2 - correct_t1,
        "score/delta_i_to_c": (1 - correct_t1) * correct_t2,
        "score/delta_c_to_i": correct_t1 * (1 - correct_t2),
    }
