"""What is wrong is said in one sentence, and before a model is loaded."""

import json

import pytest
import torch
from cloud_runs import preference_dataset, short_config
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.trainer.reward_trainer import DataCollatorForPreference

from trl_score import trl_compat
from trl_score.cloud.cloud_trainer import CLoudRewardTrainer
from trl_score.cloud.modeling import CLoudRewardModel


@pytest.fixture
def refuse(local_model, tmp_path, monkeypatch):
    """Expects an error of a trainer that never gets as far as loading a model."""

    def load_no_model(*args, **kwargs):
        raise AssertionError("a model was loaded")

    def check(error, match, *, data=None, model=None, kind="qwen2", **options):
        monkeypatch.setattr(trl_compat, "create_model_from_path", load_no_model)
        names = ("eval_dataset", "peft_config", "processing_class", "data_collator")
        arguments = {name: options.pop(name) for name in names if name in options}
        data = preference_dataset(4) if data is None else data
        args = short_config(tmp_path / "run", **options)
        with pytest.raises(error, match=match):
            CLoudRewardTrainer(model or str(local_model(kind)), args, train_dataset=data, **arguments)

    return check


def with_column(name, value, row=2):
    """The data with another value in one row."""
    return preference_dataset(4).map(lambda old, i: {name: value if i == row else old[name]}, with_indices=True)


@pytest.mark.parametrize("stage", ["sft", "joint"])
def test_missing_critiques(refuse, stage):
    data = preference_dataset(4).remove_columns("rejected_critique")
    refuse(
        ValueError,
        r"`train_dataset` must have a column 'rejected_critique'.* `stage='classic'`",
        data=data,
        stage=stage,
    )


@pytest.mark.parametrize("stage", ["sft", "joint"])
def test_empty_critique(refuse, stage):
    data = with_column("chosen_critique", " ")
    refuse(ValueError, "Row 2 of `train_dataset` must have a critique as `chosen_critique`", data=data, stage=stage)


def test_absent_critique(refuse):
    data = with_column("chosen_critique", None)
    refuse(TypeError, "Row 2 of `train_dataset` must have a text, or a list of texts, as `chosen_critique`", data=data)


@pytest.mark.parametrize("stage", ["joint", "classic"])
def test_equal_responses(refuse, stage):
    data = with_column("rejected", "It is 5.").map(
        lambda row, i: {"chosen": "It is 5."} if i == 2 else row, with_indices=True
    )
    refuse(ValueError, "Row 2 of `train_dataset` must have different responses, got 'It is 5.'", data=data, stage=stage)


def test_no_room_for_a_critique(refuse):
    data = with_column("prompt", "What is 1 + 1? " * 20)
    refuse(
        ValueError,
        r"Row 2 of `train_dataset` leaves no room for a critique.*Raise `max_length`",
        data=data,
        max_length=200,
    )


def test_a_field_that_is_no_text(refuse):
    data = preference_dataset(4).remove_columns("chosen").add_column("chosen", [1, 2, 3, 4])
    refuse(TypeError, "Row 0 of `train_dataset`, column 'chosen': A response must be a text .* type int", data=data)


def test_evaluation_data_is_looked_at_too(refuse):
    data = preference_dataset(4).remove_columns("chosen_critique")
    refuse(ValueError, "`eval_dataset` must have a column 'chosen_critique'", eval_dataset=data)
    refuse(
        ValueError,
        "`far` must have a column 'chosen_critique'",
        eval_dataset={"near": preference_dataset(4), "far": data},
    )


def test_no_data(refuse, local_model, tmp_path):
    refuse(ValueError, "`train_dataset` is empty", data=preference_dataset(4).select([]))
    refuse(TypeError, "must be a `datasets.Dataset`", data=[{"chosen": "a"}])
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        CLoudRewardTrainer(str(local_model("qwen2")), short_config(tmp_path))


def test_both_stages_are_not_one_training(refuse):
    refuse(ValueError, r"Call `trl_score\.cloud\.stages\.train_stages`", stage="both")


def test_rows_beyond_the_context(refuse):
    refuse(ValueError, r"`max_length` must not exceed the model's context of 512 tokens, got 513", max_length=513)


