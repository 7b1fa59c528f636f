"""A step of CLoudRewardTrainer whose loss or gradient is no number changes nothing, is counted, and ends the run."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cloud_runs import CRITIQUES, preference_dataset, short_config
from local_models import build_tokenizer
from transformers import TrainerCallback

from trl_score.cloud.cloud_trainer import CLoudRewardTrainer
from trl_score.cloud.modeling import CLoudOutput
from trl_score.cloud.skipped_steps import write_pairs
from trl_score.log_keys import CLOUD_LOG_KEYS

NAN, INFINITE = math.nan, math.inf
OF_STEPS = {"cloud/skipped_steps", "cloud/rows_dropped", "cloud/rows_shortened"}


class SpoiledTrainer(CLoudRewardTrainer):
    """Spoils the loss, or the gradient alone, of the second micro-batch in some steps."""

    spoiled: dict[int, tuple[str, float]]
    num_micro_batches = 0

    def _critique_loss(self, outputs: CLoudOutput) -> torch.Tensor:
        loss = super()._critique_loss(outputs)
        self.num_micro_batches += 1
        what, value = self.spoiled.get(self.state.global_step, ("", 1.0))
        if self.num_micro_batches % 2 == 0 and what == "loss":
            return loss * value
        if self.num_micro_batches % 2 == 0 and what == "gradient":
            loss.register_hook(lambda gradient: gradient * value)
        return loss


class Snapshots(TrainerCallback):
    """Weights and optimizer state after each step."""

    def __init__(self) -> None:
        self.taken: list[list[torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **kwargs: Any) -> None:
        moments = [value for values in optimizer.state.values() for value in values.values()]
        self.taken.append([tensor.detach().clone() for tensor in (*model.parameters(), *moments)])

    def num_changed(self, step: int) -> int:
        """How many tensors a step has changed, of those after the one before."""
        before, after = self.taken[step - 2 : step]
        return sum(not torch.equal(*pair) for pair in zip(before, after, strict=True))


def spoiled_trainer(
    local_model: Callable[[str], Path], folder: Path, spoiled: dict[int, tuple[str, float]], **options: Any
) -> SpoiledTrainer:
    args = short_config(folder, per_device_train_batch_size=2, gradient_accumulation_steps=2, **options)
    trainer = SpoiledTrainer(str(local_model("qwen2")), args, train_dataset=preference_dataset())
    trainer.spoiled = spoiled
    return trainer


def training_logs(trainer: CLoudRewardTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def strict_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, read as strict readers of JSON do."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("what", "value"), [("loss", NAN), ("loss", INFINITE), ("gradient", NAN)])
def test_a_spoiled_step_changes_neither_weights_nor_optimizer(what, value, local_model, tmp_path):
    spoiled = {1: (what, value), 2: (what, value)}
    trainer = spoiled_trainer(local_model, tmp_path, spoiled, max_steps=4)
    snapshots = Snapshots()
    trainer.add_callback(snapshots)
    trainer.train()
    assert [snapshots.num_changed(step) > 0 for step in (2, 3, 4)] == [False, False, True]
    assert all(bool(tensor.isfinite().all()) for tensor in snapshots.taken[-1])
    logs = training_logs(trainer)
    assert [entry["cloud/skipped_steps"] for entry in logs] == [0.0, 1.0, 1.0, 0.0]
    assert all(math.isfinite(number) for entry in logs for number in entry.values())
    # Of a step whose loss is no number nothing else is logged.
    expected = OF_STEPS if what == "loss" else set(CLOUD_LOG_KEYS)
    assert [{key for key in entry if "/" in key} for entry in logs[1:3]] == [expected] * 2
    assert list(tmp_path.glob("skipped*")) == []


def test_what_a_spoiled_step_would_log_is_left_out_of_the_window(local_model, tmp_path):
    alone = spoiled_trainer(local_model, tmp_path, {}, max_steps=1)
    alone.train()
    trainer = spoiled_trainer(local_model, tmp_path, {1: ("loss", NAN)}, max_steps=2, logging_steps=2)
    trainer.train()
    (expected,), (found,) = training_logs(alone), training_logs(trainer)
    assert found["cloud/skipped_steps"] == 0.5
    for key in set(CLOUD_LOG_KEYS) - OF_STEPS:
        assert found[key] == expected[key], key


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_run_ends_after_three_in_a_row_and_writes_the_last_batch(what, local_model, tmp_path):
    spoiled = dict.fromkeys((0, 2, 3, 4), (what, NAN))
    trainer = spoiled_trainer(local_model, tmp_path, spoiled, max_steps=8, max_length=512)
    message = r"in 3 steps in a row, of which step 5 is the last, .* are in .*skipped_step_5_process_\*\.jsonl"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()
    assert trainer.state.global_step == 4
    assert [entry["cloud/skipped_steps"] for entry in training_logs(trainer)] == [1.0, 0.0, 1.0, 1.0]
    rows = strict_rows(tmp_path / "skipped_step_5_process_0.jsonl")
    # Both micro-batches, of 2 pairs each.
    assert sorted((row["pair"], row["response"]) for row in rows) == [
        (pair, response) for pair in range(4) for response in ("chosen", "rejected")
    ]
    data = preference_dataset()
    for row in rows:
        (source,) = (entry for entry in data if entry["prompt"] in row["text"])
        assert source[row["response"]] in row["text"]
        assert any(critique in row["text"] for critique in CRITIQUES[row["response"]])
        assert math.isfinite(row["reward"])
    chosen, rejected = ({row["pair"]: row for row in rows if row["response"] == name} for name in CRITIQUES)
    for pair in range(4):
        question = chosen[pair]["text"].partition("?")[0]
        assert rejected[pair]["text"].startswith(question)


def test_resumed_run_counts_the_steps_that_were_skipped_before(local_model, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 4}
    spoiled_trainer(local_model, tmp_path, dict.fromkeys((1, 2), ("loss", NAN)), max_steps=3, **options).train()
    resumed = spoiled_trainer(local_model, tmp_path, {4: ("loss", NAN)}, max_steps=4, **options)
    resumed.train(resume_from_checkpoint=True)
    assert training_logs(resumed)[-1]["cloud/skipped_steps"] == 0.5  # of all four steps
    resumed = spoiled_trainer(local_model, tmp_path, {3: ("loss", NAN)}, max_steps=4, **options)
    with pytest.raises(FloatingPointError, match="in 3 steps in a row, of which step 4 is the last"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_rows_as_a_person_reads_them(tmp_path):
    tokenizer = build_tokenizer("plain")
    texts = ["2 is right", "2, yes", "3 is right", "4", "5"]
    padded = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    batch = {
        **{key: padded[key] for key in ("input_ids", "attention_mask")},
        # Two pairs, the first chosen response with two critiques.
        "response_of_row": torch.tensor([0, 0, 1, 2, 3]),
        "rewards": torch.tensor([[0.5, NAN], [1.5, -INFINITE]]),
    }
    write_pairs(tmp_path / "rows.jsonl", [batch, batch], tokenizer)
    expected = [
        (0, "chosen", "2 is right", 0.5),
        (0, "chosen", "2, yes", 0.5),
        (1, "chosen", "3 is right", 1.5),
        (0, "rejected", "4", "nan"),
        (1, "rejected", "5", "-inf"),
    ]
    found = [
        tuple(row[key] for key in ("pair", "response", "text", "reward"))
        for row in strict_rows(tmp_path / "rows.jsonl")
    ]
    assert found == [*expected, *((pair + 2, *rest) for pair, *rest in expected)]
