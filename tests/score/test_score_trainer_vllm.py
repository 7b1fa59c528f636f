"""
SCoReTrainer with vLLM, by a stand-in that has the interface of TRL's object and samples from a copy of the weights that
it was last brought. The real vLLM is in tests/real_vllm (`make test-vllm`).
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.grpo_trainer
from accelerate.utils import is_peft_model
from local_models import FAMILIES
from peft import LoraConfig, PolyConfig, PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
from score_runs import (
    EngineTrainer,
    addition_dataset,
    evaluation_logs,
    is_finite,
    odd_length,
    short_config,
    training_logs,
)
from transformers import AutoModelForCausalLM

from trl_score import trl_compat
from trl_score.records import GeneratedTurn
from trl_score.score.importance import importance_weights
from trl_score.score.score_trainer import SCoReTrainer

GAP = "sampling/sampling_logp_difference"
RATIO = "sampling/importance_sampling_ratio"


class SleepingLLM:
    """Notes when it is woken and put to sleep."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def wake_up(self, tags: list[str]) -> None:
        self.notes.append(f"wake {tags[0]}")

    def sleep(self, level: int) -> None:
        self.notes.append(f"sleep {level}")


class SamplingStandIn:
    """In the place of TRL's `VLLMGeneration`: the same settings, `sync_weights` and `generate`."""

    def __init__(self, model: Any, **settings: Any) -> None:
        vars(self).update(settings)
        self.generation_kwargs = settings["generation_kwargs"] or {}
        self.model = model
        self.own_model = AutoModelForCausalLM.from_pretrained(model.name_or_path)
        self.notes: list[str] = []
        self.llm = SleepingLLM(self.notes)
        self._llm_weights_sleeping = self.enable_sleep_mode
        self.random = torch.Generator().manual_seed(0)

    def sync_weights(self) -> None:
        self.notes.append("sync")
        self._llm_weights_sleeping = False
        # As TRL does: an adapter merged into the weights, and these under their names without it.
        if is_peft_model(self.model):
            self.model.merge_adapter()
        weights = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter.detach().clone()
            for name, parameter in self.model.named_parameters()
            if "lora_" not in name
        }
        if is_peft_model(self.model):
            self.model.unmerge_adapter()
        assert not self.own_model.load_state_dict(weights, strict=False).unexpected_keys

    def generate(self, prompts: Any, images: None, num_generations: int) -> tuple[Any, Any, Any, None]:
        assert images is None and num_generations == 1
        # As TRL does in sleep mode: weights brought where there are none, and all asleep again after the call.
        if self.enable_sleep_mode and self._llm_weights_sleeping:
            self.sync_weights()
        assert not self._llm_weights_sleeping
        self.notes.append(f"generate {len(prompts)}")
        rows = [self.sample(list(ids)) for ids in prompts]
        if self.enable_sleep_mode:
            self.llm.sleep(level=2)
            self._llm_weights_sleeping = True
        return prompts, [ids for ids, _ in rows], [logprobs for _, logprobs in rows], None

    @torch.no_grad()
    def sample(self, prompt: list[int]) -> tuple[list[int], list[list[float]]]:
        ids, logprobs = [], []
        stop_ids = self.generation_kwargs["stop_token_ids"]
        while len(ids) < self.max_completion_length and not (ids and ids[-1] in stop_ids):
            logits = self.own_model(torch.tensor([[*prompt, *ids]])).logits[0, -1].float()
            is_greedy = self.temperature == 0.0
            logps = (logits if is_greedy else logits / self.temperature).log_softmax(dim=-1)
            drawn = logps.argmax() if is_greedy else torch.multinomial(logps.exp(), 1, generator=self.random)
            ids.append(int(drawn))
            logprobs.append([float(logps[ids[-1]])])
        return ids, logprobs


class ForgetfulStandIn(SamplingStandIn):
    """Takes the first weights that it is brought and no others."""

    def sync_weights(self) -> None:
        if "sync" not in self.notes:
            super().sync_weights()


