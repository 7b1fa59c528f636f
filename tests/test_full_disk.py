"""A disk that fills up, and one that cannot be written: a clear error, and nothing that was saved is lost."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).parent / "full_disk_worker.py"
OWN_MOUNTS = ["unshare", "--mount", "--map-root-user"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(local_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disks")
    trial = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if shutil.which("unshare") is None or subprocess.run(trial, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here, not even in a namespace of its own")
    command = [*OWN_MOUNTS, sys.executable, str(WORKER), str(local_model("qwen2")), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def found(trained: Path) -> dict[str, Any]:
    return json.loads((trained / "errors.json").read_text())


def test_full_disk_is_said_with_what_to_do(found):
    error, note = found["errors"]["full"]
    assert error
    assert "checkpoint-2 could not be saved, when 0.0 MiB were free on its disk, and is removed." in note
    assert "The last whole one is checkpoint-1; `resume_from_checkpoint=True` goes on from there" in note


def test_what_was_saved_before_goes_on_as_if_the_disk_had_never_been_full(trained, found):
    assert found["left"] == ["checkpoint-1"]
    weights = torch.load(trained / "weights.pt")
    assert weights["whole"].keys() == weights["resumed"].keys()
    assert [name for name, value in weights["whole"].items() if not torch.equal(value, weights["resumed"][name])] == []


def test_folder_that_cannot_be_written_is_told_before_training(found):
    error, note = found["errors"]["read-only"]
    assert error.startswith("OSError: [Errno 30] Read-only file system")
    assert note.startswith("Expected an `output_dir` that can be written into, got '") and "Nothing was trained" in note
