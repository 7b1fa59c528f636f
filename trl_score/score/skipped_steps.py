"""Steps whose loss or gradient is NaN or infinite: they change nothing, are counted, and end the run if they go on.

Stands between the loss and the optimizer.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_FILE = "skipped_step_{step}_process_{process}.jsonl"
"""In the run's folder: the rollouts of the last step that was skipped, one a line."""


class StepGuard:
    """
    Keeps the micro-batches of a step until it is known whether the step is sound.

    Args:
        most_in_a_row (`int`):
            Steps in a row that may be skipped; at this many the run ends.

    Example:

    ```python
    >>> guard = StepGuard(most_in_a_row=2)
    >>> guard.add({"advantages": torch.zeros(1)}, is_finite=False)
    >>> guard.end_step(grad_norm=1.0), guard.num_in_a_row, guard.is_over
    (False, 1, False)
    >>> guard.end_step(grad_norm=float("nan")), guard.num_in_a_row, guard.is_over
    (False, 2, True)

    ```
    """

    def __init__(self, most_in_a_row: int) -> None:
        self.most_in_a_row = most_in_a_row
        self.num_in_a_row = 0
        self.batches: list[Mapping[str, Any]] = []
        self._is_loss_finite = True

    def add(self, batch: Mapping[str, Any], *, is_finite: bool) -> None:
        """
        Takes note of a micro-batch.

        Args:
            batch (`Mapping`):
                The micro-batch.
            is_finite (`bool`):
                Whether its loss is finite, on all processes.
        """
        self.batches.append(batch)
        self._is_loss_finite &= is_finite

    def end_step(self, grad_norm: float) -> bool:
        """
        Says whether the optimizer may take the step.

        Args:
            grad_norm (`float`):
                The gradient's norm, the same on all processes.

        Returns:
            `bool`: whether all losses of the step and its gradient are finite.
        """
        is_sound = self._is_loss_finite and math.isfinite(grad_norm)
        self.num_in_a_row = 0 if is_sound else self.num_in_a_row + 1
        self._is_loss_finite = True
        if not self.is_over:
            self.batches = []
        return is_sound

    @property
    def is_over(self) -> bool:
        """`bool`: Whether so many steps in a row were skipped that the run must end."""
        return self.num_in_a_row >= self.most_in_a_row


def write_rollouts(
    path: Path, batches: Sequence[Mapping[str, torch.Tensor]], tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """
    Writes the rollouts of some micro-batches, one a line: prompt, completion with both turns and what stands between
    them, each turn's text, reward and advantage. `null` where a turn is not learned from, or has no reward; `"nan"` and
    `"inf"` where an advantage is no number, and `"inf"` where a reward is infinite.

    Args:
        path (`pathlib.Path`):
            A JSON Lines file.
        batches (`Sequence[Mapping]`):
            The micro-batches.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
    """
    rows = [
        rollout_as_text({key: batch[key][index] for key in _ROW_KEYS}, tokenizer)
        for batch in batches
        for index in range(len(batch["completion_ids"]))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


_ROW_KEYS = (
    *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "turn_of_token", "advantages"),
    *("rewards_t1", "rewards_t2"),
)


def rollout_as_text(row: Mapping[str, torch.Tensor], tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """
    Brings one rollout of a batch into a form that a person can read.

    Args:
        row (`Mapping`):
            `prompt_ids`, `prompt_mask`, `completion_ids`, `completion_mask`, `turn_of_token` and `advantages` of shape
            `(T,)`, `rewards_t1` and `rewards_t2` of shape `()`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.

    Returns:
        `dict`: texts, and each turn's reward and advantage.
    """
    text: dict[str, Any] = {
        name: tokenizer.decode(row[f"{name}_ids"][row[f"{name}_mask"].bool()]) for name in ("prompt", "completion")
    }
    for turn in (1, 2):
        is_turn, reward = row["turn_of_token"] == turn, row[f"rewards_t{turn}"]
        is_learned = bool(is_turn.any())
        text[f"turn_{turn}"] = tokenizer.decode(row["completion_ids"][is_turn]) if is_learned else None
        text[f"reward_t{turn}"] = None if torch.isnan(reward) else as_json(reward.item())
        text[f"advantage_t{turn}"] = as_json(row["advantages"][is_turn][0].item()) if is_learned else None
    return text


def as_json(number: float) -> float | str:
    """
    Gives a number as strict readers of JSON take it, which know no NaN and no infinity.

    Args:
        number (`float`):
            The number.

    Returns:
        `float` or `str`: the number, or its name.

    Example:

    ```python
    >>> as_json(0.5), as_json(float("nan")), as_json(float("-inf"))
    (0.5, 'nan', '-inf')

    ```
    """
    return number if math.isfinite(number) else str(number)
