"""SCoReTrainer from end to end on small models: both stages, what is logged, saved and trained on, the gradients."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from local_models import FAMILIES
from score_runs import (
    EngineTrainer,
    addition_dataset,
    evaluation_logs,
    gradients_of,
    is_finite,
    odd_length,
    seeded_engine,
    short_config,
    training_logs,
    weights_of,
)

from trl_score.log_keys import SCORE_LOG_KEYS, SCORE_MEMORY_KEYS
from trl_score.score.score_trainer import SCoReTrainer

# Not in evaluation: nothing is updated there.
TRAIN_ONLY_KEYS = {
    "score/without_signal",
    "score/seconds_update",
    "score/seconds_optimizer",
    "score/seconds_step",
    "score/skipped_steps",
}


def score_keys(entry: dict[str, Any]) -> set[str]:
    return {key for key in entry if "score/" in key}


# Runs through both stages


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma", "plain", "qwen3"])
def test_runs_through_both_stages(kind, local_model, tmp_path):
    dataset = addition_dataset(kind)
    args = short_config(
        tmp_path,
        max_steps=4,
        stage_1_steps=2,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=100,
        log_completions=True,
        num_completions_to_print=1,
    )
    trainer = SCoReTrainer(
        model=str(local_model(kind)),
        reward_funcs=odd_length,
        args=args,
        train_dataset=dataset,
        eval_dataset=dataset.select(range(5)),
    )
    before = weights_of(trainer.model)
    trainer.train()

    after = weights_of(trainer.model)
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    train, evaluation = training_logs(trainer), evaluation_logs(trainer)
    assert all(is_finite(entry) for entry in [*train, *evaluation])
    assert [entry["score/stage"] for entry in train] == [1, 1, 2, 2]
    # Both turns in the completions table, in training and in evaluation.
    for entry in train:
        table = pd.read_parquet(tmp_path / "completions" / f"completions_{entry['step']:05d}.parquet")
        assert {"prompt", "completion_t1", "completion_t2", "odd_length_t1", "odd_length_t2"} <= set(table.columns)
        assert len(table) == 8
    # The boundary is saved and evaluated, although `save_steps` and `eval_steps` ask for it elsewhere.
    assert [entry["step"] for entry in evaluation] == [2, 4]
    assert (tmp_path / "checkpoint-2").is_dir()


def test_logs_every_declared_key_and_no_other(local_model, tmp_path):
    args = short_config(tmp_path, max_steps=2, stage_1_steps=1, eval_strategy="steps", eval_steps=1)
    trainer = SCoReTrainer(
        model=str(local_model("qwen2")),
        reward_funcs=odd_length,
        args=args,
        train_dataset=addition_dataset(),
        eval_dataset=addition_dataset(num_rows=3),
    )
    trainer.train()
    for entry in training_logs(trainer):
        assert score_keys(entry) == set(SCORE_LOG_KEYS)
    assert len(evaluation_logs(trainer)) == 2
    for entry in evaluation_logs(trainer):
        assert score_keys(entry) == {f"eval_{key}" for key in SCORE_LOG_KEYS if key not in TRAIN_ONLY_KEYS}


def test_memory_of_each_phase_is_logged_where_it_is_asked_for(local_model, tmp_path):
    trainer = SCoReTrainer(
        model=str(local_model("qwen2")),
        reward_funcs=odd_length,
        args=short_config(tmp_path, max_steps=1, log_memory=True),
        train_dataset=addition_dataset(),
        eval_dataset=addition_dataset(num_rows=3),
    )
    trainer.train()
    (entry,) = training_logs(trainer)
    assert score_keys(entry) == {*SCORE_LOG_KEYS, *SCORE_MEMORY_KEYS}
    # On a CPU it is the process: this one has loaded torch, and the machine has less than a tebibyte.
    assert all(0.1 < entry[key] < 1000 for key in SCORE_MEMORY_KEYS)
    found = {key for key in trainer.evaluate() if "memory" in key}
    assert found == {"eval_score/memory_generation", "eval_score/memory_log_probs"}


def test_checkpoints_say_which_stage_they_went_through(local_model, tmp_path):
    args = short_config(tmp_path, max_steps=3, stage_1_steps=2, save_strategy="steps", save_steps=1, alpha=4.0)
    trainer = SCoReTrainer(
        model=str(local_model("qwen2")), reward_funcs=odd_length, args=args, train_dataset=addition_dataset()
    )
    trainer.train()
    trainer.save_model()
    settings = {
        name: json.loads((tmp_path / name / "score_config.json").read_text())
        for name in ("checkpoint-1", "checkpoint-2", "checkpoint-3", "")
    }
    # Checkpoint 2 is the model as it leaves Stage I: it has not been through a step of Stage II.
    assert [settings[f"checkpoint-{step}"]["stage"] for step in (1, 2, 3)] == [1, 1, 2]
    assert settings[""]["stage"] == 2
    assert settings[""]["alpha"] == 4.0
    assert settings[""]["max_completion_length"] == [6, 6]


def test_stage_boundary_as_share_of_the_steps(local_model, tmp_path):
    # 0.25 of 4 steps: one step of Stage I.
    args = short_config(tmp_path, max_steps=4, stage_1_steps=0.25)
    trainer = SCoReTrainer(
        model=str(local_model("qwen2")), reward_funcs=odd_length, args=args, train_dataset=addition_dataset()
    )
    trainer.train()
    assert [entry["score/stage"] for entry in training_logs(trainer)] == [1, 2, 2, 2]


def test_unscorable_turns_are_counted_and_left_out(local_model, tmp_path):
    def one_of_three(completions: list[Any], turn: int, **kwargs: Any) -> list[float | None]:
        # Turn 1: row 0 cannot be scored, the rest are right. Turn 2: rows 0 and 1 cannot, the rest are wrong.
        return [None if row < turn else float(turn == 1) for row in range(len(completions))]

    args = short_config(tmp_path, max_steps=1, stage="2", alpha=1.0)
    trainer = SCoReTrainer(
        model=str(local_model("qwen2")), reward_funcs=one_of_three, args=args, train_dataset=addition_dataset()
    )
    trainer.train()
    entry = training_logs(trainer)[0]
    assert entry["score/unscorable"] == 3
    assert entry["score/accuracy_t1"] == 1.0
    assert entry["score/accuracy_t2"] == 0.0
    assert entry["score/delta_c_to_i"] == 1.0
    # r2 + alpha (r2 - r1) = 0 + 1 * (0 - 1) in the 6 rollouts that are scorable in both turns.
    assert entry["score/shaped_reward_t2"] == -1.0


# What is logged is what is trained on


class RecordingTrainer(EngineTrainer):
    """Keeps the micro-batches that it was trained on, and the gradient of the loss by each token's log-probability."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batches: list[dict[str, torch.Tensor]] = []
        self.logps: list[torch.Tensor] = []

    def log_probs(self, model: Any, batch: Any, **kwargs: Any) -> Any:
        result = super().log_probs(model, batch, **kwargs)
        if result.per_token_logps.requires_grad:
            result.per_token_logps.retain_grad()
            self.batches.append(dict(batch))
            self.logps.append(result.per_token_logps)
        return result


