"""Merged adapters of both trainers: they answer as base and adapter do, and everything else comes along."""

import json
from pathlib import Path

import pytest
import torch
from cloud_runs import preference_dataset
from cloud_runs import short_config as cloud_config
from peft import AutoPeftModelForCausalLM, LoraConfig, PromptTuningConfig, get_peft_model
from run_folders import write_json
from score_runs import addition_dataset, odd_length, short_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score import CLoudRewardModel, CLoudRewardTrainer, SCoReTrainer, load_reward_model
from trl_score.cli import main
from trl_score.publishing import merge
from trl_score.publishing.merge import _new_folder, merge_adapter

IDS = torch.tensor([[60, 70, 80, 90, 100, 110]])
LORA = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "down_proj"])


@pytest.fixture(scope="module")
def score_run(local_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    args = short_config(folder, stage="both", learning_rate=1e-2)
    trainer = SCoReTrainer(str(local_model("qwen2")), odd_length, args, addition_dataset(), peft_config=LORA)
    trainer.train()
    trainer.save_model()
    write_json(folder / "metrics.json", {"accuracy_t1": 0.5})
    return folder


@pytest.fixture(scope="module")
def cloud_run(local_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cloud")
    args = cloud_config(folder, learning_rate=1e-2)
    trainer = CLoudRewardTrainer(str(local_model("qwen2")), args, train_dataset=preference_dataset(), peft_config=LORA)
    trainer.train()
    trainer.save_model()
    return folder


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


@torch.no_grad()
def reward(model):
    return model.eval()(input_ids=IDS).rewards


def test_a_merged_score_adapter_gives_the_same_logits(score_run, local_model, tmp_path):
    found = merge_adapter(score_run, tmp_path / "merged")
    adapted = logits(AutoPeftModelForCausalLM.from_pretrained(score_run))
    base = logits(AutoModelForCausalLM.from_pretrained(local_model("qwen2")))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), adapted, rtol=1e-5, atol=1e-5)
    assert (adapted - base).abs().max() > 0.1
    assert found.difference < 1e-5 * found.scale
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]


def test_a_merged_cloud_adapter_gives_the_same_rewards_and_critiques(cloud_run, tmp_path):
    found = merge_adapter(cloud_run, tmp_path / "merged")
    adapted = load_reward_model(cloud_run)
    merged = load_reward_model(tmp_path / "merged")
    assert type(merged) is CLoudRewardModel
    torch.testing.assert_close(reward(merged), reward(adapted), rtol=1e-5, atol=1e-5)
    assert merged.config.critique_prompt == adapted.config.critique_prompt
    with torch.no_grad():
        texts = [logits(model.reward_base_model) for model in (merged, adapted)]
    torch.testing.assert_close(*texts, rtol=1e-5, atol=1e-5)
    assert found.difference < 1e-5


def test_everything_else_comes_along(score_run, tmp_path):
    merge_adapter(score_run, tmp_path / "merged")
    for name in ("score_config.json", "chat_template.jinja", "metrics.json", "tokenizer_config.json"):
        assert json_or_text(tmp_path / "merged" / name) == json_or_text(score_run / name), name
    texts = "What is 17 + 25?"
    ids = [AutoTokenizer.from_pretrained(folder)(texts)["input_ids"] for folder in (score_run, tmp_path / "merged")]
    assert ids[0] == ids[1]
    record = json.loads((tmp_path / "merged" / "training_config.json").read_text())
    assert record["merged_from"] == "LORA adapter" and record["step"] == 2
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "library_name: transformers" in card and "| Merged from | LORA adapter |" in card
    names = {place.name for place in (tmp_path / "merged").iterdir()}
    assert not {"adapter_config.json", "adapter_model.safetensors", "training_args.bin"} & names


def json_or_text(file):
    return json.loads(file.read_text()) if file.suffix == ".json" else file.read_text()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float32", 1e-5)])
def test_weights_are_saved_in_the_type_that_is_asked_for(score_run, tmp_path, dtype, tolerance):
    merge_adapter(score_run, tmp_path / "merged", dtype=dtype)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert {parameter.dtype for parameter in merged.parameters()} == {getattr(torch, dtype)}
    adapted = logits(AutoPeftModelForCausalLM.from_pretrained(score_run))
    assert (logits(merged) - adapted).abs().max() < tolerance * adapted.abs().max()


def test_a_base_that_has_moved_can_be_named(score_run, local_model, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for place in score_run.iterdir():
        if place.is_file():
            (moved / place.name).write_bytes(place.read_bytes())
    adapter = json.loads((moved / "adapter_config.json").read_text())
    write_json(moved / "adapter_config.json", {**adapter, "base_model_name_or_path": "/gone"})
    merge_adapter(moved, tmp_path / "merged", base_model=str(local_model("qwen2")))
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_the_command_prints_where_to_and_how_far(score_run, tmp_path, capsys):
    assert main(["merge", str(score_run), "--output", str(tmp_path / "merged")]) == 0
    assert f"{tmp_path / 'merged'}: outputs on a probe differ by" in capsys.readouterr().out


def test_nothing_is_overwritten(score_run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"new or empty folder, got .* Name another one"):
        merge_adapter(score_run, tmp_path)
    assert [place.name for place in tmp_path.iterdir()] == ["notes.txt"]


def test_a_merge_that_fails_leaves_nothing(score_run, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(merge, "_carry_over", fail)
    with pytest.raises(OSError, match="no space left"):
        merge_adapter(score_run, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_merged_model_that_answers_otherwise_is_refused(score_run, tmp_path, monkeypatch):
    monkeypatch.setattr("peft.PeftModel.merge_and_unload", lambda self, **kwargs: self.unload(), raising=False)
    with pytest.raises(ValueError, match=r"must answer like base and adapter, got outputs that differ by up to"):
        merge_adapter(score_run, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_full_model_needs_no_merging(local_model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected an adapter .*full model needs no merging"):
        merge_adapter(local_model("qwen2"), tmp_path / "merged")


def test_an_adapter_of_another_trainer_is_refused(local_model, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(local_model("qwen2")), LORA)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"Expected a model of SCoReTrainer or CLoudRewardTrainer"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged")


def test_prompt_tuning_is_refused(local_model, tmp_path):
    config = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(local_model("qwen2")), config).save_pretrained(tmp_path / "a")
    write_json(tmp_path / "a" / "score_config.json", {})
    with pytest.raises(ValueError, match=r"an adapter of weights, got one of prompts"):
        merge_adapter(tmp_path / "a", tmp_path / "merged")


def test_a_wrong_dtype_is_refused(score_run, tmp_path):
    with pytest.raises(ValueError, match=r"`dtype` to be one of auto, float32, .* got 'int8'"):
        merge_adapter(score_run, tmp_path / "merged", dtype="int8")


def test_the_whole_folder_takes_its_name_at_once(tmp_path):
    with _new_folder(tmp_path / "merged") as unfinished:
        (unfinished / "model.safetensors").write_bytes(b"1")
        made = unfinished.stat().st_ino
        assert not (tmp_path / "merged").exists()
    # Renamed, not copied: at no moment is there a part of it.
    assert (tmp_path / "merged").stat().st_ino == made
