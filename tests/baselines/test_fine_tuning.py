"""STaR and Pair-SFT on small models: what is sampled, what is learned, which model each iteration starts from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from local_models import FAMILIES
from peft import LoraConfig
from score_runs import addition_dataset, odd_length, short_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score.baselines import fine_tuning
from trl_score.baselines.budget import Budget, Spent
from trl_score.baselines.fine_tuning import FineTuning, fine_tune_on_traces, load_trainable
from trl_score.baselines.trace_sets import Trace, make_trace_set
from trl_score.baselines.traces import draw_problems, sample_traces
from trl_score.evaluation import load_model
from trl_score.score.prompts import audit_template, text_correction, tokenize_prompts
from trl_score.score.score_trainer import SCoReTrainer

BUDGET = Budget(updates=1, prompts=4, group_size=4)


@pytest.fixture(scope="module")
def traces_of(local_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Samples 16 traces of 4 problems with the small model of a kind."""

    def sample(kind: str, seed: int = 0) -> list[Trace]:
        folder = local_model(kind)
        args = short_config(tmp_path_factory.mktemp("args"), max_completion_length=16)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        dataset = addition_dataset(kind)
        return sample_traces(model, tokenizer, dataset, [3] * 4 + [5] * 4, odd_length, args, seed=seed)

    return sample


# Sampling


def test_each_problem_comes_once_before_any_comes_again():
    rows = draw_problems(5, Budget(updates=1, prompts=12, group_size=3), seed=1)
    firsts = rows[::3]
    assert rows == [row for row in firsts for _ in range(3)]
    assert sorted(firsts[:5]) == sorted(firsts[5:10]) == [0, 1, 2, 3, 4]
    assert len(set(firsts[10:])) == 2
    assert rows == draw_problems(5, Budget(updates=1, prompts=12, group_size=3), seed=1)
    assert rows != draw_problems(5, Budget(updates=1, prompts=12, group_size=3), seed=2)


@pytest.mark.parametrize("kind", ["qwen2", "plain"])
def test_a_trace_is_what_was_sampled_token_for_token(kind: str, traces_of: Any, local_model: Any):
    traces = traces_of(kind)
    tokenizer = AutoTokenizer.from_pretrained(local_model(kind))
    dataset, args = addition_dataset(kind), short_config(Path("unused"))
    read = text_correction if kind == "plain" else audit_template
    correction = read(args.correction_prompt, tokenizer)
    assert [trace.problem for trace in traces] == [3] * 4 + [5] * 4
    for trace in traces:
        rollout = trace.rollout
        assert rollout.prompt_ids == tokenize_prompts([dataset[trace.problem]["prompt"]], tokenizer)[0]
        assert rollout.correction_ids == correction.after(rollout.turn_1.token_ids)
        texts = tokenizer.batch_decode([rollout.turn_1.token_ids, rollout.turn_2.token_ids], skip_special_tokens=True)
        assert trace.texts == tuple(texts)
        assert trace.rewards == tuple(float(len(text) % 2) for text in texts)
        end_id = tokenizer.convert_tokens_to_ids(FAMILIES[kind].end_of_turn)
        for turn in (rollout.turn_1, rollout.turn_2):
            assert turn.truncated == (turn.token_ids[-1] != end_id)
    assert len({trace.texts for trace in traces}) > 4, "sampled, and not greedy"


def test_sampling_depends_on_the_seed_and_leaves_the_random_state(traces_of: Any):
    state = torch.random.get_rng_state()
    first = traces_of("qwen2", seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert traces_of("qwen2", seed=1) == first
    assert traces_of("qwen2", seed=2) != first


# Fine-tuning


@pytest.fixture(scope="module")
def tuned(local_model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Spent, FineTuning, Path]:
    """Pair-SFT of one update, at learning rate 0, so that the logged loss is that of the model to begin with."""
    folder = tmp_path_factory.mktemp("pair_sft")
    args = short_config(folder, max_completion_length=16, learning_rate=0.0, per_device_train_batch_size=64)
    tuning = FineTuning("D+_SFT", args, addition_dataset(), odd_length)
    start = local_model("qwen2")
    return folder, fine_tune_on_traces(str(start), [BUDGET], tuning), tuning, start


def read_traces(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "traces" / name).read_text().splitlines()]


def test_the_budget_is_spent(tuned: Any):
    folder, spent, _, _ = tuned
    assert spent == Spent(answers=2 * 16, updates=1)
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 1


