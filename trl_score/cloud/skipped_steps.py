"""The preference pairs of a step that was skipped, as a person reads them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trl_score.step_guard import as_json, write_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def write_pairs(
    path: Path, batches: Sequence[Mapping[str, torch.Tensor]], tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """
    Writes the rows of some micro-batches, one a line: which pair it is of, whether its response is the chosen or the
    rejected one, its text with the critique, and the response's reward: `"nan"` or `"inf"` where that is no number.

    Args:
        path (`pathlib.Path`):
            A JSON Lines file.
        batches (`Sequence[Mapping]`):
            The micro-batches, each with its `rewards`, see `rows_as_text`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
    """
    rows: list[dict[str, Any]] = []
    num_pairs = 0
    for batch in batches:
        rows += [{**row, "pair": num_pairs + row["pair"]} for row in rows_as_text(batch, tokenizer)]
        num_pairs += len(batch["rewards"])
    write_rows(path, rows)


def rows_as_text(batch: Mapping[str, torch.Tensor], tokenizer: "PreTrainedTokenizerBase") -> Iterator[dict[str, Any]]:
    """
    Brings a micro-batch into a form that a person can read.

    Args:
        batch (`Mapping`):
            `input_ids` and `attention_mask` of shape `(R, T)`, `rewards` of shape `(B, 2)`, of chosen and rejected
            responses, and where a response has several critiques `response_of_row` of shape `(R,)`, below 2B.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.

    Yields:
        `dict`: of one row `pair`, `response`, `text` and `reward`.
    """
    rewards = batch["rewards"].T.flatten().tolist()  # of the chosen responses first, as the rows are
    num_pairs = len(batch["rewards"])
    responses = batch.get("response_of_row")
    response_of_row = range(2 * num_pairs) if responses is None else responses.tolist()
    for ids, mask, response in zip(batch["input_ids"], batch["attention_mask"], response_of_row, strict=True):
        yield {
            "pair": response % num_pairs,
            "response": "chosen" if response < num_pairs else "rejected",
            "text": tokenizer.decode(ids[mask.bool()]),
            "reward": as_json(rewards[response]),
        }
