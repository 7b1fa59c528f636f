"""examples/train_baseline.py as a user runs it, one process for each call: what it writes, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "train_baseline.py"
CONFIG = ROOT / "examples" / "configs" / "adder.yaml"
SIZES = ("--max_steps=3", "--per_device_train_batch_size=16", "--train_size=512", "--final_eval_size=48", "--seed=3")
METRICS = {"accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i", "answers_changed"}


def run_script(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--config", str(CONFIG), "--output_dir=out", *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def run_method(folder: Path, method: str, *flags: str) -> dict[str, Any]:
    """Runs a method, checks what every method must write, and gives the summary."""
    done = run_script(folder, f"--method={method}", *SIZES, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((folder / "out" / "summary.json").read_text())
    for name in ("base", "trained"):
        for decoding in ("greedy", "sampled"):
            assert set(summary[name][decoding]) >= METRICS
    for name in ("records_base.jsonl", "records.jsonl", "records_sampled.jsonl"):
        records = [json.loads(line) for line in (folder / "out" / name).read_text().splitlines()]
        assert len(records) == 48 and all(len(record["turns"]) == 2 for record in records)
    assert (summary["method"], summary["seed"], summary["num_problems"]) == (method, 3, 48)
    return summary


@pytest.mark.slow
def test_self_refine_trains_nothing_and_keeps_the_critiques(tmp_path: Path) -> None:
    summary = run_method(tmp_path, "self_refine")
    assert (summary["samples"], summary["updates"]) == (0, 0)
    assert summary["base"] != summary["trained"]
    assert summary["base"]["greedy"]["accuracy_t1"] == summary["trained"]["greedy"]["accuracy_t1"]
    record = json.loads((tmp_path / "out" / "records.jsonl").read_text().splitlines()[0])
    assert isinstance(record["critique"], str)


@pytest.mark.slow
def test_an_ablation_is_a_score_run(tmp_path: Path) -> None:
    summary = run_method(tmp_path, "multi_turn_rl")
    # 3 updates of 16 rollouts, of two answers each.
    assert (summary["samples"], summary["updates"]) == (96, 3)
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert {entry["score/stage"] for entry in state["log_history"] if "score/stage" in entry} == {2}
    assert json.loads((tmp_path / "out" / "score_config.json").read_text())["alpha"] == 0.0


def test_an_unknown_method_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    done = run_script(tmp_path, "--method=star+", "--model_name_or_path=nowhere")
    assert done.returncode != 0
    assert "got 'star+'. Did you mean 'star'" in done.stderr
