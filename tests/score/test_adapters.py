"""Adapters as a start and as the reference, in numbers: which one stands still while the other is trained."""

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from score_runs import addition_dataset, odd_length, short_config, training_logs
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.utils import use_adapter

from trl_score.score.score_trainer import SCoReTrainer

IDS = torch.tensor([[60, 70, 80, 90, 100, 110]])


@pytest.fixture(scope="module")
def adapters(local_model, tmp_path_factory) -> dict[str, Path]:
    """Two adapters of one base, far apart."""
    folders = {}
    for name, size in (("first", 0.05), ("second", -0.1)):
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(local_model("qwen2")), config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.fill_(size)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
    return folders


def trainer_of(local_model, folder, model, **options):
    peft_config = options.pop("peft_config", None)
    args = short_config(folder, stage="2", learning_rate=1e-2, **options)
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    return SCoReTrainer(
        model, odd_length, args, addition_dataset(), processing_class=tokenizer, peft_config=peft_config
    )


def load(folder, **kwargs):
    return AutoPeftModelForCausalLM.from_pretrained(folder, **kwargs)


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


@torch.no_grad()
def reference_logits(trainer):
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
        return model(IDS).logits


@pytest.mark.parametrize("reference", [None, "second"])
def test_nothing_of_the_reference_adapter_is_trained(reference, adapters, local_model, tmp_path):
    model = load(adapters["first"], is_trainable=True)
    trainer = trainer_of(local_model, tmp_path, model, ref_model_name_or_path=reference and str(adapters[reference]))
    policy = trainer.accelerator.unwrap_model(trainer.model)
    of_reference = {name: p for name, p in policy.named_parameters() if ".ref." in name}
    assert of_reference
    assert [name for name, parameter in of_reference.items() if parameter.requires_grad] == []
    trainer.create_optimizer()
    held = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert [name for name, parameter in of_reference.items() if id(parameter) in held] == []


@pytest.mark.parametrize("reference", [None, "base", "second"])
def test_reference_of_a_trained_adapter_stands_still(reference, adapters, local_model, tmp_path):
    named = str(adapters["second"]) if reference == "second" else reference
    expected = {
        None: lambda: load(adapters["first"]),
        "base": lambda: AutoModelForCausalLM.from_pretrained(local_model("qwen2")),
        "second": lambda: load(adapters["second"]),
    }[reference]()
    start = logits(load(adapters["first"]))
    trainer = trainer_of(
        local_model, tmp_path, load(adapters["first"], is_trainable=True), ref_model_name_or_path=named
    )
    torch.testing.assert_close(logits(trainer.model), start)
    trainer.train()
    torch.testing.assert_close(reference_logits(trainer), logits(expected))
    assert (logits(trainer.model) - start).abs().max() > 0.1  # what is trained has moved
    first = training_logs(trainer)[0]
    assert (abs(first["score/kl_t1"]) < 1e-4) == (reference is None)


def test_reference_of_a_new_adapter_may_be_a_trained_one(adapters, local_model, tmp_path):
    trainer = trainer_of(
        local_model,
        tmp_path,
        str(local_model("qwen2")),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
        ref_model_name_or_path=str(adapters["first"]),
    )
    torch.testing.assert_close(reference_logits(trainer), logits(load(adapters["first"])))
    assert sorted({name.split(".")[-2] for name, p in trainer.model.named_parameters() if p.requires_grad}) == [
        "default"
    ]


def test_an_adapter_saved_by_a_run_is_the_trained_one(adapters, local_model, tmp_path):
    trainer = trainer_of(local_model, tmp_path, load(adapters["first"], is_trainable=True))
    trainer.train()
    trainer.save_model()
    torch.testing.assert_close(logits(load(tmp_path)), logits(trainer.model))


def test_a_second_trainer_takes_the_model_as_it_stands_for_its_reference(adapters, local_model, tmp_path):
    model = load(adapters["first"], is_trainable=True)
    trainer_of(local_model, tmp_path / "1", model).train()
    between = logits(model)
    second = trainer_of(local_model, tmp_path / "2", model)
    second.train()
    torch.testing.assert_close(reference_logits(second), between)


def test_an_adapter_loaded_for_inference_is_refused(adapters, local_model, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be trained: .* takes gradients.*`is_trainable=True`"):
        trainer_of(local_model, tmp_path, load(adapters["first"]))


def test_an_adapter_of_another_name_is_refused(adapters, local_model, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(local_model("qwen2"))
    model = PeftModel.from_pretrained(base, adapters["first"], adapter_name="stage1", is_trainable=True)
    with pytest.raises(ValueError, match=r"must be called 'default'.* got the adapters \['stage1'\]"):
        trainer_of(local_model, tmp_path, model)


def test_a_reference_that_is_no_adapter_is_refused(adapters, local_model, tmp_path):
    model = load(adapters["first"], is_trainable=True)
    with pytest.raises(ValueError, match=r"With PEFT the reference is an adapter .* where no adapter is"):
        trainer_of(local_model, tmp_path, model, ref_model_name_or_path=str(local_model("qwen2")))


def test_the_name_of_an_adapter_is_refused_as_a_model(adapters, local_model, tmp_path):
    with pytest.raises(ValueError, match=r"is an adapter, a model was expected.*is_trainable=True"):
        trainer_of(local_model, tmp_path, str(adapters["first"]))
