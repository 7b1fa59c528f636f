"""
Memory of the log-probabilities of a vocabulary of 150,000 tokens, with gradients, against full logits.

    OMP_NUM_THREADS=1 python benchmarks/logprob_memory.py [--device cuda]

Ours: the trainer's own log-probabilities of its rollouts (no logits of the whole vocabulary are ever there) and the
gradients of their sum. The other way: all logits of the completion, their log-softmax, and the chosen ones of it. The
same model and rows, each side in a process of its own; the model itself is not counted, its gradients are.
"""

import argparse
from collections.abc import Callable

import torch
from measure import MIB, Measure, Pairs, parse_options, peak_memory, report
from models import ModelSize, make_model
from trainers import Workload, score_trainer

WORKLOADS = {
    "quick": Workload(ModelSize(64, 2, 8192), prompts=1, group=2, prompt_tokens=8, turn_tokens=64),
    "cpu": Workload(ModelSize(128, 2, 150_000), prompts=1, group=2, prompt_tokens=32, turn_tokens=256),
    "cuda": Workload(ModelSize(896, 24, 151_936), prompts=1, group=8, prompt_tokens=256, turn_tokens=1024),
}
TARGET = 1 / 0.3
"""At most 0.3 of the memory."""


def random_ids(load: Workload, device: str) -> torch.Tensor:
    """Rows of random tokens, shape (rollouts, prompt and both turns)."""
    length = load.prompt_tokens + 2 * load.turn_tokens
    return torch.randint(4, load.size.vocabulary, (load.rollouts, length), device=device)


def prepare_ours(load: Workload, device: str) -> Callable[[], None]:
    """The trainer's log-probabilities, and their gradients."""
    trainer = score_trainer(load, device, beta_1=0.0, beta_2=0.0)
    ids = random_ids(load, device)
    mask = torch.ones_like(ids)
    at = load.prompt_tokens
    batch = {"prompt_ids": ids[:, :at], "completion_ids": ids[:, at:]}
    batch |= {"prompt_mask": mask[:, :at], "completion_mask": mask[:, at:]}
    return lambda: trainer.log_probs(trainer.model, batch).per_token_logps.sum().backward()


def prepare_full_logits(load: Workload, device: str) -> Callable[[], None]:
    """Log-probabilities by way of all logits, and their gradients."""
    model, ids = make_model(load.size).to(device), random_ids(load, device)

    def run() -> None:
        completion = ids[:, load.prompt_tokens :]
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = model(ids, logits_to_keep=completion.size(1) + 1).logits[:, :-1]
        logps = logits.float().log_softmax(dim=-1).gather(-1, completion.unsqueeze(-1))
        logps.sum().backward()

    return run


def measure_memory(options: argparse.Namespace) -> list[Measure]:
    """What each side takes beside the model, in MiB."""
    load = WORKLOADS["quick" if options.quick else options.device]
    print(load, flush=True)
    ours, other = [], []
    for _ in range(options.repeats):
        for values, prepare in ((ours, prepare_ours), (other, prepare_full_logits)):
            values.append(peak_memory(prepare, load, options.device, device=options.device).added / MIB)
    return [Pairs(ours, other).measure("Memory of log-probabilities against full logits", "MiB", options, TARGET)]


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/logprob_memory.json", repeats=2)
    report(measure_memory(options), options)


if __name__ == "__main__":
    main()
