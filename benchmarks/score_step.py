"""
A step of SCoRe against the least that any such step costs, and the seconds of its phases.

    OMP_NUM_THREADS=1 python benchmarks/score_step.py [--device cuda]

The floor: a bare `generate` of as many tokens in one go, one bare forward without gradients for the reference, and one
bare forward and backward of rows as long as SCoRe's (prompt, turn 1, correction prompt, turn 2). It has no tokenizing,
no rewards, no logs and no optimizer. Step and floor run in turns. On a CPU all seconds are CPU seconds, so that other
programs do not count; the phases' are the step's own log, in wall time.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from measure import Measure, interleave, parse_options, report
from models import ModelSize, make_model
from trainers import CORRECTION_PROMPT, Workload, clock_of, log_of, score_trainer, step
from transformers import GenerationConfig, PreTrainedModel

WORKLOADS = {
    "quick": Workload(ModelSize(64, 2, 512), prompts=2, group=2, prompt_tokens=8, turn_tokens=8),
    "cpu": Workload(ModelSize(384, 6, 32768), prompts=2, group=4, prompt_tokens=64, turn_tokens=256),
    "cuda": Workload(ModelSize(1536, 24, 151_936), prompts=8, group=8, prompt_tokens=256, turn_tokens=1024),
}
PHASES = ("generation_t1", "generation_t2", "rewards", "reference", "log_probs", "update", "optimizer")
TARGET = 1 / 1.10
"""The whole step in at most 1.10 times the floor."""


class Floor:
    """
    What a step cannot do without.

    Args:
        load ([`Workload`]):
            The step's.
        device (`str`):
            Where it runs.
    """

    def __init__(self, load: Workload, device: str) -> None:
        self.load = load
        self.device = device
        self.policy, self.reference = (make_model(load.size).to(device) for _ in range(2))
        frame = len(CORRECTION_PROMPT.split()) + 8  # and what the template writes around it
        length = load.prompt_tokens + 4 + 2 * load.turn_tokens + frame
        self.ids = torch.randint(4, load.size.vocabulary, (load.rollouts, length), device=device)
        self.prompt_length = load.prompt_tokens + 4

    def __call__(self) -> None:
        """Runs all of it once."""
        self.generate()
        with torch.no_grad():
            self.log_probs(self.reference)
        self.policy.zero_grad()
        self.log_probs(self.policy).mean().backward()

    @torch.no_grad()
    def generate(self) -> torch.Tensor:
        """Writes as many tokens as both turns have, in one go."""
        prompt_ids = self.ids[:, : self.prompt_length]
        num_tokens = 2 * self.load.turn_tokens
        config = GenerationConfig(
            max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=True, top_k=0, disable_compile=True
        )
        with self.autocast():
            return self.policy.generate(
                prompt_ids, attention_mask=torch.ones_like(prompt_ids), generation_config=config
            )

    def log_probs(self, model: PreTrainedModel) -> torch.Tensor:
        """Log-probabilities of all that follows the prompt, by all its logits. Shape (rollouts * tokens,)."""
        num_tokens = self.ids.size(1) - self.prompt_length
        with self.autocast():
            logits = model(self.ids, logits_to_keep=num_tokens + 1).logits[:, :-1]
        return -F.cross_entropy(logits.flatten(0, 1).float(), self.ids[:, -num_tokens:].flatten(), reduction="none")

    def autocast(self) -> torch.autocast:
        """bf16 on a GPU, as in training; nothing on a CPU."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")


def measure_step(options: argparse.Namespace) -> tuple[list[Measure], dict[str, float]]:
    """The step against its floor, and the median seconds of its phases."""
    load = WORKLOADS["quick" if options.quick else options.device]
    print(load, flush=True)
    trainer, floor = score_trainer(load, options.device), Floor(load, options.device)
    logs: list[dict[str, float]] = []

    def our_step() -> float:
        seconds = step(trainer)
        logs.append(log_of(trainer))
        return seconds

    pairs = interleave(our_step, floor, options.repeats, device=options.device, clock=clock_of(options.device))
    phases = {
        phase: statistics.median(log[f"score/seconds_{phase}"] for log in logs[-options.repeats :]) for phase in PHASES
    }
    return [pairs.measure("SCoRe step against its floor", "s", options, TARGET)], phases


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/score_step.json", repeats=3)
    measures, phases = measure_step(options)
    print("\n".join(f"  {phase:14} {seconds:7.2f} s" for phase, seconds in phases.items()), flush=True)
    report(measures, options)


if __name__ == "__main__":
    main()
