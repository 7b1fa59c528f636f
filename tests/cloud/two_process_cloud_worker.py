"""
Trains small reward models with CLoudRewardTrainer, for test_two_processes_cloud.py: alone, or as one of two processes
under DDP, ZeRO-2 or ZeRO-3, as the launcher says.

    python two_process_cloud_worker.py LANGUAGE_MODELS_FOLDER OUTPUT_FOLDER WORLD_SIZE RUN [RUN ...]

Of each run it saves the model, and beside it the logs and the rewards that the model in training gives to `PROBE`.

A micro-batch over all processes is the same however many there are. With `sum` the loss of a micro-batch is the mean of
its pairs', so that two processes' gradients are one's; the two means divide by each process's own tokens and critiques,
which differ, so they are compared on critiques of one length.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
# Before transformers is imported: a worker has no conftest.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import deepspeed  # noqa: E402
import torch  # noqa: E402
from cloud_runs import preference_dataset, short_config  # noqa: E402
from peft import LoraConfig  # noqa: E402

from trl_score.cloud import modeling  # noqa: E402
from trl_score.cloud.cloud_trainer import CLoudRewardTrainer  # noqa: E402
from trl_score.cloud.collator import DataCollatorForCritiques  # noqa: E402
from trl_score.cloud.stages import train_stages  # noqa: E402

PAIRS_PER_MICRO_BATCH = 4  # over all processes
EVAL_ROWS = 5  # on two processes the last batch is filled up with repeated rows
PROBE = torch.arange(5, 5 + 4 * 12).reshape(4, 12)
SUM = {"critique_normalization": "sum", "critique_weight": 0.01}
WRITES = {"max_steps": 25, "learning_rate": 5e-3, "optim": "adamw_torch"}  # long enough to learn to write something

RUNS: dict[str, dict[str, Any]] = {
    "sum": SUM,
    "chunks": {**SUM, "max_steps": 4},
    "token_mean": {"gradient_accumulation_steps": 2, "gradient_checkpointing": True},
    "k_critiques": {**SUM, "max_steps": 6},
    "mean_of_k": {**SUM, "critiques_per_response": "mean"},
    "sft": {"stage": "sft", "critique_normalization": "sum"},
    "classic": {"stage": "classic"},
    "tied": {**SUM, "gradient_checkpointing": True},
    "adapter": {**SUM, "gradient_checkpointing": True},
    "continued": SUM,
    "nan": SUM,
    "both": {**SUM, "stage": "both", "sft_options": WRITES, "max_critique_length": 8},
    "adapter_both": {
        **SUM,
        "stage": "both",
        "sft_options": {**WRITES, "max_steps": 60, "learning_rate": 2e-2},
        "max_critique_length": 8,
    },
}
ADAPTERS = {
    "adapter": LoraConfig(r=2, target_modules=["q_proj", "lm_head"]),
    "adapter_both": LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
}


class SparseCollator(DataCollatorForCritiques):
    """Learns from no critique of a pair whose margin is above 0, and counts the tokens of each micro-batch."""

    counts: list[int]

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().__call__(examples)
        batch["labels"][(batch["margin"] > 0).repeat(2)] = -100
        self.counts.append(int((batch["labels"] != -100).sum()))
        return batch


class NanOnLastProcess(CLoudRewardTrainer):
    """In the second step the loss of the last process is NaN, and its gradient is none the less a number."""

    def _critique_loss(self, outputs: Any) -> torch.Tensor | None:
        loss = super()._critique_loss(outputs)
        is_spoiled = self.model.training and self.state.global_step == 1 and self.accelerator.is_last_process
        return loss + float("nan") if is_spoiled else loss


def data_of(name: str) -> Any:
    """Preference pairs: several critiques, critiques of one length, or critiques that not all are learned from."""
    data = preference_dataset(16, num_critiques=3 if "k" in name.split("_") else None)
    if name == "token_mean":
        data = data.map(lambda row: {"chosen_critique": "Right.", "rejected_critique": "Right?"})
    if name == "chunks":
        data = data.map(lambda row, index: {"margin": float(index > 3)}, with_indices=True)
    return data


def train(name: str, models: Path, folder: Path, world_size: int) -> CLoudRewardTrainer:
    """Trains one of `RUNS`."""
    args = short_config(
        folder / name,
        per_device_train_batch_size=PAIRS_PER_MICRO_BATCH // world_size,
        per_device_eval_batch_size=PAIRS_PER_MICRO_BATCH // world_size,
        **{"optim": "sgd", "learning_rate": 1e-2, "max_steps": 3, **RUNS[name]},
    )
    model = {"tied": models / "gemma", "continued": folder / "sum" / "saved"}.get(name, models / "qwen2")
    data, peft_config = data_of(name), ADAPTERS.get(name)
    held_out = data.select(range(EVAL_ROWS))
    if args.stage == "both":
        return train_stages(str(model), args, data, held_out, peft_config=peft_config)
    trainer_class = NanOnLastProcess if name == "nan" else CLoudRewardTrainer
    trainer = trainer_class(str(model), args, None, data, held_out, peft_config=peft_config)
    if name == "chunks":
        trainer.data_collator.__class__ = SparseCollator
        trainer.data_collator.counts = []
    trainer.train()
    return trainer


def run(name: str, models: Path, folder: Path, world_size: int) -> None:
    """Trains, evaluates and saves one of `RUNS`, and writes what came of it."""
    modeling.LOGITS_PER_CHUNK = 2 * 512 if name in ("chunks", "tied") else 2**25  # two tokens
    trainer = train(name, models, folder, world_size)
    if trainer.accelerator.num_processes != world_size:
        raise RuntimeError(f"expected {world_size} processes, got {trainer.accelerator.num_processes}")
    if name == "chunks" and world_size > 1:
        counts = trainer.accelerator.gather(torch.tensor(trainer.data_collator.counts[:4])[None])  # (processes, steps)
        if counts.min() > 0 or bool((counts.min(dim=0).values == counts.max(dim=0).values).all()):
            raise RuntimeError(f"expected processes without tokens, and with others than the rest, got {counts}")
    trainer.evaluate()
    trainer.save_model(str(folder / name / "saved"))
    trainer.model_wrapped.eval()
    with torch.no_grad():
        output = trainer.model_wrapped(input_ids=PROBE, labels=PROBE)
    if trainer.accelerator.is_main_process:
        result = {"logs": trainer.state.log_history, "rewards": output.rewards, "nll": output.critique_nll}
        torch.save(result, folder / f"{name}.pt")
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()


if __name__ == "__main__":
    # Shared memory in place of gloo, which DeepSpeed would compile for two minutes, and wait for a lock to do so.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(1)
    for run_name in sys.argv[4:]:
        run(run_name, Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
