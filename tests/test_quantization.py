"""
QLoRA as far as it goes without bitsandbytes: from the scripts' flags to what is loaded, and what is refused before.
With it installed, `check_qlora.py` trains.
"""

import shutil
from importlib import import_module
from pathlib import Path

import cloud_runs
import pytest
import score_runs
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.quantizers import quantizer_bnb_4bit
from trl.trainer import grpo_trainer

from trl_score import trl_compat
from trl_score.cloud import stages
from trl_score.cloud.cloud_trainer import CLoudRewardTrainer
from trl_score.cloud.modeling import QUANTIZATION_ATTRIBUTES, CLoudRewardModel
from trl_score.score.score_trainer import SCoReTrainer

EXAMPLES = Path(__file__).parents[1] / "examples"
FLAGS = {
    "load_in_4bit": "true",
    "bnb_4bit_quant_type": "nf4",
    "use_bnb_nested_quant": "true",
    "dtype": "bfloat16",
    "use_peft": "true",
    "lora_r": "4",
    "lora_target_modules": "q_proj",
}
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16")
LORA = LoraConfig(r=4, target_modules=["q_proj"])


class Reached(Exception):
    """The script has come to the place that the test looks at."""


@pytest.mark.parametrize(
    ("name", "callee", "own"),
    [
        ("score", "SCoReTrainer", {"config": "adder.yaml"}),
        ("cloud", "train_stages", {"config": "cloud_quiz.yaml", "compare": "false"}),
    ],
)
def test_flags_reach_the_trainer(name, callee, own, monkeypatch, tmp_path):
    module, given = import_module(f"trl_score.programs.{name}"), {}

    def record(*args, **kwargs):
        given.update(kwargs)
        raise Reached

    monkeypatch.setattr(module, callee, record)
    flags = FLAGS | own | {"config": str(EXAMPLES / "configs" / own["config"]), "output_dir": str(tmp_path)}
    arguments = [part for flag, value in flags.items() for part in (f"--{flag}", value)]
    with pytest.raises(Reached):
        module.main(*module.make_parser().parse_args_and_config(arguments, fail_with_unknown_args=True))
    quantization, peft_config = given["quantization_config"], given["peft_config"]
    assert (quantization.load_in_4bit, quantization.bnb_4bit_quant_type) == (True, "nf4")
    assert quantization.bnb_4bit_use_double_quant is True
    assert quantization.bnb_4bit_compute_dtype == torch.bfloat16
    assert (peft_config.r, peft_config.target_modules) == (4, "q_proj")


def score_trainer(model, folder, **options):
    return SCoReTrainer(
        str(model), score_runs.odd_length, score_runs.short_config(folder), score_runs.addition_dataset(), **options
    )


def cloud_trainer(model, folder, **options):
    data = cloud_runs.preference_dataset(4)
    return CLoudRewardTrainer(str(model), cloud_runs.short_config(folder), train_dataset=data, **options)


@pytest.mark.parametrize("build", [score_trainer, cloud_trainer])
def test_quantized_weights_alone_are_refused_before_they_are_loaded(build, local_model, tmp_path):
    weightless = tmp_path / "weightless"
    shutil.copytree(local_model("qwen2"), weightless, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ValueError, match="expected a `peft_config` beside `quantization_config`"):
        build(weightless, tmp_path / "run", quantization_config=NF4)


@pytest.mark.parametrize("build", [score_trainer, cloud_trainer])
def test_without_bitsandbytes_it_is_said_what_to_install(build, local_model, tmp_path, monkeypatch):
    monkeypatch.setattr(quantizer_bnb_4bit, "is_bitsandbytes_available", lambda *args: False)
    with pytest.raises(ImportError, match="pip install -U bitsandbytes"):
        build(local_model("qwen2"), tmp_path, quantization_config=NF4, peft_config=LORA)


@pytest.mark.parametrize("build", [score_trainer, cloud_trainer])
def test_the_model_is_loaded_with_it(build, local_model, tmp_path, monkeypatch):
    def load(path, *args, **kwargs):
        assert kwargs["quantization_config"] is NF4
        raise Reached

    for module in (trl_compat, grpo_trainer):
        monkeypatch.setattr(module, "create_model_from_path", load)
    with pytest.raises(Reached):
        build(local_model("qwen2"), tmp_path, quantization_config=NF4, peft_config=LORA)


def test_a_reward_model_on_a_quantized_language_model_is_known_as_one(local_model):
    """Else PEFT gives its layers adapters of the common kind, and Trainer trains it without any."""
    language_model = AutoModelForCausalLM.from_pretrained(local_model("qwen2"))
    assert not set(QUANTIZATION_ATTRIBUTES) & set(vars(CLoudRewardModel.from_causal_lm(language_model)))
    marks = {name: object() for name in QUANTIZATION_ATTRIBUTES}
    vars(language_model).update(marks)
    reward_model = CLoudRewardModel.from_causal_lm(language_model)
    assert {name: vars(reward_model)[name] for name in marks} == marks


def test_between_the_stages_the_base_is_quantized_again(local_model, tmp_path, monkeypatch):
    """The critiques are written, and the joint stage begins, with what the first stage was trained beside."""
    loaded = []

    def load(folder, **kwargs):
        loaded.append(kwargs.get("quantization_config"))
        if len(loaded) == 2:
            raise Reached
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(stages, "CLoudRewardTrainer", lambda *args, **kwargs: None)
    monkeypatch.setattr(stages, "_train", lambda *args: None)
    monkeypatch.setattr(stages, "_finish_sft", lambda *args: None)
    monkeypatch.setattr(stages, "load_reward_model", load)
    monkeypatch.setattr(stages, "self_critique_dataset", lambda model, template, dataset, **kwargs: dataset)
    monkeypatch.setattr(stages, "without_empty_critiques", lambda dataset, name: dataset)
    args = cloud_runs.short_config(tmp_path, stage="both")
    data = cloud_runs.preference_dataset(4)
    with pytest.raises(Reached):
        stages.train_stages(str(local_model("qwen2")), args, data, peft_config=LORA, quantization_config=NF4)
    assert loaded == [NF4, NF4]