@pytest.fixture
def vllm_trainer(local_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds trainers with a stand-in for vLLM."""
    monkeypatch.setattr(trl_compat, "is_vllm_available", lambda: True)

    def build(stand_in: type = SamplingStandIn, trainer_class: type = SCoReTrainer, **options: Any) -> Any:
        monkeypatch.setattr(trl.trainer.grpo_trainer, "VLLMGeneration", stand_in)
        own = {name: options.pop(name) for name in ("eval_dataset", "peft_config") if name in options}
        return trainer_class(
            model=options.pop("model", str(local_model("qwen2"))),
            reward_funcs=odd_length,
            args=short_config(tmp_path, use_vllm=True, **{"learning_rate": 3e-3, **options}),
            train_dataset=addition_dataset(),
            **own,
        )

    return build


def end_of_turn(trainer: SCoReTrainer) -> int:
    return trainer.tokenizer.convert_tokens_to_ids(FAMILIES["qwen2"].end_of_turn)


# Both turns through it


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_weights_are_brought_once_a_batch_and_then_both_turns_are_sampled_with_them(vllm_trainer, temperature):
    trainer = vllm_trainer(max_steps=3, temperature=temperature, stage="2")
    trainer.train()
    assert trainer.vllm_generation.notes == ["sync", "generate 8", "generate 8"] * 3
    for entry in training_logs(trainer):
        assert is_finite(entry)
        assert entry[f"{GAP}/max"] < 1e-4
        assert entry[f"{RATIO}/min"] == pytest.approx(1, abs=1e-4) == entry[f"{RATIO}/max"]


def test_weights_that_were_not_brought_show(vllm_trainer):
    trainer = vllm_trainer(ForgetfulStandIn, max_steps=3, stage="2")
    trainer.train()
    gaps = [entry[f"{GAP}/max"] for entry in training_logs(trainer)]
    assert gaps[0] < 1e-4 < 1e-2 < min(gaps[1:])


def test_adapters_are_brought_too(vllm_trainer):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = vllm_trainer(peft_config=lora, max_steps=3, stage="2")
    trainer.train()
    assert all(entry[f"{GAP}/max"] < 1e-4 for entry in training_logs(trainer))


def test_a_batch_that_is_used_twice_is_weighed_by_the_weights_that_sampled_it(vllm_trainer):
    trainer = vllm_trainer(num_iterations=2, max_steps=4, stage="2")
    trainer.train()
    assert trainer.vllm_generation.notes.count("sync") == 2
    assert all(entry.get(f"{GAP}/max", 0.0) < 1e-4 for entry in training_logs(trainer))


def test_training_that_begins_anew_brings_the_weights_again(vllm_trainer):
    # TRL counts steps: the second run starts at step 0, whose weights vLLM has had.
    trainer = vllm_trainer(max_steps=1, stage="2")
    trainer.train()
    trainer.train()
    assert training_logs(trainer)[-1][f"{GAP}/max"] < 1e-4
    assert trainer.vllm_generation.notes.count("sync") == 2


def test_an_evaluation_brings_the_weights_also_without_a_step(vllm_trainer):
    trainer = vllm_trainer(eval_dataset=addition_dataset(num_rows=3), stage="2")
    trainer.evaluate()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.1)  # as where the best checkpoint is loaded at the end
    trainer.evaluate()
    assert [entry[f"eval_{GAP}/max"] < 1e-4 for entry in evaluation_logs(trainer)] == [True, True]


def test_a_greedy_evaluation_is_not_weighed(vllm_trainer):
    trainer = vllm_trainer(eval_dataset=addition_dataset(num_rows=3), max_steps=1, stage="2")
    trainer.train()
    entry = trainer.evaluate()
    assert 0 <= entry[f"eval_{GAP}/max"] < 1e-4
    assert not [key for key in entry if "ratio/" in key]


def test_a_greedy_evaluation_at_another_temperature_has_nothing_to_compare(vllm_trainer):
    trainer = vllm_trainer(eval_dataset=addition_dataset(num_rows=3), temperature=0.7, stage="2")
    assert not [key for key in trainer.evaluate() if "sampling/" in key]


def test_a_sampled_evaluation_is_weighed(vllm_trainer):
    trainer = vllm_trainer(eval_dataset=addition_dataset(num_rows=3), eval_do_sample=True, temperature=0.7, stage="2")
    entry = trainer.evaluate()
    assert entry[f"eval_{GAP}/max"] < 1e-4
    assert entry[f"eval_{RATIO}/mean"] == pytest.approx(1, abs=1e-4)


def test_without_correction_nothing_is_weighed(vllm_trainer):
    trainer = vllm_trainer(vllm_importance_sampling_correction=False, max_steps=1, stage="2")
    trainer.train()
    assert not [key for key in training_logs(trainer)[0] if "sampling/" in key]


def test_processes_agree_only_where_they_generate_together(vllm_trainer):
    trainer = vllm_trainer()
    with trainer.generation_engine(do_sample=True) as engine:
        assert engine.largest is None  # each has a vLLM of its own
    trainer.vllm_mode = "server"
    with trainer.generation_engine(do_sample=True) as engine:
        assert engine.largest(3, 7) == (3, 7)


# Asleep between batches


def test_a_sleeping_engine_is_awake_for_both_turns(vllm_trainer):
    trainer = vllm_trainer(vllm_enable_sleep_mode=True, eval_dataset=addition_dataset(num_rows=10), stage="2")
    trainer.train()
    notes = trainer.vllm_generation.notes
    assert notes == ["sync", "wake kv_cache", "generate 8", "generate 8", "sleep 2"] * 2
    notes.clear()
    trainer.evaluate()  # two batches at one step: the second finds it asleep, and TRL sees no reason to bring weights
    assert notes == [
        *("sync", "wake kv_cache", "generate 8", "generate 8", "sleep 2"),
        *("sync", "wake kv_cache", "generate 2", "generate 2", "sleep 2"),
    ]
    assert trainer.vllm_generation.enable_sleep_mode is True


def test_an_error_in_a_rollout_puts_it_to_sleep_again(vllm_trainer):
    trainer = vllm_trainer(vllm_enable_sleep_mode=True)
    with pytest.raises(RuntimeError, match="in between"), trainer.generation_engine(do_sample=True):
        raise RuntimeError("in between")
    backend = trainer.vllm_generation
    assert backend.notes[-1] == "sleep 2"
    assert backend.enable_sleep_mode is True and backend._llm_weights_sleeping is True


# Which tokens are weighed


class LoggedEngineTrainer(EngineTrainer):
    """Its engine's log-probabilities are the trainer's own, less a gap of the test's for each turn."""

    gaps = (0.0, 0.0)

    def finish_batch(self, batch: Any) -> Any:
        turns = self._turn_of_token(batch["completion_ids"].size(1))
        self.given = batch["sampling_per_token_logps"].clone()
        own = batch["old_per_token_logps"]
        for turn, gap in enumerate(self.gaps, start=1):
            batch["sampling_per_token_logps"] = torch.where(turns == turn, own - gap, batch["sampling_per_token_logps"])
        return super().finish_batch(batch)


def scripted(prompt_ids: list[int], index: int, max_new_tokens: int) -> GeneratedTurn:
    """Turns of two or three tokens; those of the first rollout of four are cut off."""
    is_cut = index % 4 == 0
    ids = [50 + index, 60, 2 if not is_cut else 61]
    return GeneratedTurn(ids, truncated=is_cut, logprobs=[-float(token) for token in ids])


def batch_of(trainer: SCoReTrainer) -> Any:
    trainer.model.train()
    trainer.vllm_generation.sync_weights()
    rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(4)]
    return trainer._generate_and_score_completions(rows)


