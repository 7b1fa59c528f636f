"""The arithmetic of equal budgets: by hand, and against the answers that a trainer really generates."""

from pathlib import Path
from typing import Any

import pytest
from local_models import FAMILIES
from score_runs import EngineTrainer, addition_dataset, odd_length, seeded_engine, short_config
from transformers import AutoTokenizer

from trl_score.baselines.budget import Budget, Schedule


def test_the_embedded_task_by_hand():
    # 180 updates, each on a new batch of 192 rollouts: 192 / 8 = 24 prompts. 180 * 24 = 4,320 prompts, times 8 = 34,560
    # rollouts, times two turns = 69,120 answers.
    budget = Schedule(192, 8, 1, 1, num_rows=8192).budget(max_steps=180, num_train_epochs=3)
    assert (budget.updates, budget.prompts, budget.rollouts, budget.answers) == (180, 4320, 34560, 69120)


def test_a_batch_that_is_used_more_than_once_is_generated_once():
    # 4 micro-batches of 8 rollouts, each used in 3 iterations: 12 micro-batches per batch, 2 per update: 6 updates.
    # A seventh update begins a second batch, which counts as a whole: 2 * 32 / 4 = 16 prompts.
    assert Schedule(32, 4, 12, 2).budget_of_updates(6).prompts == 8
    assert Schedule(32, 4, 12, 2).budget_of_updates(7).prompts == 16


def test_epochs_by_hand():
    # 26 rows, 8 prompts a batch: 3 whole batches an epoch, the last 2 rows are left out. 3 micro-batches an epoch, 2 an
    # update: 2 updates an epoch, the second of one micro-batch. 1.5 epochs: ceil(3) = 3 updates, 3 + 2 = 5 batches.
    budget = Schedule(32, 4, 1, 2, num_rows=26).budget(max_steps=-1, num_train_epochs=1.5)
    assert budget == Budget(updates=3, prompts=5 * 8, group_size=4)


def test_unknown_length_needs_max_steps():
    assert Schedule(32, 4, 1, 1).budget(max_steps=5, num_train_epochs=1).prompts == 40
    with pytest.raises(ValueError, match="unknown length needs `max_steps`, got -1"):
        Schedule(32, 4, 1, 1).budget(max_steps=-1, num_train_epochs=1)


def test_iterations_add_up_to_the_whole():
    parts = Budget(updates=181, prompts=4321, group_size=8).split(3)
    assert [part.updates for part in parts] == [61, 60, 60]
    assert [part.prompts for part in parts] == [1441, 1440, 1440]
    assert sum(part.answers for part in parts) == Budget(181, 4321, 8).answers == 2 * 4321 * 8
    with pytest.raises(ValueError, match=r"Each of 3 iterations needs .* 9 prompts and 2 updates"):
        Budget(updates=2, prompts=9, group_size=8).split(3)


def test_what_stage_1_leaves():
    schedule = Schedule(192, 8, 1, 1)
    rest = schedule.budget_of_updates(180) - schedule.budget_of_updates(90)
    assert rest == Budget(updates=90, prompts=2160, group_size=8)


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "num_iterations": 2},
        # 16 rows, 2 prompts a batch: 8 micro-batches an epoch, 3 an update, so its third update has two.
        {"max_steps": -1, "num_train_epochs": 1, "gradient_accumulation_steps": 3, "steps_per_generation": 1},
    ],
    ids=["iterations", "epochs"],
)
def test_a_trainer_generates_as_many_answers(options: dict[str, Any], local_model: Any, tmp_path: Path):
    model, dataset, answers = local_model("qwen2"), addition_dataset(), []
    args = short_config(tmp_path, **options)
    trainer = EngineTrainer(model=str(model), reward_funcs=odd_length, args=args, train_dataset=dataset)
    end_id = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids(FAMILIES["qwen2"].end_of_turn)
    engine = seeded_engine(end_id)

    def counting(*call: Any) -> Any:
        answers.append(call)
        return engine(*call)

    trainer.engine = counting
    trainer.train()
    budget = Schedule.of(args, len(dataset)).budget(args.max_steps, args.num_train_epochs)
    assert (budget.answers, budget.updates) == (len(answers), trainer.state.global_step)
