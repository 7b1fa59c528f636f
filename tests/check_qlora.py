"""
QLoRA for real, on the CPU, where bitsandbytes is installed (43 MB, of which nothing else here needs any):

    pip install bitsandbytes
    python -m pytest tests/check_qlora.py

It is no part of `make test`; `test_quantization.py` is, and says how far that goes without.
"""

import bitsandbytes
import cloud_runs
import pytest
import score_runs
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig
from peft.tuners.lora.bnb import Linear4bit
from transformers import BitsAndBytesConfig

from trl_score.cloud.cloud_trainer import CLoudRewardTrainer
from trl_score.cloud.modeling import load_reward_model
from trl_score.cloud.stages import JOINT_FOLDER, train_stages
from trl_score.score.score_trainer import SCoReTrainer

NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="float32")
LORA = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"])
PROBE = torch.arange(45, 45 + 4 * 12).reshape(4, 12)


@pytest.fixture(autouse=True)
def layers_that_can_be_trained(monkeypatch):
    """On a processor with AVX512-BF16 an evaluation packs a layer for inference, and its gradients are gone."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)


def quantized_layers(model):
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


@pytest.mark.parametrize("kl_estimator", ["k1", "k2"])
def test_score_trains_an_adapter_beside_quantized_weights(kl_estimator, local_model, tmp_path):
    args = score_runs.short_config(
        tmp_path, kl_estimator=kl_estimator, max_steps=3, stage_1_steps=1, learning_rate=1e-2
    )
    trainer = SCoReTrainer(
        str(local_model("qwen2")),
        score_runs.odd_length,
        args,
        score_runs.addition_dataset(),
        score_runs.addition_dataset(num_rows=4),
        quantization_config=NF4,
        peft_config=LORA,
    )
    assert len(quantized_layers(trainer.model)) == 2 * 6
    before = score_runs.weights_of(trainer.model)
    trainer.train()
    moved = [name for name, weight in score_runs.weights_of(trainer.model).items() if not weight.equal(before[name])]
    assert moved and all("lora" in name for name in moved)
    logs = score_runs.training_logs(trainer)
    assert all(score_runs.is_finite(entry) for entry in logs)
    assert logs[0]["score/kl_t1"] == 0 != logs[-1]["score/kl_t1"]  # the reference is the model with its adapter off
    assert "eval_score/accuracy_t2" in trainer.evaluate()
    trainer.save_model()
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path, quantization_config=NF4).eval()
    with torch.no_grad():
        expected, found = (model(PROBE).logits.float() for model in (trainer.model.eval(), loaded))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)  # adapters are bfloat16 in training


def test_cloud_goes_through_both_stages_beside_quantized_weights(local_model, tmp_path):
    args = cloud_runs.short_config(
        tmp_path, stage="both", sft_options={"max_steps": 60, "learning_rate": 2e-2}, max_critique_length=8
    )
    data = cloud_runs.preference_dataset(8)
    trainer = train_stages(str(local_model("qwen2")), args, data, quantization_config=NF4, peft_config=LORA)
    assert isinstance(trainer, CLoudRewardTrainer)
    assert len(quantized_layers(trainer.model)) == 2 * 6
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses and all(loss < 20 for loss in losses)
    loaded = load_reward_model(tmp_path / JOINT_FOLDER, quantization_config=NF4)
    with torch.no_grad():
        expected, found = (model.eval()(PROBE).rewards for model in (trainer.model, loaded))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    assert len(set(found.tolist())) == len(PROBE)