def test_log_probs_stand_at_the_tokens_that_the_model_wrote(vllm_trainer):
    trainer = vllm_trainer(trainer_class=LoggedEngineTrainer)
    trainer.engine = scripted
    batch = batch_of(trainer)
    is_written = batch["tool_mask"].bool() & batch["completion_mask"].bool()
    expected = torch.where(is_written, -batch["completion_ids"].float(), 0.0)
    assert torch.equal(trainer.given, expected)
    assert is_written.sum() == 8 * 6  # and not the correction prompt's


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_truncate"])
def test_each_turn_is_weighed_by_its_own_gap(vllm_trainer, mode):
    trainer = vllm_trainer(
        trainer_class=LoggedEngineTrainer, vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_max=100.0
    )
    trainer.engine, trainer.gaps = scripted, (0.1, 0.5)
    batch = batch_of(trainer)
    tokens = 3 if mode.startswith("sequence") else 1
    turns, weights = batch["turn_of_token"], batch["importance_sampling_ratio"]
    for turn, gap in ((1, 0.1), (2, 0.5)):
        expected = torch.tensor(tokens * gap).exp()
        torch.testing.assert_close(weights[turns == turn], expected.expand(24), rtol=1e-4, atol=0)
    assert (weights[turns == 0] == 1).all()


