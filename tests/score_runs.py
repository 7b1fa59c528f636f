"""
What the trainer's tests share: small datasets, rewards that depend on the text alone, short runs, and a generation
engine that is a function of the prompt and of the rollout's index.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from trl_score.records import Completion, GeneratedTurn, Prompt, Rollout
from trl_score.score.rollout import GenerateTurn
from trl_score.score.score_config import SCoReConfig
from trl_score.score.score_trainer import SCoReTrainer

FIRST_WORD_ID = 40
"""In every tokenizer of `local_models.py` the ids from here on are bytes and words, none of them special."""


def text_of(completion: Completion) -> str:
    """Returns the text of a completion in either of TRL's forms."""
    return completion if isinstance(completion, str) else completion[0]["content"]


def odd_length(completions: list[Completion], **kwargs: Any) -> list[float]:
    """A reward for nothing in particular: 1 where the text has an odd number of characters."""
    return [float(len(text_of(completion)) % 2) for completion in completions]


def addition_dataset(kind: str = "qwen2", num_rows: int = 16) -> Dataset:
    """Builds rows with a `prompt` in the form of the kind (chat or plain) and a `solution`."""
    questions = [f"What is {row} + {row + 1}?" for row in range(num_rows)]
    prompts: list[Prompt] = (
        questions if kind == "plain" else [[{"role": "user", "content": question}] for question in questions]
    )
    return Dataset.from_dict({"prompt": prompts, "solution": [str(2 * row + 1) for row in range(num_rows)]})


def short_config(folder: Path, **options: Any) -> SCoReConfig:
    """Builds the configuration of a run of seconds: 8 rollouts of 2 prompts a step, 6 tokens a turn, on the CPU."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_steps": 2,
        "max_completion_length": 6,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    return SCoReConfig(output_dir=str(folder), **{**defaults, **options})


class EngineTrainer(SCoReTrainer):
    """
    A trainer whose turns come from an engine of the test's: `engine(prompt_ids, rollout_index, budget) -> turn`, where
    the index counts the rollouts of all processes. So sampling depends on no random state.
    """

    engine: Callable[[list[int], int, int], GeneratedTurn]

    def roll_out(self, prompts: list[Prompt], inputs: list[dict[str, Any]]) -> list[Rollout]:
        # Which rollouts the engine is asked for: in turn 1 those that have no turn from the dataset, then all.
        offline = self._offline_turns_1(inputs) or [None] * len(inputs)
        online = [row for row, ids in enumerate(offline) if ids is None]
        self.rows_of_calls = iter([online or [0], list(range(len(inputs)))])
        return super().roll_out(prompts, inputs)

    @contextmanager
    def generation_engine(self, *, do_sample: bool) -> Iterator[GenerateTurn]:
        def generate(prompt_ids: Sequence[list[int]], max_new_tokens: Sequence[int]) -> list[GeneratedTurn]:
            first = self.accelerator.process_index * len(self._rows)
            calls = zip(next(self.rows_of_calls), prompt_ids, max_new_tokens, strict=True)
            return [self.engine(ids, first + row, budget) for row, ids, budget in calls]

        yield generate


def seeded_engine(end_id: int, vocab_size: int = 512) -> Callable[[list[int], int, int], GeneratedTurn]:
    """Builds an engine that draws words by a seed made of prompt and index; half of the turns end by themselves."""

    def engine(prompt_ids: list[int], index: int, max_new_tokens: int) -> GeneratedTurn:
        rng = random.Random(f"{prompt_ids}-{index}")
        length = rng.randint(1, max_new_tokens)
        words = [rng.randrange(FIRST_WORD_ID, vocab_size) for _ in range(length)]
        is_ended = rng.random() < 0.5
        return GeneratedTurn([*words[:-1], end_id] if is_ended else words, truncated=not is_ended)

    return engine


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies the parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies the gradients of the parameters that have one, and clears them."""
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients


def training_logs(trainer: SCoReTrainer) -> list[dict[str, Any]]:
    """Returns the log entries of training steps."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def evaluation_logs(trainer: SCoReTrainer) -> list[dict[str, Any]]:
    """Returns the log entries of evaluations."""
    return [entry for entry in trainer.state.log_history if "eval_score/accuracy_t1" in entry]


def is_finite(entry: dict[str, Any]) -> bool:
    """Tells whether every number of a log entry is finite."""
    return all(math.isfinite(value) for value in entry.values() if isinstance(value, float))