def recording_trainer(local_model: Any, folder: Path, kind: str = "qwen2", **options: Any) -> RecordingTrainer:
    reward_funcs = options.pop("reward_funcs", odd_length)
    dataset = options.pop("train_dataset", addition_dataset(kind))
    trainer = RecordingTrainer(
        model=str(local_model(kind)),
        reward_funcs=reward_funcs,
        args=short_config(folder, **options),
        train_dataset=dataset,
    )
    end_of_turn = trainer.tokenizer.convert_tokens_to_ids(FAMILIES[kind].end_of_turn)
    trainer.engine = seeded_engine(end_of_turn)
    return trainer


@pytest.mark.parametrize("stage", ["1", "2"])
def test_logged_advantages_are_those_trained_on(stage, local_model, tmp_path):
    trainer = recording_trainer(
        local_model,
        tmp_path,
        max_steps=1,
        stage=stage,
        log_completions=True,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    trainer.train()
    table = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    logged = {(row.completion_t1[0]["content"], row.completion_t2[0]["content"]): row for row in table.itertuples()}
    assert len(logged) == 8
    num_rows = 0
    for batch in trainer.batches:
        for ids, turns, advantages in zip(
            batch["completion_ids"], batch["turn_of_token"], batch["advantages"], strict=True
        ):
            texts = tuple(trainer.tokenizer.decode(ids[turns == turn], skip_special_tokens=True) for turn in (1, 2))
            row = logged[texts]
            assert advantages[turns == 1].tolist() == pytest.approx([row.advantage_t1] * int((turns == 1).sum()))
            assert advantages[turns == 2].tolist() == pytest.approx([row.advantage_t2] * int((turns == 2).sum()))
            assert (advantages[turns == 0] == 0).all()
            # Leave-one-out over 4 rollouts (on-policy from the reference: no KL yet), by hand from the table; alpha 10.
            group = table[[str(prompt) == str(row.prompt) for prompt in table["prompt"]]]
            assert len(group) == 4
            shaped = group.odd_length_t2 + (0 if stage == "1" else 10) * (group.odd_length_t2 - group.odd_length_t1)
            others = (shaped.sum() - shaped[row.Index]) / 3
            assert row.advantage_t2 == pytest.approx(shaped[row.Index] - others, abs=1e-3)
            num_rows += 1
    assert num_rows == 8


# Gradients


def moved_trainer(local_model: Any, folder: Path, **options: Any) -> RecordingTrainer:
    """A trainer whose policy has taken two large steps away from the reference."""
    trainer = recording_trainer(local_model, folder, max_steps=2, stage="1", learning_rate=1e-2, **options)
    trainer.train()
    trainer.batches.clear()
    trainer.logps.clear()
    return trainer


def loss_gradient(trainer: RecordingTrainer) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """One rollout batch and its loss, gradients by log-probabilities and by parameters."""
    trainer.model.train()
    rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(4)]
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions(rows)
    trainer.model.zero_grad()
    trainer.turn_loss(trainer.model, batch).backward()
    return trainer.logps[-1].grad, batch, gradients_of(trainer.model)


