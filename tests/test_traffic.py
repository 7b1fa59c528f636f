"""What collectives really carry in a step of two processes, and what the optimizer keeps, against `score/costs.py`."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trl_score.score.costs import state_bytes, step_traffic

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
CONFIGS = TESTS.parent / "ds_configs"


def launcher(engine):
    """The arguments that start two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if engine == "ddp":
        return ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    config = str(CONFIGS / f"accelerate_{engine}_cpu.yaml")
    command = ["accelerate.commands.accelerate_cli", "launch", "--config_file", config]
    return [*command, "--main_process_port", port]


@pytest.fixture(scope="module", params=["ddp", "zero2", "zero3"])
def measured(request, local_model, tmp_path_factory):
    """The engine, and what its run of one step with two micro-batches reported."""
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, "-m", *launcher(request.param), str(TESTS / "traffic_worker.py")]
    done = subprocess.run(
        [*command, str(local_model("qwen2")), str(folder)],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return request.param, json.loads((folder / "traffic.json").read_text())


def bytes_of(report, phase, *names):
    return sum(report["bytes"].get(f"{phase} {name}", 0) for name in names)


def predicted_traffic(engine, report):
    """Of a rollout batch in two micro-batches, which reference and policy read before the update, in fp32."""
    num = report["num_parameters"]
    options = {"num_micro_batches": 2, "num_forwards": 2, "bytes_per_weight": 4, "bytes_per_gradient": 4}
    return step_traffic(num, num, engine=engine, **options)


def test_gradients_are_reduced_as_predicted(measured):
    engine, report = measured
    predicted = predicted_traffic(engine, report)
    # Losses and norms are reduced too: a few bytes.
    counted = bytes_of(report, "update", "allreduce_", "_reduce_scatter_base_")
    assert counted == pytest.approx(predicted.gradients, rel=0.01)


def test_weights_are_gathered_as_predicted(measured):
    engine, report = measured
    predicted = predicted_traffic(engine, report)
    assert bytes_of(report, "generation", "_allgather_base_") == predicted.generation  # once for both turns
    assert bytes_of(report, "forwards", "_allgather_base_") == predicted.forwards
    # What is used again soon is not gathered twice: the last layers of a forward, for the backward.
    counted = bytes_of(report, "update", "_allgather_base_")
    assert 0.8 * predicted.update + predicted.after_step <= counted <= predicted.update + predicted.after_step


def test_optimizer_keeps_what_is_predicted(measured):
    engine, report = measured
    num = report["num_parameters"]
    assert report["optimizer_bytes"] == state_bytes(num, num, engine=engine, num_processes=2).optimizer
