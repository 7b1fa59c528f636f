"""A step whose loss or gradient is NaN or infinite changes nothing, is counted, and ends the run if it goes on."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from local_models import build_tokenizer
from score_runs import addition_dataset, odd_length, short_config, training_logs, weights_of
from transformers import TrainerCallback

from trl_score.score.score_trainer import SCoReTrainer
from trl_score.score.skipped_steps import rollout_as_text
from trl_score.step_guard import StepGuard

NAN, INFINITE = math.nan, math.inf


# The guard


@pytest.mark.parametrize(
    ("losses", "grad_norm", "is_sound"),
    [
        ([True, True], 1.0, True),
        ([True, False], 1.0, False),
        ([False, True], 1.0, False),
        ([True, True], NAN, False),
        ([True, True], INFINITE, False),
    ],
)
def test_one_bad_loss_or_a_bad_gradient_spoils_a_step(losses, grad_norm, is_sound):
    guard = StepGuard(most_in_a_row=3)
    for is_finite in losses:
        guard.add({}, is_finite=is_finite)
    assert guard.end_step(grad_norm) == is_sound
    # The next step is judged by itself.
    guard.add({}, is_finite=True)
    assert guard.end_step(1.0)


def test_a_sound_step_ends_the_row():
    guard = StepGuard(most_in_a_row=2)
    assert [guard.end_step(norm) for norm in (NAN, 1.0, NAN)] == [False, True, False]
    assert not guard.is_over
    guard.end_step(NAN)
    assert guard.is_over


def test_micro_batches_are_kept_until_the_step_ends_and_when_the_run_does():
    guard = StepGuard(most_in_a_row=1)
    guard.add({"row": 1}, is_finite=True)
    guard.end_step(1.0)
    assert guard.batches == []
    guard.add({"row": 2}, is_finite=True)
    guard.add({"row": 3}, is_finite=False)
    guard.end_step(1.0)
    assert guard.batches == [{"row": 2}, {"row": 3}]


# What is written


def test_rollout_as_a_person_reads_it():
    tokenizer = build_tokenizer("plain")
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("2 + 2 =", "5", " Sure?", "4")}
    completion = [*ids["5"], *ids[" Sure?"], *ids["4"]]
    turns = [*[1] * len(ids["5"]), *[0] * len(ids[" Sure?"]), *[2] * len(ids["4"])]
    row = {
        "prompt_ids": torch.tensor([tokenizer.pad_token_id, *ids["2 + 2 ="]]),
        "prompt_mask": torch.tensor([0, *[1] * len(ids["2 + 2 ="])]),
        "completion_ids": torch.tensor([*completion, tokenizer.pad_token_id]),
        "completion_mask": torch.tensor([*[1] * len(completion), 0]),
        "turn_of_token": torch.tensor([*turns, 0]),
        "advantages": torch.tensor([*[{0: 0.0, 1: -0.5, 2: 2.0}[turn] for turn in turns], 0.0]),
        "rewards_t1": torch.tensor(NAN),
        "rewards_t2": torch.tensor(1.0),
    }
    expected = {
        "prompt": "2 + 2 =",
        "completion": "5 Sure?4",
        "turn_1": "5",
        "reward_t1": None,
        "advantage_t1": -0.5,
        "turn_2": "4",
        "reward_t2": 1.0,
        "advantage_t2": 2.0,
    }
    assert rollout_as_text(row, tokenizer) == expected
    # JSON has no NaN and no infinity.
    broken = {**row, "advantages": torch.full((len(turns) + 1,), NAN), "rewards_t2": torch.tensor(math.inf)}
    texts = {"reward_t2": "inf", "advantage_t1": "nan", "advantage_t2": "nan"}
    assert rollout_as_text(broken, tokenizer) == {**expected, **texts}
    # Turn 1 is not learned from: it came from the dataset, or was cut off.
    row["turn_of_token"][row["turn_of_token"] == 1] = 0
    assert rollout_as_text(row, tokenizer) == {**expected, "turn_1": None, "advantage_t1": None}


# The trainer


class SpoiledTrainer(SCoReTrainer):
    """Spoils the loss, or the gradient alone, of the second micro-batch in some steps."""

    spoiled: dict[int, tuple[str, float]]
    num_micro_batches = 0

    def turn_loss(self, model: Any, batch: Any) -> torch.Tensor:
        self.num_micro_batches += self.mode == "train"
        return super().turn_loss(model, batch)

    def log_probs(self, model: Any, batch: Any, **kwargs: Any) -> Any:
        outputs = super().log_probs(model, batch, **kwargs)
        what, value = self.spoiled.get(self.state.global_step, ("", 1.0))
        logps = outputs.per_token_logps
        if self.num_micro_batches % 2 == 0 and logps.requires_grad:
            if what == "loss":
                logps = logps * value
            elif what == "gradient":
                logps.register_hook(lambda gradient: gradient * value)
        return outputs._replace(per_token_logps=logps)


class Snapshots(TrainerCallback):
    """Weights and optimizer state after each step."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **kwargs: Any) -> None:
        self.taken.append((weights_of(model), copy.deepcopy(optimizer.state_dict()["state"])))


def spoiled_trainer(
    local_model: Callable[[str], Path], folder: Path, spoiled: dict[int, tuple[str, float]], **options: Any
) -> SpoiledTrainer:
    defaults = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "stage": "2", "logging_steps": 2}
    trainer = SpoiledTrainer(
        model=str(local_model("qwen2")),
        reward_funcs=odd_length,
        args=short_config(folder, **{**defaults, **options}),
        train_dataset=addition_dataset(),
    )
    trainer.spoiled = spoiled
    return trainer