def test_masked_truncated_turns_are_in_no_weight_and_no_log(vllm_trainer):
    trainer = vllm_trainer(trainer_class=LoggedEngineTrainer, mask_truncated_completions=True)
    trainer.engine, trainer.gaps = scripted, (0.25, 0.75)
    batch = batch_of(trainer)
    weights = batch["importance_sampling_ratio"]
    assert (weights[[0, 4]] == 1).all()  # the first of each four is cut off in both turns
    # 6 rollouts with 3 tokens in each turn; `sequence_mask` with the bound 3: exp(0.75) stays, exp(2.25) does not.
    metrics = trainer._metrics["train"]
    assert metrics[f"{GAP}/mean"] == [pytest.approx(0.5, rel=1e-4)]
    assert metrics[f"{RATIO}/mean"] == [pytest.approx(math.exp(0.75) / 2, rel=1e-4)]
    assert metrics[f"{RATIO}/min"] == [0.0]
    assert (weights[batch["turn_of_token"] == 2] == 0).all()


def test_offline_first_turns_are_in_no_weight_and_no_log(vllm_trainer, tmp_path):
    trainer = vllm_trainer(
        trainer_class=LoggedEngineTrainer, offline_turn_1_share=1.0, offline_turn_1_column="solution"
    )
    trainer.engine, trainer.gaps = scripted, (9.0, 0.25)
    batch = batch_of(trainer)
    assert not (batch["turn_of_token"] == 1).any()
    assert trainer._metrics["train"][f"{GAP}/max"] == [pytest.approx(0.25, rel=1e-4)]
    weights = batch["importance_sampling_ratio"]
    assert (weights[batch["turn_of_token"] == 0] == 1).all()


def test_weights_are_in_the_loss(vllm_trainer):
    trainer = vllm_trainer(trainer_class=LoggedEngineTrainer, stage="2", beta_1=0.0)
    trainer.engine = scripted
    batch = batch_of(trainer)
    batch["advantages"] = torch.where(batch["turn_of_token"] > 0, 1.0, 0.0)
    trainer.current_gradient_accumulation_steps = 1
    # On-policy each token's loss is minus its weight: 6 tokens a rollout.
    assert trainer.turn_loss(trainer.model, batch).item() == pytest.approx(-6, abs=1e-3)
    batch["importance_sampling_ratio"] = torch.where(batch["turn_of_token"] == 1, 0.5, 2.0)
    assert trainer.turn_loss(trainer.model, batch).item() == pytest.approx(-(3 * 0.5 + 3 * 2), abs=1e-3)