@pytest.mark.parametrize("kl_estimator", ["k1", "k2", "k3"])
def test_stage_1_holds_turn_1_by_the_kl_alone(kl_estimator, local_model, tmp_path):
    trainer = moved_trainer(local_model, tmp_path, kl_estimator=kl_estimator)
    trainer.adaptive_beta_2.beta_2 = 0.5
    by_logps, batch, held = loss_gradient(trainer)
    is_turn_1, is_turn_2 = batch["turn_of_token"] == 1, batch["turn_of_token"] == 2
    log_ratio = (trainer.logps[-1].detach() - batch["ref_per_token_logps"]) * is_turn_1

    # By hand, the mean over 8 rollouts of the token sums. k1: -A with A = R - mean of the 3 other R, R = -0.5 KL1.
    if kl_estimator == "k1":
        returns = -0.5 * log_ratio.sum(dim=1).view(2, 4)
        others = (returns.sum(dim=1, keepdim=True) - returns) / 3
        expected = -(returns - others).view(8, 1) / 8 * is_turn_1
    elif kl_estimator == "k2":
        expected = 0.5 * log_ratio / 8
    else:
        expected = 0.5 * (1 - torch.exp(-log_ratio)) / 8 * is_turn_1
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(by_logps * is_turn_1, expected, rtol=1e-3, atol=1e-5)

    # Without beta_2 turn 1 has no gradient at all, and turn 2's is as it was.
    trainer.adaptive_beta_2.beta_2 = 0.0
    by_logps_free, _, free = loss_gradient(trainer)
    assert (by_logps_free[is_turn_1] == 0).all()
    torch.testing.assert_close(by_logps_free[is_turn_2], by_logps[is_turn_2])
    assert by_logps_free[is_turn_2].abs().max() > 1e-3
    assert any(not torch.allclose(held[name], free[name], rtol=1e-3) for name in held)


