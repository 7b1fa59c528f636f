"""
How long one waits: for the imports, for `trl-score --help`, and for the first step of training against plain TRL's.

    python benchmarks/startup.py [--quick]

Each is a new process, from its start to its end. Untimed runs of the imports go before. The first step is one update of
the embedded model (0.2 M parameters) on the embedded task, so that all that takes time is what comes before it:
SCoReTrainer with two turns, GRPOTrainer with one turn of twice the length, both with a KL penalty.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import Measure, Pairs, interleave, parse_options, report

HELP_LIMIT_S = 0.5
COMMAND = "import sys; from trl_score.cli import main; sys.exit(main())"
"""What `trl-score` runs."""


def process(*arguments: str) -> Callable[[], None]:
    """Gives a function that runs Python with these arguments, and raises if that fails."""

    def run() -> None:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"`python {' '.join(arguments)}` ended with code {done.returncode}:\n{done.stderr}")

    return run


def first_step(side: str) -> Callable[[], None]:
    """Gives a function that runs one side's first step in a process of its own."""
    folder = str(Path(__file__).parent)
    return process(
        "-c", f"import sys; sys.path.insert(0, {folder!r}); import startup; startup.take_first_step({side!r})"
    )


def take_first_step(side: str) -> None:
    """Runs in the child: trains for one update."""
    from trl_score.data import adder

    trainer_class, config_class, own = _parts_of(side)
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder,
            num_generations=8,
            per_device_train_batch_size=16,
            max_steps=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **own,
        )
        trainer = trainer_class(
            model=str(adder.adder_base_path()),
            reward_funcs=adder.adder_reward,
            args=config,
            train_dataset=adder.adder_dataset(64, seed=0, split="train"),
        )
        trainer.train()


def _parts_of(side: str) -> tuple[Any, Any, dict[str, Any]]:
    """Trainer, configuration, and options that the other side does not have."""
    from trl_score.data import adder

    if side == "ours":
        from trl_score import SCoReConfig, SCoReTrainer

        options = {"stage": "2", "correction_prompt": adder.CORRECTION_PROMPT}
        return SCoReTrainer, SCoReConfig, {**options, "max_completion_length": adder.MAX_COMPLETION_LENGTH}
    from trl import GRPOConfig, GRPOTrainer

    return GRPOTrainer, GRPOConfig, {"beta": 0.04, "max_completion_length": 2 * adder.MAX_COMPLETION_LENGTH}


def measure(options: argparse.Namespace) -> list[Measure]:
    repeats = options.repeats
    packages = interleave(process("-c", "import trl_score"), process("-c", "import trl"), repeats)
    # The other side is only there to be run in turns with.
    shown = interleave(process("-c", COMMAND, "--help"), process("-c", "import trl_score"), repeats)
    limit = Pairs(shown.ours, [HELP_LIMIT_S] * repeats)
    measures = [
        packages.measure("Start-up: `import trl_score`, against `import trl`", "s", options),
        limit.measure("Start-up: `trl-score --help`, against half a second", "s", options, 1.0),
    ]
    steps = interleave(first_step("ours"), first_step("other"), min(repeats, 3), warmups=0)
    measures.append(steps.measure("Start-up: end of the first step, against GRPOTrainer's", "s", options))
    return measures


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/summary.json")
    report(measure(options), options)


if __name__ == "__main__":
    main()
