"""
What `test_two_processes.py` launches, on one process and on two: a few short runs, whose logs, completions tables and
weights the main process writes into a folder.

    python two_process_worker.py MODEL FOLDER WORLD_SIZE

Sampling depends on each process's random state, so the turns come from an engine that is a function of the prompt and
of the rollout's index among the rollouts of all processes (see `score_runs.py`). Everything else is the real trainer.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch  # noqa: E402
from local_models import FAMILIES  # noqa: E402
from score_runs import EngineTrainer, addition_dataset, odd_length, seeded_engine, short_config, text_of  # noqa: E402

ROLLOUTS_PER_MICRO_BATCH = 8  # over all processes
EVAL_ROWS = 5  # at 4 a batch the last one is filled up with repeated rows on two processes

RUNS: dict[str, dict[str, Any]] = {
    # Each process holds one whole group.
    "whole_groups": {"num_generations": 4},
    # One group of 8: half of its members on each process.
    "split_groups": {"num_generations": 8},
    # Half groups again, accumulated, the KL and a token mean in the loss, and first turns from the dataset.
    "token_mean": {
        "num_generations": 8,
        "gradient_accumulation_steps": 2,
        "loss_type": "dapo",
        "kl_estimator": "k2",
        "offline_turn_1_column": "draft",
    },
    # Batches used twice, clipped; beta_2 moves by the KL of all processes; some rewards are None.
    "clipped": {
        "num_generations": 4,
        "num_iterations": 2,
        "max_steps": 4,
        "stage": "1",
        "beta_2_target_kl": 1e-3,
        "loss_type": "dr_grpo",
    },
}


def often_unscorable(completions: list[Any], log_extra: Any, log_metric: Any, **kwargs: Any) -> list[float | None]:
    """A reward that cannot score every fourth length, and logs."""
    texts = [text_of(completion) for completion in completions]
    log_extra("characters", [len(text) for text in texts])
    log_metric("characters", sum(map(len, texts)) / len(texts))
    return [None if len(text) % 4 == 0 else reward for text, reward in zip(texts, odd_length(completions), strict=True)]


def run(name: str, model: str, folder: Path, world_size: int) -> None:
    """Trains and evaluates one of `RUNS`, and writes what came of it."""
    dataset = addition_dataset().map(lambda row: {"draft": [f"It is {row['solution']}.", "It is 12."]})
    options = {"max_steps": 3, "stage": "both", "stage_1_steps": 1, **RUNS[name]}
    args = short_config(
        folder / name,
        per_device_train_batch_size=ROLLOUTS_PER_MICRO_BATCH // world_size,
        per_device_eval_batch_size=4 // world_size,
        optim="sgd",
        learning_rate=1e-2,
        log_completions=True,
        num_completions_to_print=0,
        **options,
    )
    trainer = EngineTrainer(
        model=model,
        reward_funcs=often_unscorable,
        args=args,
        train_dataset=dataset,
        eval_dataset=dataset.select(range(EVAL_ROWS)),
    )
    if trainer.accelerator.num_processes != world_size:
        raise RuntimeError(f"expected {world_size} processes, got {trainer.accelerator.num_processes}")
    trainer.engine = seeded_engine(trainer.tokenizer.convert_tokens_to_ids(FAMILIES["qwen2"].end_of_turn))
    trainer.train()
    trainer.evaluate()
    if trainer.accelerator.is_main_process:
        weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
        torch.save({"logs": trainer.state.log_history, "weights": weights}, folder / f"{name}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for run_name in RUNS:
        run(run_name, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
