"""
Trainers of the benchmarks, and single steps of theirs: ours and TRL's, of the same prompts and numbers of tokens.

Every turn has the same length, because no turn may end before its budget: both sides write equally many tokens.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from models import ModelSize, last_word_is_even, make_prompts, make_tokenizer, model_folder
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from trl_score import SCoReConfig, SCoReTrainer

CORRECTION_PROMPT = " ".join(f"w{number}" for number in range(40))


@dataclass(frozen=True)
class Workload:
    """
    What one step does.

    Args:
        size ([`ModelSize`]):
            The model's.
        prompts (`int`):
            Prompts.
        group (`int`):
            Rollouts of each.
        prompt_tokens (`int`):
            Words of each prompt.
        turn_tokens (`int`):
            Tokens of each turn.
    """

    size: ModelSize
    prompts: int
    group: int
    prompt_tokens: int
    turn_tokens: int

    @property
    def rollouts(self) -> int:
        """`int`: Rollouts of a step."""
        return self.prompts * self.group

    def __str__(self) -> str:
        return (
            f"{self.size}; {self.prompts} prompts of {self.prompt_tokens} tokens, {self.group} rollouts of each, "
            f"{self.turn_tokens} tokens a turn"
        )


def clock_of(device: str) -> Callable[[], float]:
    """CPU seconds on a CPU, so that other programs do not count; on a GPU the wall's, once it is done."""
    if device == "cpu":
        return time.process_time

    def wait_and_look() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return wait_and_look


class StepTimer(TrainerCallback):
    """Times each optimizer step, its rollouts included, without what stands around it."""

    def __init__(self, device: str) -> None:
        self.seconds: list[float] = []
        self._now = clock_of(device)
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(self._now() - self._start)


def common_options(load: Workload, device: str) -> dict[str, Any]:
    """Options that both sides share; bf16 on a GPU, fp32 on a CPU."""
    return {
        "per_device_train_batch_size": load.rollouts,
        "num_generations": load.group,
        "max_steps": 1,
        "logging_steps": 1,
        "learning_rate": 1e-6,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "gradient_checkpointing": False,
        "loss_type": "dapo",
    }


def score_trainer(load: Workload, device: str, **options: Any) -> SCoReTrainer:
    """A SCoReTrainer in Stage II."""
    settings = {"stage": "2", "correction_prompt": CORRECTION_PROMPT, **common_options(load, device), **options}
    peft_config = settings.pop("peft_config", None)
    args = SCoReConfig(
        output_dir="runs/bench/score",
        max_completion_length=load.turn_tokens,
        generation_kwargs={"min_new_tokens": load.turn_tokens},
        **settings,
    )
    return _built(SCoReTrainer, args, load, peft_config)


def grpo_trainer(load: Workload, device: str, **options: Any) -> GRPOTrainer:
    """TRL's GRPOTrainer, with a reference, of one turn as long as both of ours."""
    num_tokens = 2 * load.turn_tokens
    settings = {"beta": 0.01, **common_options(load, device), **options}
    args = GRPOConfig(
        output_dir="runs/bench/grpo",
        max_completion_length=num_tokens,
        generation_kwargs={"min_new_tokens": num_tokens},
        **settings,
    )
    return _built(GRPOTrainer, args, load, None)


def _built(trainer_class: Any, args: Any, load: Workload, peft_config: Any) -> Any:
    trainer = trainer_class(
        model=str(model_folder(load.size)),
        reward_funcs=last_word_is_even,
        args=args,
        train_dataset=make_prompts(load.prompts * args.world_size, load.prompt_tokens),
        processing_class=make_tokenizer(load.size.vocabulary),
        peft_config=peft_config,
    )
    trainer.add_callback(StepTimer(args.device.type))
    return trainer


def step(trainer: GRPOTrainer) -> float:
    """Trains for one step and gives its seconds."""
    trainer.train()
    timer = next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, StepTimer))
    return timer.seconds[-1]


def log_of(trainer: GRPOTrainer) -> dict[str, float]:
    """What the last step logged."""
    return next(entry for entry in reversed(trainer.state.log_history) if "loss" in entry)