def test_stage_1_does_not_look_at_turn_1_rewards(local_model, tmp_path):
    bonus = [0.0]

    def reward(completions: list[Any], turn: int, **kwargs: Any) -> list[float]:
        return [value + bonus[0] * row * (turn == 1) for row, value in enumerate(odd_length(completions))]

    trainer = moved_trainer(local_model, tmp_path, reward_funcs=reward)
    _, _, without = loss_gradient(trainer)
    bonus[0] = 5.0
    _, _, with_bonus = loss_gradient(trainer)
    for name, gradient in without.items():
        torch.testing.assert_close(with_bonus[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("kl_estimator", ["k1", "k2"])
@pytest.mark.parametrize("stage", ["1", "2"])
def test_correction_prompt_gets_no_gradient(stage, kl_estimator, local_model, tmp_path):
    trainer = recording_trainer(local_model, tmp_path, max_steps=2, stage=stage, kl_estimator=kl_estimator)
    trainer.train()
    correction = trainer._row_settings.own.correction.request_ids
    for batch, logps in zip(trainer.batches, trainer.logps, strict=True):
        assert (logps.grad[batch["turn_of_token"] == 0] == 0).all()
        for ids, gradient in zip(batch["completion_ids"].tolist(), logps.grad, strict=True):
            starts = [s for s in range(len(ids)) if ids[s : s + len(correction)] == correction]
            assert len(starts) == 1
            assert (gradient[starts[0] : starts[0] + len(correction)] == 0).all()
            assert gradient[starts[0] + len(correction)] != 0 or stage == "1"


def test_offline_first_turns_get_no_gradient(local_model, tmp_path):
    dataset = addition_dataset().map(lambda row: {"draft": ["I say 12.", "Maybe 7?", "It is 3."]})
    trainer = recording_trainer(
        local_model,
        tmp_path,
        train_dataset=dataset,
        max_steps=3,
        stage="2",
        learning_rate=1e-2,
        offline_turn_1_column="draft",
        offline_turn_1_share=0.5,
    )
    trainer.train()
    drafts = {tuple(trainer.tokenizer.encode(text)[:6]) for text in ("I say 12.", "Maybe 7?", "It is 3.")}
    num_offline = num_online = 0
    for batch, logps in zip(trainer.batches, trainer.logps, strict=True):
        for ids, turns, gradient in zip(
            batch["completion_ids"].tolist(), batch["turn_of_token"], logps.grad, strict=True
        ):
            is_offline = any(tuple(ids[: len(draft)]) == draft for draft in drafts)
            first_turn_2 = int((turns == 2).nonzero()[0])
            if is_offline:
                assert not (turns == 1).any()
                assert (gradient[:first_turn_2] == 0).all()
            else:
                assert (turns == 1).any()
            num_offline += is_offline
            num_online += not is_offline
    assert num_offline > 0 and num_online > 0
    logged = [entry["score/offline_turn_1"] for entry in training_logs(trainer)]
    assert sum(logged) / len(logged) == pytest.approx(num_offline / (num_offline + num_online))


def run_with_accumulation(
    local_model: Any, folder: Path, size: int, loss_type: str, **options: Any
) -> RecordingTrainer:
    trainer = recording_trainer(
        local_model,
        folder,
        max_steps=3,
        stage="both",
        loss_type=loss_type,
        learning_rate=1e-2,
        optim="sgd",
        per_device_train_batch_size=size,
        gradient_accumulation_steps=8 // size,
        **options,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("loss_type", ["rloo", "dapo", "dr_grpo"])
def test_accumulating_eight_batches_of_one_equals_one_batch_of_eight(loss_type, local_model, tmp_path):
    whole = run_with_accumulation(local_model, tmp_path / "whole", 8, loss_type)
    split = run_with_accumulation(local_model, tmp_path / "split", 1, loss_type)
    for entry_whole, entry_split in zip(training_logs(whole), training_logs(split), strict=True):
        assert entry_split["loss"] == pytest.approx(entry_whole["loss"], rel=1e-3, abs=2e-4)
        assert entry_split["grad_norm"] == pytest.approx(entry_whole["grad_norm"], rel=1e-3)
        for key in score_keys(entry_whole):
            if "seconds" not in key:
                assert entry_split[key] == pytest.approx(entry_whole[key], rel=1e-3, abs=1e-4), key
    weights = weights_of(whole.model)
    for name, weight in weights_of(split.model).items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-5)