def test_tokens_that_the_vocabulary_lacks(refuse):
    refuse(ValueError, "`eos_token` must be in the tokenizer's vocabulary, got '<none>'", eos_token="<none>")


def test_no_tokenizer(refuse):
    refuse(TypeError, "`processing_class` must be a tokenizer, got object", processing_class=object())


def test_template_that_cannot_hold_a_critique(refuse, local_model):
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    tokenizer.chat_template = "{{ messages[-1].content }}<|im_end|>"
    refuse(ValueError, "This chat template cannot hold a critique", processing_class=tokenizer)


@pytest.mark.parametrize("stage", ["sft", "joint", "classic"])
def test_the_collator_of_trls_trainer(refuse, stage):
    collator = DataCollatorForPreference(pad_token_id=0)
    refuse(
        ValueError, "`data_collator` must make .* got DataCollatorForPreference", stage=stage, data_collator=collator
    )


@pytest.mark.parametrize("stage", ["sft", "joint"])
def test_a_collator_without_labels(local_model, tmp_path, stage):
    trainer = CLoudRewardTrainer(
        str(local_model("qwen2")), short_config(tmp_path, stage=stage), train_dataset=preference_dataset(4)
    )
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: {name: value for name, value in collate(rows).items() if name != "labels"}
    with pytest.raises(ValueError, match=f"Stage '{stage}' learns from critiques, got a batch without `labels`"):
        trainer.train()


def test_an_adapters_folder(refuse, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    refuse(ValueError, "is an adapter, a model was expected", model=str(tmp_path))


def test_an_adapter_that_loses_its_head(refuse, local_model):
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    model = CLoudRewardModel.from_causal_lm(local_model("qwen2"))
    without_head = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    match = r"The adapter 'default' does not save the reward head.*`modules_to_save=None`"
    refuse(ValueError, match, model=without_head, processing_class=tokenizer)


def test_an_adapter_around_another_model(refuse, local_model):
    base = AutoModelForCausalLM.from_pretrained(local_model("qwen2"), dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], modules_to_save=["reward_head"]))
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    refuse(
        TypeError, "around a CLoudRewardModel, got one around Qwen2ForCausalLM", model=model, processing_class=tokenizer
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, r"trained with the critique prompt 'Critique: ', got 'Now judge"),
        ({"stage": "classic"}, r"'Critique: ', got None \(stage 'classic'"),
    ],
)
def test_a_model_of_another_critique_prompt(refuse, local_model, tmp_path, options, match):
    model = CLoudRewardModel.from_causal_lm(local_model("qwen2"), critique_prompt="Critique: ")
    model.save_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    refuse(ValueError, match, model=str(tmp_path / "saved"), processing_class=tokenizer, **options)


@pytest.mark.parametrize("stage", ["joint", "classic"])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_reward_model_of_trl(refuse, local_model, tmp_path, stage, is_loaded):
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(local_model("qwen2")))
    model.save_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    tokenizer.save_pretrained(tmp_path / "saved")
    refuse(
        ValueError,
        "got a Qwen2ForSequenceClassification: it has no LM head .* Pass the language model that it was made from",
        model=model if is_loaded else str(tmp_path / "saved"),
        processing_class=tokenizer,
        stage=stage,
    )


def test_a_head_of_the_wrong_width(local_model, tmp_path):
    model = CLoudRewardModel.from_causal_lm(local_model("qwen2"))
    model.reward_head.dense = torch.nn.Linear(32, 32)
    model.save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(local_model("qwen2")).save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"of another shape .*reward_head\.dense"):
        CLoudRewardTrainer(str(tmp_path / "saved"), short_config(tmp_path), train_dataset=preference_dataset(4))


def test_an_adapter_loaded_for_inference_is_refused(local_model, tmp_path):
    base = CLoudRewardModel.from_causal_lm(str(local_model("qwen2")))
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["reward_head"]))
    model.requires_grad_(False)  # as PEFT loads it, and `load_reward_model`
    with pytest.raises(ValueError, match=r"cannot be trained: .* takes gradients.*set_adapter"):
        CLoudRewardTrainer(model, short_config(tmp_path), train_dataset=preference_dataset(4))
