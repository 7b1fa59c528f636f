"""The rollouts of a step that was skipped, as a person reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trl_score.step_guard import as_json, write_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    write_rows(path, rows)


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
