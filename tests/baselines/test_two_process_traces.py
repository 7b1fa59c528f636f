"""Traces on two processes: each samples its share, both get all of them, and both learn from the same set."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).parent / "two_process_trace_worker.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(local_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes wrote into."""
    folder = tmp_path_factory.mktemp("two_processes")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(local_model("qwen2")), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"seen_{process}.json").read_text()) for process in (0, 1)]


def test_both_get_the_same_traces_of_all_problems(seen: list[dict[str, Any]]):
    assert seen[0]["traces"] == seen[1]["traces"]
    assert sorted(trace["problem"] for trace in seen[0]["traces"]) == [1, 1, 2, 2, 3, 3, 4]
    texts = [tuple(trace["texts"]) for trace in seen[0]["traces"] if trace["problem"] == 1]
    assert texts[0] != texts[1], "each process has random numbers of its own"


def test_each_scores_its_own_share(seen: list[dict[str, Any]]):
    # Every second problem of [1, 1, 2, 2, 3, 3, 4], once for each turn.
    assert [seen[process]["scored"] for process in (0, 1)] == [[1, 2, 3, 4] * 2, [1, 2, 3] * 2]


def test_an_answer_is_counted_once(seen: list[dict[str, Any]], folder: Path):
    # 4 prompts, 4 rollouts of each, two turns: 32 answers.
    assert [process["spent"] for process in seen] == [{"answers": 32, "updates": 2}] * 2
    assert (folder / "out" / "adapter_model.safetensors").is_file()
    assert sorted(path.name for path in (folder / "out" / "traces").iterdir()) == ["D+_SFT_1.jsonl"]
