"""Two tasks in one run: each row's tokens, budgets, request and reward are its own, in training and in evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from score_runs import addition_dataset, odd_length, short_config, text_of, training_logs

from trl_score.data import TaskInMixture, mix_tasks
from trl_score.records import Prompt, Rollout
from trl_score.rewards import TaskRouter
from trl_score.score.score_trainer import SCoReTrainer

BUDGETS = {"sums": (4, 12), "names": (20, 5), "plain": (8, 8)}  # "plain" sets nothing: 8 tokens is the run's own
REQUESTS = {"sums": "Check the sum.", "names": "Is it spelt right? Write the name again.", "plain": None}


def quarters(completions: list[Any], **columns: Any) -> list[float]:
    return [len(text_of(completion)) % 3 / 4 for completion in completions]


def half(completions: list[Any], turn: int, **columns: Any) -> list[float]:
    return [0.5 * (turn == 2)] * len(completions)


REWARDS = {"sums": odd_length, "names": quarters, "plain": half}


def questions(task: str, num_rows: int) -> Dataset:
    prompts = [[{"role": "user", "content": f"{task}: question {row}"}] for row in range(num_rows)]
    return Dataset.from_dict({"prompt": prompts, "draft": ["I say that it is this one. " * 4] * num_rows})


def mixture(batches: str, num_rows: int = 4, names: tuple[str, ...] = ("sums", "names", "plain")) -> Dataset:
    tasks = {
        name: TaskInMixture(
            questions(name, num_rows),
            max_completion_length=None if name == "plain" else BUDGETS[name],
            correction_prompt=REQUESTS[name],
        )
        for name in names
    }
    return mix_tasks(tasks, batches=batches, prompts_per_batch=2)


class KeepingTrainer(SCoReTrainer):
    """Keeps each batch: its rows, rollouts, rewards, and what is trained on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept: dict[str, list[Any]] = {"train": [], "eval": []}

    def roll_out(self, prompts: list[Prompt], inputs: list[dict[str, Any]]) -> list[Rollout]:
        self.rows = inputs
        return super().roll_out(prompts, inputs)

    def finish_batch(self, batch: Any) -> Any:
        batch = super().finish_batch(batch)
        self.kept[self.mode].append((self.rows, self._rollouts, self._completions, self._rewards_per_func, batch))
        return batch


def mixture_trainer(
    local_model: Callable[[str], Path], folder: Path, batches: str = "mixed", **options: Any
) -> KeepingTrainer:
    args = short_config(folder, shuffle_dataset=False, max_completion_length=8, **options)
    return KeepingTrainer(
        model=str(local_model("qwen2")),
        reward_funcs=TaskRouter(REWARDS),
        args=args,
        train_dataset=mixture(batches),
        eval_dataset=mixture("mixed", num_rows=2),
    )


def check_batch(trainer: KeepingTrainer, kept: Any) -> set[str]:
    """Checks each row of a batch against its own task; returns the tasks of the batch."""
    rows, rollouts, completions, rewards, _ = kept
    tokenizer = trainer.tokenizer
    for index, (row, rollout) in enumerate(zip(rows, rollouts, strict=True)):
        name = row["task"]
        assert f"{name}: question" in tokenizer.decode(rollout.prompt_ids)
        for turn, generated in enumerate((rollout.turn_1, rollout.turn_2)):
            budget = BUDGETS[name][turn]
            assert len(generated.token_ids) <= budget
            assert generated.truncated == (generated.token_ids[-1] not in trainer.eos_token_ids)
            assert len(generated.token_ids) == budget or not generated.truncated
            expected = REWARDS[name](completions=[completions[turn][index]], turn=turn + 1)
            assert rewards[turn][index].tolist() == expected
        request = tokenizer.decode(rollout.correction_ids)
        assert (REQUESTS[name] or trainer.args.correction_prompt) in request
        assert [other for other in REQUESTS.values() if other not in (None, REQUESTS[name]) and other in request] == []
    return {row["task"] for row in rows}


