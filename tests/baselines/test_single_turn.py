"""Single-turn RL: TRL's RLOOTrainer with the settings of a SCoRe run, and what it cannot follow."""

from pathlib import Path
from typing import Any

import pytest
import torch
from local_models import FAMILIES
from score_runs import addition_dataset, odd_length, short_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score.baselines.budget import Schedule
from trl_score.baselines.single_turn import check_single_turn, single_turn_trainer


def test_it_is_paid_for_turn_1_alone_and_generates_as_many_answers(local_model: Any, tmp_path: Path):
    scored: list[Any] = []

    def reward(completions: list[Any], turn: int, **kwargs: Any) -> list[float]:
        scored.extend((turn, len(kwargs["completion_ids"][row])) for row in range(len(completions)))
        return odd_length(completions)

    args = short_config(tmp_path, max_completion_length_t1=5, max_completion_length_t2=9, max_steps=2)
    trainer = single_turn_trainer(str(local_model("qwen2")), [reward], args, addition_dataset())
    trainer.train()
    # 2 updates, each of 2 prompts and 4 rollouts of two turns in SCoRe: 32 answers.
    assert len(scored) == Schedule.of(args, 16).budget(2, 1).answers == 32
    assert {turn for turn, _ in scored} == {1}
    assert max(length for _, length in scored) <= 5
    assert trainer.state.global_step == 2
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2 and all("kl" in entry for entry in logs)


def test_advantages_are_those_of_equation_2(local_model: Any, tmp_path: Path):
    args = short_config(tmp_path, beta_1=0.5, num_generations=2, per_device_train_batch_size=4)
    trainer = single_turn_trainer(str(local_model("qwen2")), [odd_length], args, addition_dataset())
    with torch.no_grad():  # a policy that has left its reference, so that there is a KL
        for parameter in trainer.model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    trainer.model.train()
    batch = trainer._generate_and_score_completions([addition_dataset()[0]] * 4 + [addition_dataset()[1]] * 4)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    texts = trainer.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    rewards = torch.tensor([float(len(text) % 2) for text in texts])
    width = batch["completion_ids"].size(1)
    kl = sum(
        sign * (sequence_logps(model, ids, mask, width) * batch["completion_mask"]).sum(1)
        for sign, model in ((1, trainer.model), (-1, trainer.ref_model))
    )
    assert kl.abs().max() > 1e-3
    returns = (rewards - 0.5 * kl).view(2, 4)
    expected = returns - (returns.sum(dim=1, keepdim=True) - returns) / 3  # each against the mean of the three others
    torch.testing.assert_close(batch["advantages"], expected.flatten(), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def sequence_logps(model: Any, ids: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[:, -width:, None]).squeeze(-1)


def test_a_turn_ends_where_the_template_ends_it(local_model: Any, tmp_path: Path):
    folder = local_model("gemma")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end_of_turn = tokenizer.convert_tokens_to_ids(FAMILIES["gemma"].end_of_turn)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.eos_token_id = tokenizer.eos_token_id  # a model that does not know of it
    args = short_config(tmp_path, beta_1=0.0)
    trainer = single_turn_trainer(model, [odd_length], args, addition_dataset("gemma"), processing_class=tokenizer)
    assert end_of_turn != tokenizer.eos_token_id
    assert trainer.eos_token_ids == [tokenizer.eos_token_id, end_of_turn]
    assert trainer.generation_config.eos_token_id == trainer.eos_token_ids


@pytest.mark.parametrize(
    ("options", "columns", "message"),
    [
        ({"kl_estimator": "k2"}, ["prompt"], r"needs `kl_estimator='k1'`, got 'k2'"),
        ({"baseline": "none"}, ["prompt"], r"needs `baseline='leave_one_out'`, got 'none'"),
        ({"loss_type": "dapo"}, ["prompt"], r"needs `loss_type='rloo'`, got 'dapo'"),
        ({"ref_model_name_or_path": "other"}, None, r"needs `ref_model_name_or_path=None`, got 'other'"),
        ({}, ["prompt", "max_completion_length_t1"], r"one length budget for all rows, got the column"),
    ],
)
def test_what_it_cannot_follow_is_refused(options: dict[str, Any], columns: Any, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        check_single_turn(short_config(tmp_path, **options), columns)
