"""
SCoReTrainer against TRL's GRPOTrainer: tokens trained on in a second.

    OMP_NUM_THREADS=1 python benchmarks/score_vs_grpo.py [--device cuda]

The same model, prompts and number of rollouts. GRPOTrainer writes one turn of twice the length, with `beta` on, so both
write equally many tokens and read them with policy and reference; SCoReTrainer reads the correction prompt too, which
is not counted. Single steps of both in turns, the optimizer's update included. On a CPU, CPU seconds.
"""

import argparse

from measure import Measure, Pairs, interleave, parse_options, report
from score_step import WORKLOADS
from trainers import grpo_trainer, score_trainer, step

TARGET = 1.0


def measure_throughput(options: argparse.Namespace) -> list[Measure]:
    """Tokens per second of both, with the KL in the reward (the default) and in the loss (as GRPOTrainer's is)."""
    load = WORKLOADS["quick" if options.quick else options.device]
    print(load, flush=True)
    grpo = grpo_trainer(load, options.device)
    num_tokens = load.rollouts * 2 * load.turn_tokens
    measures = []
    for kl_estimator in ("k1", "k2"):
        ours = score_trainer(load, options.device, kl_estimator=kl_estimator)
        seconds = interleave(lambda ours=ours: step(ours), lambda: step(grpo), options.repeats, device=options.device)
        rates = [[num_tokens / value for value in side] for side in (seconds.ours, seconds.other)]
        name = f"SCoReTrainer against GRPOTrainer, {kl_estimator}"
        measures.append(Pairs(*rates, more_is_better=True).measure(name, "tokens/s", options, TARGET))
    return measures


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/score_vs_grpo.json", repeats=3)
    report(measure_throughput(options), options)


if __name__ == "__main__":
    main()
