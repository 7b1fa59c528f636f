"""
SCoReTrainer against a SCoRe in two passes, as public implementations run it (`two_pass.py`): time and memory.

    OMP_NUM_THREADS=1 python benchmarks/score_vs_two_pass.py [--device cuda]

The same model, prompts and numbers of tokens; single steps of both in turns, in wall time. The update is all that
follows generation and rewards: log-probabilities of reference and policy, gradients, optimizer. Memory is that of a
whole step with LoRA, weights of all models included, each side in a process of its own.
"""

import argparse
from collections.abc import Callable
from typing import Any

from measure import MIB, Measure, Pairs, parse_options, peak_memory, report
from models import model_folder
from peft import LoraConfig
from score_step import WORKLOADS
from trainers import Workload, log_of, score_trainer
from two_pass import TwoPassSCoRe

UPDATE_TARGET, STEP_TARGET, MEMORY_TARGET = 1.6, 1.2, 1 / 0.6
LORA = {"r": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
UPDATE_PHASES = ("reference", "log_probs", "update", "optimizer")


def our_seconds(trainer: Any) -> tuple[float, float]:
    """One step's seconds, and those of its update, as the trainer logs them."""
    trainer.train()
    log = log_of(trainer)
    return log["score/seconds_step"], sum(log[f"score/seconds_{phase}"] for phase in UPDATE_PHASES)


def measure_seconds(load: Workload, options: argparse.Namespace) -> list[Measure]:
    """Whole step and update."""
    ours = score_trainer(load, options.device)
    other = TwoPassSCoRe(load, str(model_folder(load.size)), options.device)
    our_steps, other_steps = [], []
    for repeat in range(-1, options.repeats):
        both = our_seconds(ours), other.step()
        if repeat >= 0:
            our_steps.append(both[0])
            other_steps.append(both[1])
    measures = []
    for index, (name, target) in enumerate((("step", STEP_TARGET), ("update", UPDATE_TARGET))):
        pairs = Pairs([seconds[index] for seconds in our_steps], [seconds[index] for seconds in other_steps])
        measures.append(pairs.measure(f"SCoRe against two passes: {name}", "s", options, target))
    return measures


def prepare_ours(load: Workload, device: str) -> Callable[[], Any]:
    """A step of ours with LoRA."""
    return score_trainer(load, device, peft_config=LoraConfig(**LORA)).train


def prepare_two_pass(load: Workload, device: str) -> Callable[[], Any]:
    """A step in two passes with LoRA."""
    return TwoPassSCoRe(load, str(model_folder(load.size)), device, LoraConfig(**LORA)).step


def measure_memory(load: Workload, options: argparse.Namespace) -> Measure:
    """Most memory of a step with LoRA."""
    ours, other = (
        [peak_memory(prepare, load, options.device, device=options.device).peak / MIB]
        for prepare in (prepare_ours, prepare_two_pass)
    )
    return Pairs(ours, other).measure("SCoRe against two passes: memory with LoRA", "MiB", options, MEMORY_TARGET)


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/score_vs_two_pass.json", repeats=2)
    load = WORKLOADS["quick" if options.quick else options.device]
    print(load, flush=True)
    report([*measure_seconds(load, options), measure_memory(load, options)], options)


if __name__ == "__main__":
    main()