def test_micro_batches_have_their_rows_weights(vllm_trainer):
    trainer = vllm_trainer(trainer_class=LoggedEngineTrainer, gradient_accumulation_steps=2, max_steps=1, stage="2")
    trainer.engine, trainer.gaps = scripted, (0.1, 0.2)
    seen = []
    turn_loss = trainer.turn_loss

    def watched(model: Any, batch: Any) -> torch.Tensor:
        weights = importance_weights(
            torch.where(batch["turn_of_token"] == 1, 0.1, 0.0) + torch.where(batch["turn_of_token"] == 2, 0.2, 0.0),
            batch["turn_of_token"],
            "sequence_mask",
            clip_min=None,
            clip_max=3.0,
        )
        torch.testing.assert_close(batch["importance_sampling_ratio"], weights, rtol=1e-4, atol=0)
        seen.append(len(weights))
        return turn_loss(model, batch)

    trainer.turn_loss = watched
    trainer.train()
    assert seen == [8, 8]


# Before a model is loaded


@pytest.fixture
def no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(trl_compat, "create_model_from_path", refuse)
    monkeypatch.setattr(trl.trainer.grpo_trainer, "create_model_from_path", refuse)


@pytest.mark.usefixtures("no_model_is_loaded")
def test_without_vllm_the_error_says_what_to_install(local_model, tmp_path, monkeypatch):
    monkeypatch.setattr(trl_compat, "is_vllm_available", lambda: False)
    with pytest.raises(ImportError, match=r"`use_vllm=True` needs vLLM, .* `pip install 'trl\[vllm\]'`"):
        SCoReTrainer(
            model=str(local_model("qwen2")),
            reward_funcs=odd_length,
            args=short_config(tmp_path, use_vllm=True),
            train_dataset=addition_dataset(),
        )


@pytest.mark.usefixtures("no_model_is_loaded")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vllm_max_model_length": 40}, r"must fit into vLLM's context \(`vllm_max_model_length`\) of 40 tokens"),
        (
            {"peft_config": PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)},
            "got PromptTuningConfig, which cannot be merged",
        ),
        ({"peft_config": PolyConfig(r=2, target_modules=["q_proj"])}, "got PolyConfig, which cannot be merged"),
    ],
)
def test_what_vllm_could_not_do_is_refused(vllm_trainer, options, message):
    with pytest.raises(ValueError, match=message):
        vllm_trainer(**options)


@pytest.mark.usefixtures("no_model_is_loaded")
@pytest.mark.parametrize(
    "peft_config",
    [
        PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2),
        PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2),
        PolyConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["q_proj"]),
        LoraConfig(task_type=TaskType.CAUSAL_LM, target_modules=["q_proj"], alora_invocation_tokens=[1]),
    ],
    ids=["prompt_tuning", "prefix_tuning", "poly", "alora"],
)
def test_an_adapter_in_memory_that_cannot_be_merged_is_refused(local_model, tmp_path, monkeypatch, peft_config):
    monkeypatch.setattr(trl_compat, "is_vllm_available", lambda: True)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(local_model("qwen2")), peft_config)
    with pytest.raises((AttributeError, NotImplementedError)):
        model.merge_adapter()  # what TRL does before each rollout batch
    with pytest.raises(ValueError, match=f"got {type(peft_config).__name__}, which cannot be merged"):
        SCoReTrainer(
            model=model,
            reward_funcs=odd_length,
            args=short_config(tmp_path, use_vllm=True),
            train_dataset=addition_dataset(),
        )


def test_an_adapter_in_memory_that_can_be_merged_is_brought(vllm_trainer, local_model):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(local_model("qwen2")), lora)
    trainer = vllm_trainer(model=model, max_steps=2, stage="2")
    trainer.train()
    assert all(entry[f"{GAP}/max"] < 1e-4 for entry in training_logs(trainer))


def test_a_model_that_vllm_could_not_load_is_refused(local_model, tmp_path, monkeypatch):
    monkeypatch.setattr(trl_compat, "is_vllm_available", lambda: True)
    model = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(local_model("qwen2")).config)
    model.name_or_path = model.config.name_or_path = ""
    with pytest.raises(ValueError, match="a model in memory with an empty `name_or_path`"):
        SCoReTrainer(
            model=model,
            reward_funcs=odd_length,
            args=short_config(tmp_path, use_vllm=True),
            train_dataset=addition_dataset(),
        )
