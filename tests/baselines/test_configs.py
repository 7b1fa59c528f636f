"""TRL's configurations with a SCoRe run's values in them."""

from pathlib import Path
from typing import Any

import pytest
from score_runs import short_config

from trl_score.baselines.budget import Budget, Schedule
from trl_score.baselines.configs import fine_tuning_config, single_turn_config

# What a run may set that both trainers know; none of these is a default.
SHARED: dict[str, Any] = {
    "learning_rate": 3e-4,
    "optim": "adamw_torch",
    "adam_beta2": 0.95,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.2,
    "gradient_accumulation_steps": 3,
    "seed": 7,
    "max_steps": 5,
    "logging_steps": 2,
    "save_steps": 15,
}
SAMPLING: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "num_iterations": 2, "epsilon": 0.3}


def test_single_turn_has_the_runs_values(tmp_path: Path):
    args = short_config(tmp_path, beta_1=0.02, max_completion_length_t1=11, **SHARED, **SAMPLING)
    config = single_turn_config(args)
    for name in (*SHARED, *SAMPLING, "output_dir", "report_to", "gradient_checkpointing"):
        assert config.__dict__[name] == args.__dict__[name], name
    assert (config.beta, config.normalize_advantages, config.reward_clip_range) == (0.02, False, None)
    assert config.max_completion_length == 11


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "num_iterations": 3}])
def test_single_turn_generates_as_many_answers_in_as_many_updates(options: dict[str, Any], tmp_path: Path):
    args = short_config(tmp_path, **options)
    config = single_turn_config(args)
    two_turns, one_turn = Schedule.of(args).budget_of_updates(6), Schedule.of(config).budget_of_updates(6)
    assert one_turn.rollouts == two_turns.answers == 2 * two_turns.rollouts
    assert one_turn.prompts == two_turns.prompts
    assert config.num_generations == 8


def test_fine_tuning_has_the_runs_values_and_its_share_of_the_updates(tmp_path: Path):
    args = short_config(tmp_path, per_device_train_batch_size=4, **SHARED)
    config = fine_tuning_config(args, str(tmp_path / "one"), Budget(updates=2, prompts=9, group_size=4))
    for name in (*(name for name in SHARED if name != "max_steps"), "per_device_train_batch_size", "save_strategy"):
        assert config.__dict__[name] == args.__dict__[name], name
    assert (config.max_steps, config.output_dir) == (2, str(tmp_path / "one"))
    assert (config.loss_type, config.completion_only_loss, config.max_length, config.packing) == (
        "nll",
        True,
        None,
        False,
    )
    assert config.remove_unused_columns is True