def scaled_trainer(
    local_model: Callable[[str], Path],
    folder: Path,
    spoiled: dict[int, tuple[str, float]],
    scale: float,
    **options: Any,
) -> SpoiledTrainer:
    """In fp16, with the scaler that accelerate would make on a GPU; on a CPU it makes none."""
    trainer = spoiled_trainer(local_model, folder, spoiled, fp16=True, bf16=False, **options)
    assert trainer.accelerator.scaler is None
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
    trainer.accelerator.native_amp = True
    return trainer


def are_equal(first: Any, second: Any) -> bool:
    """Whether two nested structures hold the same numbers."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(are_equal(first[key], second[key]) for key in first)
    if isinstance(first, tuple):
        return all(are_equal(one, other) for one, other in zip(first, second, strict=True))
    return first == second


@pytest.mark.parametrize(("what", "value"), [("loss", NAN), ("loss", INFINITE), ("gradient", NAN)])
def test_a_spoiled_step_changes_neither_weights_nor_optimizer(what, value, local_model, tmp_path):
    trainer = spoiled_trainer(local_model, tmp_path, {1: (what, value), 2: (what, value)}, max_steps=4)
    snapshots = Snapshots()
    trainer.add_callback(snapshots)
    trainer.train()
    after = snapshots.taken
    assert are_equal(after[0], after[1]) and are_equal(after[1], after[2])
    assert not are_equal(after[2][0], after[3][0])
    assert all(bool(torch.isfinite(weight).all()) for weight in after[3][0].values())
    logs = training_logs(trainer)
    assert [entry["score/skipped_steps"] for entry in logs] == [0.5, 0.5]
    for entry in logs:
        assert [key for key, number in entry.items() if number is not None and not math.isfinite(number)] == []
    assert list(tmp_path.glob("skipped*")) == []


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_run_ends_after_several_in_a_row_and_writes_the_last_batch(what, local_model, tmp_path):
    spoiled = dict.fromkeys((0, 2, 3), (what, NAN))
    trainer = spoiled_trainer(local_model, tmp_path, spoiled, max_steps=6, max_skipped_steps=2)
    before = weights_of(trainer.model)
    message = r"in 2 steps in a row, of which step 4 is the last, .* are in .*skipped_step_4_process_\*\.jsonl"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()
    assert trainer.state.global_step == 3
    assert not are_equal(before, weights_of(trainer.model))  # step 2 was sound
    rows = [json.loads(line) for line in (tmp_path / "skipped_step_4_process_0.jsonl").read_text().splitlines()]
    assert len(rows) == 8  # both micro-batches
    texts = {message["content"] for completions in trainer._completions for (message,) in completions}
    for row in rows:
        assert "What is" in row["prompt"] and row["turn_1"] in row["completion"] and row["turn_2"] in row["completion"]
        assert {row["reward_t1"], row["reward_t2"]} <= {0.0, 1.0}
        turns = [row[f"turn_{turn}"].replace("<|im_end|>", "").replace("<|endoftext|>", "") for turn in (1, 2)]
        assert set(turns) <= texts
    assert any(row["advantage_t2"] != 0 for row in rows)


# Loss scaling


def test_in_fp16_the_scaler_skips_steps_and_goes_lower_until_the_scale_is_not_to_blame(local_model, tmp_path):
    spoiled = dict.fromkeys(range(6), ("gradient", INFINITE))
    trainer = scaled_trainer(local_model, tmp_path, spoiled, scale=8.0, max_steps=6, logging_steps=1)
    before = weights_of(trainer.model)
    with pytest.raises(FloatingPointError, match="in 3 steps in a row, of which step 6 is the last"):
        trainer.train()
    assert are_equal(before, weights_of(trainer.model))
    # Steps 1 to 3, at the scales 8, 4 and 2, may be the scale's doing; 4 to 6 may not.
    logs = training_logs(trainer)
    assert [entry["score/skipped_steps"] for entry in logs] == [1.0] * 5
    assert all("grad_norm" not in entry for entry in logs)


@pytest.mark.parametrize(("what", "value"), [("loss", NAN), ("gradient", INFINITE)])
def test_in_fp16_training_goes_on_after_a_spoiled_step(what, value, local_model, tmp_path):
    trainer = scaled_trainer(local_model, tmp_path, {1: (what, value)}, scale=1024.0, max_steps=3, logging_steps=1)
    snapshots = Snapshots()
    trainer.add_callback(snapshots)
    trainer.train()
    after = snapshots.taken
    assert are_equal(after[0], after[1]) and not are_equal(after[1][0], after[2][0])
    assert [entry["score/skipped_steps"] for entry in training_logs(trainer)] == [0.0, 1.0, 0.0]
    assert trainer.accelerator.scaler.get_scale() == 512.0


def test_in_fp16_without_a_scaler_an_infinite_gradient_is_skipped_too(local_model, tmp_path):
    options = {"max_steps": 1, "logging_steps": 1, "fp16": True, "bf16": False}
    trainer = spoiled_trainer(local_model, tmp_path, {0: ("gradient", INFINITE)}, **options)
    before = weights_of(trainer.model)
    trainer.train()
    assert are_equal(before, weights_of(trainer.model))
    assert training_logs(trainer)[-1]["score/skipped_steps"] == 1.0


def test_number_of_skipped_steps_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`max_skipped_steps` must be at least 1 step, got 0"):
        short_config(tmp_path, max_skipped_steps=0)