@pytest.mark.parametrize("batches", ["mixed", "separate"])
def test_each_row_is_rolled_out_and_paid_by_its_own_task(batches, local_model, tmp_path):
    trainer = mixture_trainer(local_model, tmp_path, batches, max_steps=6, stage="2")
    trainer.train()
    trainer.evaluate()
    tasks = [check_batch(trainer, kept) for kept in trainer.kept["train"]]
    assert len(tasks) == 6 and set.union(*tasks) == set(BUDGETS)
    if batches == "separate":
        assert all(len(of_batch) == 1 for of_batch in tasks)
    else:
        assert any(len(of_batch) > 1 for of_batch in tasks)
    assert set.union(*(check_batch(trainer, kept) for kept in trainer.kept["eval"])) == set(BUDGETS)
    # The budgets bind: some turns of every task reach theirs, so the longer ones were not cut at the shorter.
    rollouts = [
        (row["task"], rollout) for kept in trainer.kept["train"] for row, rollout in zip(*kept[:2], strict=True)
    ]
    for name, budgets in BUDGETS.items():
        own = [rollout for task, rollout in rollouts if task == name]
        assert max(len(rollout.turn_1.token_ids) for rollout in own) == budgets[0]
        assert max(len(rollout.turn_2.token_ids) for rollout in own) == budgets[1]


def test_dr_grpo_divides_each_row_by_its_own_budget(local_model, tmp_path):
    # In two micro-batches a step: of one alone, the advantages are made in the midst of the update.
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    options = {"stage": "2", "loss_type": "dr_grpo", "learning_rate": 0.0}
    trainer = mixture_trainer(local_model, tmp_path, max_steps=3, **halves, **options)
    trainer.train()
    wrong = []
    for (rows, _, _, _, batch), entry in zip(trainer.kept["train"], training_logs(trainer), strict=True):
        # On-policy and with the KL in the return, a token's loss is minus its advantage.
        losses = -batch["advantages"].sum(dim=1)
        own = torch.tensor([sum(BUDGETS[row["task"]]) for row in rows])
        assert entry["loss"] == pytest.approx((losses / own).mean().item(), rel=1e-3, abs=1e-5)
        wrong.append((losses / sum(trainer.args.turn_budgets)).mean().item())
    by_the_run = [entry["loss"] - loss for entry, loss in zip(training_logs(trainer), wrong, strict=True)]
    assert max(map(abs, by_the_run)) > 1e-3


def test_first_turns_from_the_dataset_are_cut_by_the_budget_of_the_row(local_model, tmp_path):
    trainer = mixture_trainer(
        local_model, tmp_path, max_steps=3, offline_turn_1_column="draft", offline_turn_1_share=1.0
    )
    trainer.train()
    for rows, rollouts, *_ in trainer.kept["train"]:
        for row, rollout in zip(rows, rollouts, strict=True):
            assert rollout.is_turn_1_offline and rollout.turn_1.truncated
            assert len(rollout.turn_1.token_ids) == BUDGETS[row["task"]][0]


def test_turns_that_their_own_budget_cut_off_are_masked(local_model, tmp_path):
    trainer = mixture_trainer(local_model, tmp_path, max_steps=3, mask_truncated_completions=True)
    trainer.train()
    seen = set()
    for _, rollouts, _, _, batch in trainer.kept["train"]:
        for rollout, turn_of_token in zip(rollouts, batch["turn_of_token"], strict=True):
            for turn, generated in ((1, rollout.turn_1), (2, rollout.turn_2)):
                num_learned = 0 if generated.truncated else len(generated.token_ids)
                assert (turn_of_token == turn).sum() == num_learned
                seen.add(generated.truncated)
    assert seen == {True, False}


# Before training


def test_correction_prompts_and_budgets_of_rows_are_checked_at_start_up(local_model, tmp_path):
    def build(**changed: Any) -> None:
        dataset = addition_dataset(num_rows=4)
        for column, value in changed.items():
            dataset = dataset.add_column(column, [None, None, value, None])
        SCoReTrainer(
            model=str(local_model("qwen2")),
            reward_funcs=odd_length,
            args=short_config(tmp_path),
            train_dataset=addition_dataset(),
            eval_dataset={"sums": dataset},
        )

    with pytest.raises(ValueError, match="`correction_prompt` must not be empty, got ' '"):
        build(correction_prompt=" ")
    with pytest.raises(ValueError, match=r"'max_completion_length_t1' must hold whole numbers .*, got 0"):
        build(max_completion_length_t1=0)
    with pytest.raises(ValueError, match=r"must fit into the model's context of 512 tokens, .* turn 2 600"):
        build(max_completion_length_t2=600)
