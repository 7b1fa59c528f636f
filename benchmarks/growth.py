"""
How the seconds and the memory of a step of SCoRe grow: with prompts, rollouts of each, length, vocabulary, processes.

    OMP_NUM_THREADS=1 python benchmarks/growth.py [--device cuda]

One size is changed at a time, each point in a process of its own (with two processes, each has as many rollouts as the
one had, so nothing should grow). A row compares the largest size with the smallest: ours is how many times as much it
takes, the other side is how many times as large the size is, so that 1 is linear growth and above 1 is less. Memory is
what a step adds to what the process held before it: weights and optimizer are not counted. The exponents between
neighbouring points are printed, and a figure is drawn: docs/figures/growth.svg (with --quick, beside the rows).
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure import MIB, Measure, Pairs, most_held, parse_options, report, reset_most_held
from models import ModelSize, model_folder
from trainers import Workload, score_trainer, step

BASES = {
    "quick": Workload(ModelSize(64, 2, 512), prompts=1, group=2, prompt_tokens=8, turn_tokens=8),
    "cpu": Workload(ModelSize(128, 2, 8192), prompts=2, group=4, prompt_tokens=32, turn_tokens=64),
    "cuda": Workload(ModelSize(896, 24, 32768), prompts=4, group=4, prompt_tokens=128, turn_tokens=256),
}
FACTORS = (1, 2, 4)
AXES = ("prompts", "group", "turn_tokens", "vocabulary", "processes")
TARGET = 1 / 1.10
"""At most linear, within a tenth."""
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "growth.svg"
POINT = "--point"


@dataclass(frozen=True)
class Point:
    """
    What was measured at one size.

    Args:
        size (`int`):
            The size.
        seconds (`float`):
            Median seconds of a step.
        mib (`float`):
            Most MiB that a step adds.
    """

    size: int
    seconds: float
    mib: float


def workload_of(base: Workload, axis: str, factor: int) -> Workload:
    """The base with one size so many times as large."""
    if axis == "processes":
        return base
    if axis == "vocabulary":
        return replace(base, size=replace(base.size, vocabulary=factor * base.size.vocabulary))
    return replace(base, **{axis: factor * vars(base)[axis]})


def size_of(load: Workload, axis: str, factor: int) -> int:
    """The size that is drawn."""
    return {"processes": factor, "vocabulary": load.size.vocabulary}.get(axis) or vars(load)[axis]


def run_point(axis: str, factor: int, options: argparse.Namespace) -> Point:
    """Measures one size in new processes."""
    key = "quick" if options.quick else options.device
    command = [sys.executable, __file__, POINT, key, options.device, axis, str(factor), str(options.repeats)]
    num_processes = factor if axis == "processes" else 1
    port = str(20_000 + os.getpid() % 20_000)
    processes = []
    for rank in range(num_processes):
        env = dict(os.environ)
        if num_processes > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{' '.join(command)} failed; see above.")
    return Point(**json.loads(outputs[0].splitlines()[-1]))


def measure_point(key: str, device: str, axis: str, factor: int, repeats: int) -> Point:
    """Runs in a process of its own: a step to warm up, and those that count."""
    load = workload_of(BASES[key], axis, factor)
    model_folder(load.size)  # before processes know of each other: then the first alone would write it
    trainer = score_trainer(load, device, **({"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}))
    step(trainer)
    reset_most_held(device)
    before = most_held(device)
    seconds = [step(trainer) for _ in range(repeats)]
    return Point(size_of(load, axis, factor), statistics.median(seconds), max(most_held(device) - before, 4096) / MIB)


def exponent(low: Point, high: Point, quantity: str) -> float:
    """The power of the size that a quantity grows with between two points; 1 is linear."""
    return math.log(vars(high)[quantity] / vars(low)[quantity]) / math.log(high.size / low.size)


def measures_of(axis: str, points: list[Point], options: argparse.Namespace) -> list[Measure]:
    """Rows of one axis: seconds and memory, against linear growth."""
    first, last = points[0], points[-1]
    # Twice the processes have twice the rollouts between them: none should take longer.
    linear = 1.0 if axis == "processes" else last.size / first.size
    return [
        Pairs([vars(last)[quantity] / vars(first)[quantity]], [linear]).measure(
            f"Growth with {axis.replace('_', ' ')}: {name}", "times", options, TARGET
        )
        for quantity, name in (("seconds", "seconds"), ("mib", "memory"))
    ]


def draw(points_of: dict[str, list[Point]], path: Path) -> None:
    """Draws seconds and memory over each size, with linear growth dotted."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "growth"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(points_of), figsize=(2.6 * len(points_of), 5), squeeze=False, layout="tight")
    for column, (axis, points) in enumerate(points_of.items()):
        sizes = [point.size for point in points]
        for row, (quantity, label) in enumerate((("seconds", "seconds a step"), ("mib", "MiB added by a step"))):
            values = [vars(point)[quantity] for point in points]
            panel = axes[row, column]
            slope = 0 if axis == "processes" else 1
            panel.plot(sizes, values, marker="o")
            panel.plot(sizes, [values[0] * (size / sizes[0]) ** slope for size in sizes], linestyle=":", color="grey")
            panel.set_xscale("log", base=2)
            panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
            panel.set_ylim(bottom=0)
            panel.set_xlabel(axis.replace("_", " "))
            if column == 0:
                panel.set_ylabel(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/growth.json", repeats=2)
    base = run_point(AXES[0], 1, options)
    points_of, measures = {}, []
    load = BASES["quick" if options.quick else options.device]
    axes = AXES if options.device == "cpu" else AXES[:-1]  # `make bench-gpu` is for one GPU
    for axis in axes:
        factors = FACTORS[1:2] if options.quick or axis == "processes" else FACTORS[1:]
        points = [replace(base, size=size_of(load, axis, 1)), *(run_point(axis, factor, options) for factor in factors)]
        points_of[axis] = points
        measures += measures_of(axis, points, options)
        for low, high in pairwise(points):
            powers = ", ".join(f"{quantity} {exponent(low, high, quantity):.2f}" for quantity in ("seconds", "mib"))
            print(f"  {axis} {low.size:,} to {high.size:,}: exponents: {powers}", flush=True)
    draw(points_of, options.output.with_name("growth.svg") if options.quick else FIGURE)
    report(measures, options)


if __name__ == "__main__":
    if POINT in sys.argv[1:2]:
        key, device, axis, factor, repeats = sys.argv[2:]
        result: Any = measure_point(key, device, axis, int(factor), int(repeats))
        print(json.dumps(vars(result)))
    else:
        main()