def test_the_loss_is_that_of_turn_2_alone(tuned: Any):
    folder, _, tuning, start = tuned
    logged = json.loads((folder / "trainer_state.json").read_text())["log_history"][0]["loss"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    problems = draw_problems(len(tuning.dataset), BUDGET, seed="42-1")
    traces = sample_traces(model, tokenizer, tuning.dataset, problems, odd_length, tuning.args, seed="42-1")
    chosen = make_trace_set("D+_SFT", traces, seed="42-1")
    total, count = 0.0, 0
    for trace in chosen:  # the slow way: each token of turn 2 given all that stands before it
        ids = [*trace.rollout.prompt_ids, *trace.rollout.completion_ids]
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        length = len(trace.rollout.turn_2.token_ids)
        total -= sum(logps[at - 1, ids[at]].item() for at in range(len(ids) - length, len(ids)))
        count += length
    assert logged == pytest.approx(total / count, rel=1e-4)


def test_the_set_is_written_as_text_that_score_can_train_on(tuned: Any, tmp_path: Path):
    folder, _, tuning, start = tuned
    rows = read_traces(folder, "D+_SFT_1.jsonl")
    assert set(rows[0]) == {"prompt", "solution", "turn_1", "turn_2", "rewards", "set", "problem"}
    for row in rows:
        assert row["prompt"] == tuning.dataset[row["problem"]]["prompt"]
        assert row["solution"] == tuning.dataset[row["problem"]]["solution"]
        assert (row["set"], row["rewards"][1]) == ("D+_SFT", 1.0)
        assert row["rewards"] == [float(len(row[turn]) % 2) for turn in ("turn_1", "turn_2")]
    dataset = load_dataset("json", data_files=str(folder / "traces" / "D+_SFT_1.jsonl"), split="train")
    dataset = dataset.filter(lambda row: row["turn_1"] != "")
    args = short_config(tmp_path, max_steps=1, offline_turn_1_column="turn_1", offline_turn_1_share=1.0, stage="2")
    trainer = SCoReTrainer(model=str(start), reward_funcs=odd_length, args=args, train_dataset=dataset)
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(("continues", "trained_from"), [(False, ["base", "base", "base"]), (True, None)])
def test_each_iteration_samples_with_the_last_model_and_starts_from_the_base(
    continues: bool, trained_from: list[str] | None, monkeypatch: pytest.MonkeyPatch, traces_of: Any, tmp_path: Path
):
    sampled_with, starts, traces = [], [], traces_of("qwen2")
    monkeypatch.setattr(fine_tuning, "_check_fit", lambda *rest: None)
    monkeypatch.setattr(fine_tuning, "_sample", lambda path, *rest: sampled_with.append(path) or traces)
    monkeypatch.setattr(fine_tuning, "_fine_tune", lambda path, *rest: starts.append(path) or rest[2].updates)
    args = short_config(tmp_path / "out", max_completion_length=16)
    tuning = FineTuning("D+_SFT", args, addition_dataset(), odd_length, continues=continues)
    spent = fine_tune_on_traces("base", BUDGET.split(1) * 3, tuning)
    one, two = (str(tmp_path / "out" / f"iteration_{number}") for number in (1, 2))
    assert sampled_with == ["base", one, two]
    assert starts == (trained_from or ["base", one, two])
    assert spent == Spent(answers=3 * 2 * len(traces), updates=3)
    assert len(list((tmp_path / "out" / "traces").iterdir())) == 3


def test_an_adapter_is_trained_sampled_with_and_trained_further(local_model: Any, tmp_path: Path):
    start = str(local_model("qwen2"))
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    args = short_config(tmp_path / "out", max_completion_length=16, learning_rate=0.1)
    tuning = FineTuning("D+_SFT", args, addition_dataset(), odd_length, peft_config=lora, continues=True)
    spent = fine_tune_on_traces(start, [BUDGET] * 2, tuning)
    assert spent == Spent(answers=2 * 2 * 16, updates=2)
    weights = []
    for folder in (tmp_path / "out" / "iteration_1", tmp_path / "out"):
        assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
        model = load_model(str(folder))
        weights.append({name: value for name, value in model.named_parameters() if "lora_B" in name})
    assert all(value.abs().max() > 0 for value in weights[0].values())
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    trainable = load_trainable(str(tmp_path / "out"), args)
    assert {name for name, value in trainable.named_parameters() if value.requires_grad} >= set(weights[1])


# What is refused


def test_no_right_answer_is_an_error_that_says_what_was_sampled(local_model: Any, tmp_path: Path):
    def never(completions: list[Any], **kwargs: Any) -> list[float]:
        return [0.0] * len(completions)

    tuning = FineTuning("D_SFT", short_config(tmp_path), addition_dataset(), never)
    with pytest.raises(ValueError, match=r"D_SFT needs at least one trace .* got none of 16 sampled rollouts"):
        fine_tune_on_traces(str(local_model("qwen2")), [BUDGET], tuning)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused_before_anything_is_sampled(local_model: Any, tmp_path: Path):
    tuning = FineTuning("D_STaR", short_config(tmp_path, max_completion_length=300), addition_dataset(), odd_length)
    with pytest.raises(ValueError, match=r"must fit into the model's context of 512 tokens, got up to 7\d\d"):
        fine_tune_on_traces(str(local_model("qwen2")), [BUDGET], tuning)


def test_bad_input_is_refused_before_a_model_is_loaded(tmp_path: Path):
    args = short_config(tmp_path)

    def start(dataset: Any, **options: Any) -> None:
        fine_tune_on_traces("nowhere", [BUDGET], FineTuning("D_STaR", options.get("args", args), dataset, odd_length))

    with pytest.raises(ValueError, match=r"dataset of known length, got IterableDataset"):
        start(addition_dataset().to_iterable_dataset())
    with pytest.raises(ValueError, match=r"must have a column 'prompt', got the columns \['solution'\]"):
        start(addition_dataset().remove_columns("prompt"))
    with pytest.raises(ValueError, match=r"cannot be resumed, got `resume_from_checkpoint='last'`"):
        start(addition_dataset(), args=short_config(tmp_path, resume_from_checkpoint="last"))
