"""
How soon the embedded model learns to correct itself: SCoRe against each baseline of the laboratory.

    python benchmarks/learning.py [--quick]

Each method trains once (seed 0) as `make lab` trains it: with the same configuration, and as many answers and updates.
A checkpoint is kept every five updates, and all of them are evaluated on the same 300 held-out problems, sampled at
temperature 1, where the base loses from turn 1 to turn 2. What counts is the first checkpoint from which delta(t1, t2)
is above 0 in five evaluations in a row; a method without one never learned it within its budget, and its cells are
empty. A rollout is two answers. Seconds are those of training, checkpoints included. What the base and Self-Refine do
is not training, and their delta is negative at every size (docs/lab.md): they have no row.

The runs, their logs and `timelines.json`, which has every evaluation, are in `learning/` beside the output file.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
import yaml
from measure import Measure, parse_options, report

from trl_score.baselines.methods import find_method
from trl_score.data import adder
from trl_score.plots.log_history import checkpoint_step
from trl_score.records import RIGHT_ABOVE

LAB = Path(__file__).parents[1] / "examples" / "lab"
sys.path.insert(0, str(LAB))

from lab_evaluations import evaluate  # noqa: E402
from lab_jobs import run_jobs  # noqa: E402
from lab_summary import METHODS, REFERENCE  # noqa: E402
from run_lab import CONFIG, ENVIRONMENT, training_job  # noqa: E402

SEED = 0
UNITS = ("rollouts", "seconds")
IN_A_ROW = 5
UNTRAINED = ("base", "self_refine")
BASELINES = [name for name in METHODS if name not in (*UNTRAINED, REFERENCE)]
SAVE_STEPS = 5
NUM_PROBLEMS = 300
QUICK = {"max_steps": 2, "save_steps": 1, "final_eval_size": 20}
QUICK_BASELINE = "multi_turn_rl"


@dataclass(frozen=True)
class Point:
    """An evaluation: `delta` of turn 2 less turn 1, after so many rollouts and seconds of training."""

    rollouts: float
    seconds: float
    delta: float


def holds_from(points: Sequence[Point]) -> Point | None:
    """The first evaluation from which delta is above 0 five times in a row; `None` if there is none."""
    for start in range(len(points) - IN_A_ROW + 1):
        if all(point.delta > 0 for point in points[start : start + IN_A_ROW]):
            return points[start]
    return None


def checkpoints_of(folder: Path, method: str) -> Iterator[tuple[Path, float, float]]:
    """Each checkpoint of a run in the order of time, with the rollouts and the seconds that it took."""
    summary = json.loads((folder / "summary.json").read_text())
    rollouts, updates = summary["samples"] / 2, summary["updates"]
    began = _written(folder) - summary["seconds"]["training"]
    online, iterations = [folder], []
    if find_method(method).kind == "traces":
        online, iterations = [folder / "stage_1"], [*sorted(folder.glob("iteration_*")), folder]
    last = 0.0
    for checkpoint in _in_order(online):
        last = rollouts * (checkpoint_step(checkpoint) or 0) / updates
        yield checkpoint, last, _written(checkpoint) - began
    for number, iteration in enumerate(iterations, start=1):
        # Its rollouts were all made before it began to learn from them.
        made = last + (rollouts - last) * number / len(iterations)
        for checkpoint in _in_order([iteration]):
            yield checkpoint, made, _written(checkpoint) - began


def _in_order(folders: Sequence[Path]) -> list[Path]:
    found = [checkpoint for folder in folders for checkpoint in folder.glob("checkpoint-*")]
    return sorted(found, key=lambda checkpoint: checkpoint_step(checkpoint) or 0)


def _written(folder: Path) -> float:
    """When a trainer finished writing there."""
    return (folder / "trainer_state.json").stat().st_mtime


def delta_of(model: Path, num_problems: int) -> float:
    """Accuracy at turn 2 less accuracy at turn 1, sampled."""
    problems = adder.adder_dataset(num_problems, seed=0, split="eval")
    records = evaluate(model, problems, SEED, do_sample=True, temperature=1.0)
    turn_1, turn_2 = (fmean(record.rewards[turn] > RIGHT_ABOVE for record in records) for turn in (0, 1))
    return turn_2 - turn_1


def run_methods(methods: Sequence[str], output: Path, changes: dict[str, Any]) -> dict[str, Path]:
    """Trains each method as the laboratory does, and gives their folders."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    config = output / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(CONFIG.read_text()), **changes}))
    jobs = {method: training_job(method, SEED, config, output) for method in methods}
    failures = run_jobs(list(jobs.values()), min(2, len(os.sched_getaffinity(0))), ENVIRONMENT, "training")
    if failures:
        raise RuntimeError(f"{failures[0].job.name} {failures[0].reason}. The end of its log:\n{failures[0].tail}")
    return {method: job.folder for method, job in jobs.items()}


def name_of(unit: str, method: str) -> str:
    """A row's name."""
    return f"Learning: {unit} until delta(t1,t2) > 0 holds, against {METHODS[method]}"


def compare(unit: str, ours: Point | None, other: Point | None, method: str, options: argparse.Namespace) -> Measure:
    """A row: rollouts or seconds of SCoRe and of a baseline. There is no ratio where one of them never learned it."""
    our_value, other_value = (None if point is None else float(getattr(point, unit)) for point in (ours, other))
    ratio = other_value / our_value if our_value and other_value else None
    shown = {"seconds": "s"}.get(unit, unit)
    name = name_of(unit, method)
    return Measure(name, our_value, other_value, shown, ratio, None, None, None, options.command, options.device)


def timeline_of(folder: Path, method: str, base: Point, num_problems: int) -> list[Point]:
    """The evaluations of a run in the order of time."""
    later = (
        Point(rollouts, seconds, delta_of(path, num_problems))
        for path, rollouts, seconds in checkpoints_of(folder, method)
    )
    return [base, *later]


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/summary.json", repeats=1)
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    baselines = [QUICK_BASELINE] if options.quick else BASELINES
    changes = QUICK if options.quick else {"save_steps": SAVE_STEPS, "final_eval_size": 100}
    num_problems = 20 if options.quick else NUM_PROBLEMS
    output = options.output.parent / "learning"
    folders = run_methods([REFERENCE, *baselines], output, changes)
    base = Point(0.0, 0.0, delta_of(adder.adder_base_path(), num_problems))
    timelines = {method: timeline_of(folder, method, base, num_problems) for method, folder in folders.items()}
    text = json.dumps({method: [asdict(point) for point in points] for method, points in timelines.items()}, indent=2)
    (output / "timelines.json").write_text(text + "\n")
    reached = {method: holds_from(points) for method, points in timelines.items()}
    measures = []
    for unit in UNITS:
        measures += [compare(unit, reached[REFERENCE], reached[method], method, options) for method in baselines]
        for method in set(BASELINES) - set(baselines):
            print(f"Left out: {name_of(unit, method)} (--quick)")
    report(measures, options)


if __name__ == "__main__":
    main()
