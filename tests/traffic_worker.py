"""
One process of a run whose collectives are counted: `accelerate launch ... tests/traffic_worker.py MODEL FOLDER`.

Trains a small model for one step of SCoRe and writes, from the main process, the bytes that each kind of collective
carried, by what the trainer was at, and the bytes that its optimizer keeps.
"""

import json
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from datasets import Dataset
from score_runs import odd_length, short_config
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from trl_score import SCoReTrainer

NUM_NEW_TOKENS = 4


class CountedCollectives(TorchDispatchMode):
    """Adds up the bytes of the largest tensor of each collective: the gathered, or the one that is reduced."""

    def __init__(self):
        super().__init__()
        self.phase = "update"
        self.bytes = Counter()

    @contextmanager
    def during(self, phase):
        outside, self.phase = self.phase, phase
        yield
        self.phase = outside

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            sizes = [tensor.nbytes for tensor in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(tensor)]
            self.bytes[f"{self.phase} {func._opname}"] += max(sizes, default=0)
        return func(*args, **(kwargs or {}))


class CountedTrainer(SCoReTrainer):
    """A trainer that says what it is at."""

    counter: CountedCollectives

    def roll_out(self, *args):
        with self.counter.during("generation"):
            return super().roll_out(*args)

    @contextmanager
    def measuring_log_probs(self, model):
        with self.counter.during("forwards"), super().measuring_log_probs(model):
            yield


class VisibleReductions(TrainerCallback):
    """DDP reduces gradients in C++, where no dispatch mode sees it, unless a hook in Python does it."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if isinstance(model, DistributedDataParallel):
            model.register_comm_hook(None, allreduce_hook)


def optimizer_bytes(trainer):
    """Bytes that this process keeps for the optimizer: its state, and the copy of the weights that DeepSpeed makes."""
    optimizer = trainer.optimizer.optimizer  # accelerate's wraps it, and DeepSpeed's wraps PyTorch's
    copies = [
        *getattr(optimizer, "single_partition_of_fp32_groups", []),  # ZeRO-1 and 2
        *getattr(optimizer, "fp32_partitioned_groups_flat", []),  # ZeRO-3
    ]
    states = getattr(optimizer, "optimizer", optimizer).state.values()
    moments = [value for state in states for key, value in state.items() if key.startswith("exp_avg")]
    return sum(tensor.nbytes for tensor in (*copies, *moments))


def main():
    model, folder = sys.argv[1], Path(sys.argv[2])
    args = short_config(
        folder,
        max_steps=1,
        per_device_train_batch_size=4,
        max_completion_length=NUM_NEW_TOKENS,
        gradient_accumulation_steps=2,
        generation_kwargs={"min_new_tokens": NUM_NEW_TOKENS},
    )
    prompts = [[{"role": "user", "content": f"What is {row} + {row}?"}] for row in range(1, 9)]
    trainer = CountedTrainer(
        model,
        reward_funcs=odd_length,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        callbacks=[VisibleReductions()],
    )
    num_parameters = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters())
    trainer.counter = CountedCollectives()
    with trainer.counter:
        trainer.train()
    if trainer.accelerator.is_main_process:
        report = {
            "num_parameters": num_parameters,
            "bytes": trainer.counter.bytes,
            "optimizer_bytes": optimizer_bytes(trainer),
        }
        (folder / "traffic.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
