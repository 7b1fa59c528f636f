"""
Starts runs of `resume_worker.py`, kills them, goes on with them, and compares what came of it with a run that nobody
killed: rollouts, advantages and losses of every micro-batch, logs, completions tables and weights, all bit for bit.
"""

import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from trl_score.checkpoints import what_is_missing

WORKER = Path(__file__).parent / "resume_worker.py"
KILLED = -9
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    # Short windows and a long Stage I, in which beta_2 moves.
    "lora": {"lora": True, "options": {"save_total_limit": 2, "num_iterations": 1, "stage_1_steps": 8}},
    "full, two processes": {"world_size": 2},
    "lora, two processes": {"world_size": 2, "lora": True},
}
"""Runs that are worth killing."""
# What tells of the clock, and the mean loss "of this call of train", which is another call after a kill.
NOT_COMPARED = ("seconds", "runtime", "per_second", "step_time", "train_loss")


class Runs:
    """The process that runs jobs."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    def run(self, folder: Path, **job: Any) -> list[int]:
        """Runs one job, and returns the exit code of each of its processes."""
        self.process.stdin.write(json.dumps({"folder": str(folder), "model": str(self.model), **job}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def logs_of(folder: Path) -> list[dict[str, Any]]:
    """The logs of a run that came to its end, without what is not compared."""
    logs = torch.load(folder / "end.pt", weights_only=False)["logs"]
    return [
        {key: value for key, value in entry.items() if not any(word in key for word in NOT_COMPARED)} for entry in logs
    ]


def output_of(folder: Path) -> str:
    """What the processes of a run wrote to their output."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("output-*.txt")))


def traces_of(folder: Path) -> dict[tuple[str, str, int], list[str]]:
    """The lines that each process wrote in each step, in training and in evaluation, in order."""
    traces: dict[tuple[str, str, int], list[str]] = {}
    for path in sorted(folder.glob("trace-*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            traces.setdefault((path.name, entry["mode"], entry["step"]), []).append(line)
    return traces


def is_prefixes_and_whole(found: list[str], whole: list[str]) -> bool:
    """Whether lines are the beginnings of a list, as far as each attempt came, and at last the whole list."""
    if found == whole:
        return True
    return any(
        found[:length] == whole[:length] and is_prefixes_and_whole(found[length:], whole)
        for length in range(1, min(len(whole), len(found)) + 1)
    )


def differences(reference: Path, run: Path) -> list[str]:
    """Says what differs between a run that nobody killed and one that was killed and gone on with."""
    found = []
    expected_weights, weights = (
        torch.load(folder / "end.pt", weights_only=False)["weights"] for folder in (reference, run)
    )
    found += [f"weights of {name}" for name, value in expected_weights.items() if not torch.equal(value, weights[name])]
    expected_logs, logs = logs_of(reference), logs_of(run)
    if [entry["step"] for entry in logs] != [entry["step"] for entry in expected_logs]:
        found.append(f"logs at steps {[entry['step'] for entry in logs]}")
    for expected, entry in zip(expected_logs, logs, strict=False):
        keys = sorted(key for key in expected.keys() | entry.keys() if expected.get(key) != entry.get(key))
        found += [f"log of step {expected['step']}: {key}" for key in keys]
    expected_traces, traces = traces_of(reference), traces_of(run)
    for key in sorted(expected_traces.keys() | traces.keys()):
        if not is_prefixes_and_whole(traces.get(key, []), expected_traces.get(key, [])):
            found.append(f"rollouts or losses of {key}")
    for table in sorted((reference / "completions").glob("*.parquet")):
        other = run / "completions" / table.name
        if not other.is_file() or not pd.read_parquet(table).astype(str).equals(pd.read_parquet(other).astype(str)):
            found.append(f"table {table.name}")
    missing = {folder.name: what_is_missing(folder) for folder in run.glob("checkpoint-*")}
    return found + [f"{name}: {reason}" for name, reason in missing.items() if reason is not None]


def reference_is_of_something(reference: Path) -> bool:
    """Whether a reference has what a resumed run could get wrong: both stages, several windows, epochs, evaluations."""
    logs = logs_of(reference)
    stages = {entry["score/stage"] for entry in logs if "score/stage" in entry}
    kinds = [kind for kind, _ in groupby("eval" if "eval_loss" in entry else "train" for entry in logs)]
    return len(stages) > 1 and kinds.count("eval") > 1 and max(entry["epoch"] for entry in logs) > 1
