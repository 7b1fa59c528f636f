"""
Two processes train as one does on the same rollouts: losses, rewards, advantages, metrics and weights, also where the
members of a group lie on different processes. See `two_process_worker.py` for the runs and how sampling is taken out.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

WORKER = Path(__file__).parent / "two_process_worker.py"
RUNS = ("whole_groups", "split_groups", "token_mean", "clipped")

pytestmark = pytest.mark.slow


def launch(model: Path, folder: Path, world_size: int) -> None:
    """Runs the worker on so many processes, over gloo on the CPU."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world_size)]
    done = subprocess.run(
        [sys.executable, *(launcher if world_size > 1 else []), str(WORKER), str(model), str(folder), str(world_size)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folders(local_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folders that one process and two processes wrote."""
    folders = {}
    for world_size in (1, 2):
        folders[world_size] = tmp_path_factory.mktemp(f"processes_{world_size}")
        launch(local_model("qwen2"), folders[world_size], world_size)
    return folders


def compared_values(entry: dict[str, Any]) -> dict[str, Any]:
    """A log entry without times and speeds; of an evaluation our keys only, as TRL's count the repeated rows."""
    prefix = "eval_score/" if "eval_loss" in entry else ""
    timed = ("seconds", "runtime", "per_second", "step_time")
    return {
        key: value for key, value in entry.items() if key.startswith(prefix) and not any(word in key for word in timed)
    }


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_log_as_one(name, folders):
    logs = [torch.load(folders[size] / f"{name}.pt", weights_only=False)["logs"] for size in (1, 2)]
    one, two = ([compared_values(entry) for entry in entries] for entries in logs)
    assert len(one) == len(two)
    for expected, found in zip(one, two, strict=True):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            close = None if value is None else pytest.approx(value, rel=2e-3, abs=2e-4)
            assert found[key] == close, (key, expected.get("step"))
    # The comparison is of something: policy and reference have parted, rewards differ, some are missing.
    steps = [entry for entry in one if "loss" in entry]
    assert abs(steps[-1]["score/kl_t1"]) > 1e-3
    assert any(entry.get("score/unscorable", 0) > 0 for entry in steps)
    assert any(entry.get("score/advantage_abs_t2", 0) > 0 for entry in steps)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_at_the_same_weights(name, folders):
    one, two = (torch.load(folders[size] / f"{name}.pt", weights_only=False)["weights"] for size in (1, 2))
    assert one.keys() == two.keys()
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_pay_each_rollout_the_same(name, folders):
    tables = {size: sorted((folders[size] / name / "completions").glob("*.parquet")) for size in (1, 2)}
    assert [path.name for path in tables[1]] == [path.name for path in tables[2]]
    assert len(tables[1]) >= 3
    for one_path, two_path in zip(tables[1], tables[2], strict=True):
        one, two = pd.read_parquet(one_path), pd.read_parquet(two_path)
        if one_path.name.startswith("eval_"):
            continue  # the last batch repeats rows to be whole, which the table shows
        for column in one.columns:
            if column.startswith("advantage"):
                assert two[column].tolist() == pytest.approx(one[column].tolist(), rel=1e-3, abs=1e-3)
            else:
                assert two[column].astype(str).tolist() == one[column].astype(str).tolist()
