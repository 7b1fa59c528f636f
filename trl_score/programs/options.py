"""
What the programs can be told: their script arguments, beside the trainers' configurations and TRL's `ModelConfig`.

Importing this loads the configurations but no trainer, so that a wrong option is answered soon.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import ScriptArguments

ADDER, QUIZ = "adder", "quiz"
"""What `--model_name_or_path` and `--dataset_name` call the models and the data that are shipped with the package: of
SCoRe and of CLoud. `--reward_funcs adder` is the reward of the former."""

CONFIGS = Path(__file__).parent / "configs"


@dataclass
class SCoReScriptArguments(ScriptArguments):
    """
    Script arguments of SCoRe, beside TRL's own.

    Args:
        reward_funcs (`list[str]`):
            Reward functions: `adder`, or any dotted import path (e.g., `my_lib.rewards.custom_reward`); a class is
            called without arguments. The first one decides whether a turn counts as right.
        final_eval_size (`int`, *optional*, defaults to `0`):
            Problems of the test split on which the base and the result of each stage are compared after training.
        train_size (`int`, *optional*, defaults to `8192`):
            Training problems to make, for the embedded task only.
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset name or path, a local file, or 'adder' for the embedded task."}
    )
    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": "Reward functions: 'adder', or dotted import paths."}
    )
    final_eval_size: int = field(
        default=0, metadata={"help": "Problems on which base and stages are compared after training. 0: none."}
    )
    train_size: int = field(default=8192, metadata={"help": "Training problems to make, embedded task only."})


@dataclass
class CLoudScriptArguments(ScriptArguments):
    """
    Script arguments of CLoud, beside TRL's own.

    Args:
        compare (`bool`, *optional*, defaults to `False`):
            With `stage="both"`: whether to train the paper's baselines too, from the same model on the same pairs. A
            classic reward model, and one whose joint stage reads the given (oracle) critiques.
        classic_options (`dict`, *optional*):
            With `compare`: options in which the classic model's training differs from the joint stage.
        final_eval_size (`int`, *optional*, defaults to `0`):
            Pairs of the test split that are scored after training.
        num_averaged (`int`, *optional*, defaults to `8`):
            Critiques of each response that are sampled and averaged, beside the greedy one.
        train_size (`int`, *optional*, defaults to `6400`):
            Training pairs to make, for the embedded task only.
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset name or path, a local file, or 'quiz' for the embedded task."}
    )
    compare: bool = field(
        default=False, metadata={"help": "With stage 'both': train a classic and an off-policy model too, and compare."}
    )
    classic_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Options in which the classic model's training differs (JSON on the command line)."},
    )
    final_eval_size: int = field(
        default=0, metadata={"help": "Pairs of the test split that are scored after training. 0: none."}
    )
    num_averaged: int = field(default=8, metadata={"help": "Sampled critiques that are averaged. 1: greedy ones only."})
    train_size: int = field(default=6400, metadata={"help": "Training pairs to make, embedded task only."})

    def __post_init__(self) -> None:
        if isinstance(self.classic_options, str):
            try:
                self.classic_options = json.loads(self.classic_options)
            except json.JSONDecodeError as error:
                raise ValueError(f"`--classic_options` takes JSON, got {self.classic_options!r}: {error}.") from error
