"""
Without the bonus, without KL and with one turn's tokens alone, SCoRe's update is TRL's GRPO update on the same tokens.

TRL's own `_compute_loss` is the reference: once on the very batch that SCoReTrainer trains on, and once on a batch in
GRPO's form, in which everything up to turn 2 is the prompt.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from local_models import FAMILIES
from score_runs import EngineTrainer, addition_dataset, gradients_of, odd_length, seeded_engine, short_config
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

# Our name of a normalisation and TRL's: "rloo" is the mean over rollouts of token sums, as LUSPO at token level.
LOSS_TYPES = [("rloo", "luspo"), ("dapo", "dapo"), ("dr_grpo", "dr_grpo")]
BUDGET = 6


@pytest.fixture
def score_trainer(local_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., EngineTrainer]:
    """Gives a function that builds the trainer, in Stage II without bonus and without KL."""

    def build(**options: Any) -> EngineTrainer:
        args = short_config(
            tmp_path, stage="2", alpha=0.0, beta_1=0.0, beta_2=0.0, max_completion_length=BUDGET, **options
        )
        trainer = EngineTrainer(
            model=AutoModelForCausalLM.from_pretrained(local_model("qwen2"), dtype=torch.float64),
            reward_funcs=odd_length,
            args=args,
            train_dataset=addition_dataset(),
            processing_class=AutoTokenizer.from_pretrained(local_model("qwen2")),
        )
        end_of_turn = trainer.tokenizer.convert_tokens_to_ids(FAMILIES["qwen2"].end_of_turn)
        trainer.engine = seeded_engine(end_of_turn)
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return build


@pytest.fixture
def grpo_trainer(local_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., GRPOTrainer]:
    """Gives a function that builds TRL's trainer of the same model."""

    def build(loss_type: str, max_completion_length: int = 2 * BUDGET) -> GRPOTrainer:
        args = GRPOConfig(
            output_dir=str(tmp_path),
            loss_type=loss_type,
            beta=0.0,
            scale_rewards="none",
            num_generations=4,
            per_device_train_batch_size=8,
            max_completion_length=max_completion_length,
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
            learning_rate=0.1,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(local_model("qwen2"), dtype=torch.float64),
            reward_funcs=odd_length,
            args=args,
            train_dataset=addition_dataset(),
            processing_class=AutoTokenizer.from_pretrained(local_model("qwen2")),
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        return trainer

    return build


def two_turn_batch(trainer: EngineTrainer) -> dict[str, torch.Tensor]:
    """Rolls out 2 prompts x 4, and scores them."""
    trainer.model.train()
    rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(4)]
    return trainer._generate_and_score_completions(rows)


def restrict_to(batch: dict[str, torch.Tensor], turn: int) -> dict[str, torch.Tensor]:
    """Leaves one turn's tokens in the loss, for both trainers: ours reads `turn_of_token`, TRL's `tool_mask`."""
    turns = torch.where(batch["turn_of_token"] == turn, batch["turn_of_token"], 0)
    return {**batch, "turn_of_token": turns, "tool_mask": turns > 0, "num_items_in_batch": (turns > 0).sum()}


def add_old_log_probs(trainer: EngineTrainer, batch: dict[str, torch.Tensor]) -> None:
    """Old log-probabilities up to 40% away from those now, so that some ratios are beyond the clip range of 20%."""
    with torch.no_grad():
        logps = trainer.log_probs(trainer.model, batch).per_token_logps
    noise = torch.rand(logps.shape, generator=torch.Generator().manual_seed(0), dtype=logps.dtype) - 0.5
    batch["old_per_token_logps"] = logps + 0.8 * noise


def assert_same_update(score: EngineTrainer, grpo: GRPOTrainer, batch: Any, grpo_batch: Any) -> None:
    loss = score.turn_loss(score.model, batch)
    loss.backward()
    gradients = gradients_of(score.model)
    grpo_loss = grpo._compute_loss(grpo.model, grpo_batch)
    grpo_loss.backward()
    grpo_gradients = gradients_of(grpo.model)
    torch.testing.assert_close(loss, grpo_loss, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == grpo_gradients.keys()
    assert max(gradient.abs().max().item() for gradient in gradients.values()) > 1e-3
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, grpo_gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("with_old", [False, True])
@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize(("loss_type", "trl_loss_type"), LOSS_TYPES)
def test_same_batch_same_update(loss_type, trl_loss_type, turn, with_old, score_trainer, grpo_trainer):
    score, grpo = score_trainer(loss_type=loss_type), grpo_trainer(trl_loss_type)
    batch = restrict_to(two_turn_batch(score), turn)
    if with_old:
        add_old_log_probs(score, batch)
    assert_same_update(score, grpo, batch, batch)
    if with_old:
        clipped = score._windows["train"].take_means()[f"score/clip_ratio_t{turn}"]
        assert 0 < clipped < 1
        assert clipped == pytest.approx(grpo._metrics["train"]["clip_ratio/region_mean"][-1])


@pytest.mark.parametrize(("loss_type", "trl_loss_type"), LOSS_TYPES)
def test_turn_2_as_a_single_turn_of_grpo(loss_type, trl_loss_type, score_trainer, grpo_trainer):
    """The advantages too: group mean, no standard deviation. GRPO's prompt is [prompt, turn 1, correction prompt]."""
    score = score_trainer(loss_type=loss_type, baseline="group_mean")
    grpo = grpo_trainer(trl_loss_type)
    batch = restrict_to(two_turn_batch(score), turn=2)
    pad = score.tokenizer.pad_token_id
    prompts = [[*r.prompt_ids, *r.turn_1.token_ids, *r.correction_ids] for r in score._rollouts]
    completions = [rollout.turn_2.token_ids for rollout in score._rollouts]
    prompt_width, width = max(map(len, prompts)), max(map(len, completions))
    rewards = torch.tensor(odd_length(score._completions[1]), dtype=torch.float32).view(2, 4)
    grpo_batch = {
        "prompt_ids": torch.tensor([[pad] * (prompt_width - len(ids)) + ids for ids in prompts]),
        "prompt_mask": torch.tensor([[0] * (prompt_width - len(ids)) + [1] * len(ids) for ids in prompts]),
        "completion_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids in completions]),
        "completion_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in completions]),
        "advantages": (rewards - rewards.mean(dim=1, keepdim=True)).view(8),
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
    }
    assert_same_update(score, grpo, batch, grpo_batch)


def test_both_turns_together_are_the_sum_of_the_turns(score_trainer):
    """Nothing couples the turns: with token sums the gradient of both is that of turn 1 plus that of turn 2."""
    score = score_trainer(loss_type="rloo")
    batch = two_turn_batch(score)
    gradients = []
    for part in (batch, restrict_to(batch, 1), restrict_to(batch, 2)):
        score.turn_loss(score.model, part).backward()
        gradients.append(gradients_of(score.model))
    both, first, second = gradients
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, first[name] + second[name], rtol=1e-4, atol=1e-6)
