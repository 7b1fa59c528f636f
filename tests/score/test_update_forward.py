"""
What is saved in a step gives the numbers that the plain way gives: the KL of the update's own forward, and the LM head
in small tiles on a CPU.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from local_models import FAMILIES
from score_runs import (
    EngineTrainer,
    addition_dataset,
    odd_length,
    seeded_engine,
    short_config,
    training_logs,
    weights_of,
)
from transformers import AutoModelForCausalLM, AutoTokenizer


class CountingTrainer(EngineTrainer):
    """Counts the forwards of the policy that nothing is learned from."""

    num_forwards = 0

    def log_probs(self, model: Any, batch: Any, **kwargs: Any) -> Any:
        self.num_forwards += not torch.is_grad_enabled()
        return super().log_probs(model, batch, **kwargs)


class PlainTrainer(CountingTrainer):
    """Has the policy read its rollouts once more before the update."""

    def _update_gives_kl(self, batch: Any) -> bool:
        return False


def trained(trainer_class: type[CountingTrainer], model: Path, folder: Path, **options: Any) -> CountingTrainer:
    args = short_config(folder, **{"max_steps": 4, "stage": "both", "beta_1": 0.5, "beta_2": 0.7, **options})
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64),
        reward_funcs=odd_length,
        args=args,
        train_dataset=addition_dataset(),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    end_of_turn = trainer.tokenizer.convert_tokens_to_ids(FAMILIES["qwen2"].end_of_turn)
    trainer.engine = seeded_engine(end_of_turn)
    trainer.train()
    return trainer


@pytest.mark.parametrize("options", [{}, {"mask_truncated_completions": True, "beta_2_target_kl": 0.1}])
def test_kl_of_the_update_is_that_of_a_forward_before_it(options, local_model, tmp_path):
    ours, plain = (
        trained(trainer_class, local_model("qwen2"), tmp_path, **options)
        for trainer_class in (CountingTrainer, PlainTrainer)
    )
    assert (ours.num_forwards, plain.num_forwards) == (0, 4)
    before = weights_of(AutoModelForCausalLM.from_pretrained(local_model("qwen2"), dtype=torch.float64))
    weights = weights_of(plain.model)
    assert any(not weight.equal(before[name]) for name, weight in weights.items())
    for name, weight in weights_of(ours.model).items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-9)
    for own, expected in zip(training_logs(ours), training_logs(plain), strict=True):
        keys = [key for key in expected if key.startswith("score/") and "seconds" not in key]
        assert {key: own[key] for key in keys} == pytest.approx({key: expected[key] for key in keys}, abs=1e-6)
    assert any(entry["score/kl_t1"] != 0 for entry in training_logs(plain))


@pytest.mark.parametrize("options", [{"gradient_accumulation_steps": 2}, {"num_iterations": 2}])
def test_batch_in_parts_or_used_again_is_read_before(options, local_model, tmp_path):
    trainer = trained(CountingTrainer, local_model("qwen2"), tmp_path, max_steps=2, **options)
    assert trainer.num_forwards == (2 if "gradient_accumulation_steps" in options else 0)


def test_log_probs_and_gradients_are_those_of_full_logits(local_model, tmp_path):
    trainer = trained(CountingTrainer, local_model("qwen2"), tmp_path, max_steps=1)
    ids = torch.randint(40, 512, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0  # a shorter prompt
    mask[1, 15:] = 0  # a shorter completion
    halves = {"prompt_ids": ids[:, :8], "completion_ids": ids[:, 8:]}
    halves |= {"prompt_mask": mask[:, :8], "completion_mask": mask[:, 8:]}
    trainer.model.zero_grad()
    own = trainer.log_probs(trainer.model, halves).per_token_logps * mask[:, 8:]
    own.sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    logits = trainer.model(ids, attention_mask=mask).logits[:, 7:-1]
    plain = logits.log_softmax(dim=-1).gather(-1, ids[:, 8:, None]).squeeze(-1) * mask[:, 8:]
    plain.sum().backward()
    torch.testing.assert_close(own.double(), plain, rtol=0, atol=1e-4)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4)
