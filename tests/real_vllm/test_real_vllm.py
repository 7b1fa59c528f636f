"""
SCoReTrainer with the real vLLM, colocated and as a server, on the CPU: `make test-vllm`, which builds its environment.

That a run went through says little: vLLM samples happily with weights that never reached it. So each step's
log-probabilities, as vLLM sampled with them, are held against the trainer's own.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from local_models import save_local_model

WORKER = Path(__file__).parent / "vllm_worker.py"
BLOCK = 128  # tokens of a block of vLLM's cache, on a CPU
BUDGETS = (16, 12)
GAP = "sampling/sampling_logp_difference"
RATIO = "sampling/importance_sampling_ratio"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_CI_ENV": "1",
}
SECONDS_TO_START = 600  # of a server: one minute on a quiet machine
SECONDS_TO_RUN = 900  # of a run: one minute on a quiet machine. A worker that stalls has said by then where
SECONDS_TO_END = 30

pytestmark = pytest.mark.vllm


class Server(NamedTuple):
    """A vLLM server: its address, and the file that it writes its log to."""

    url: str
    log: Path


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """Runs a command, and at last ends it with all its children, which would outlive a launcher that is killed."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            # Without a port accelerate names 29500 for CPUs, which another program may have.
            env={**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)


def end_of(log: Path) -> str:
    return f"\n-- end of {log.name}:\n{log.read_text()[-8000:]}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A model whose own settings do not name the end of a turn of its template (`<|im_end|>`, id 2), as of a base model:
    vLLM must be told of it. With this seed about every third turn of these prompts ends so.
    """
    folder = save_local_model("qwen2", tmp_path_factory.mktemp("qwen2"), seed=2)
    for name, edits in {
        "config.json": {"eos_token_id": 0},
        "generation_config.json": {"eos_token_id": 0},
        "tokenizer_config.json": {"eos_token": "<|endoftext|>"},
    }.items():
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | edits))
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A vLLM server, started as TRL starts one."""
    log, port = tmp_path_factory.mktemp("server") / "server.txt", free_port()
    command = [str(Path(sys.executable).parent / "trl"), "vllm-serve", "--model", str(model), "--port", port]
    options = {"dtype": "float32", "enforce_eager": "true", "max_model_len": "512", "host": "127.0.0.1"}
    for name, value in options.items():
        command += [f"--{name}", value]
    with started(command, log) as process:
        wait_for(f"http://127.0.0.1:{port}", process, log)
        yield Server(f"http://127.0.0.1:{port}", log)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Waits until a server answers."""
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended with {process.poll()}{end_of(log)}"
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(2)
    raise AssertionError(f"no server at {url} after {SECONDS_TO_START} s{end_of(log)}")


def run(name: str, model: Path, folder: Path, server: Server | None = None) -> list[dict[str, Any]]:
    """Runs the worker, on two processes where its name says so, and gives what each of them wrote."""
    world_size = 2 if name.endswith("two") else 1
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if world_size == 2 else []
    command = [sys.executable, *launcher, str(WORKER), name, str(model), str(folder), *([server.url] if server else [])]
    log = folder / "worker.txt"
    with started(command, log) as process, suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_RUN)
    logs = end_of(log) + (end_of(server.log) if server else "")
    assert process.returncode == 0, f"{name} ended with {process.returncode}{logs}"
    return [json.loads((folder / f"run_{rank}.json").read_text()) for rank in range(world_size)]


def check(written: list[dict[str, Any]]) -> None:
    """What holds of every run."""
    check_logs(written[0]["logs"])
    check_turns([entry for own in written for entry in own["turns"]])
    for own in written:
        turns_1, turns_2 = own["calls"][::2], own["calls"][1::2]
        assert len(turns_1) == len(turns_2) == len(own["rollouts"])
        # The weights come once for both turns. (The last two calls are those of the evaluation.)
        assert [call["syncs"] for call in turns_1] == [call["syncs"] for call in turns_2]
        for call, rollouts in zip(turns_2, own["rollouts"], strict=True):
            check_rollouts(call, rollouts, own["stop_ids"])
    rollouts = [rollout for own in written for batch in own["rollouts"] for rollout in batch]
    # Turns end with the template's token, which vLLM would not have stopped at by itself, and others at their budget.
    own_turns_1 = [rollout["turn_1"] for rollout in rollouts if not rollout["offline"]]
    assert any(ids[-1] == 2 for ids in [*own_turns_1, *(rollout["turn_2"] for rollout in rollouts)])
    assert any(any(rollout["truncated"]) for rollout in rollouts)


def check_logs(logs: list[dict[str, Any]]) -> None:
    """vLLM sampled with the trainer's weights at every step, and these moved in between."""
    steps = [entry for entry in logs if "loss" in entry]
    batches = [entry for entry in steps if f"{GAP}/max" in entry]
    assert len(batches) >= 2
    for entry in batches:
        assert 0 < entry[f"{GAP}/mean"] <= entry[f"{GAP}/max"] < 1e-4
        assert entry[f"{RATIO}/min"] == pytest.approx(1, abs=1e-3) == entry[f"{RATIO}/max"]
    # So far from the first weights that with those in vLLM the gap would be over ten times the bound.
    assert max(abs(entry["score/kl_per_token_t2"]) for entry in batches[1:]) > 1e-3
    (evaluation,) = (entry for entry in logs if "eval_loss" in entry)
    # At another temperature than 1 greedy turns have no log-probabilities to compare.
    assert evaluation.get(f"eval_{GAP}/max", 0.0) < 1e-4


def check_turns(turns: list[dict[str, Any]]) -> None:
    """Each turn by itself: sampled with the trainer's weights, weighed by next to 1. `pytest -rP` shows the figures."""
    for turn in (1, 2):
        gaps, weights = (
            [value for entry in turns if entry["turn"] == turn for value in entry[name]] for name in ("gaps", "weights")
        )
        sys.stdout.write(
            f"turn {turn}: {len(gaps)} tokens, gap {sum(gaps) / len(gaps):.1e} mean, {max(gaps):.1e} at most, "
            f"weights {min(weights):.7f} to {max(weights):.7f}\n"
        )
        assert 0 < max(gaps) < 1e-4
        assert min(weights) == pytest.approx(1, abs=1e-3) == max(weights)


def check_rollouts(call_2: dict[str, Any], rollouts: list[dict[str, Any]], stop_ids: list[int]) -> None:
    """Turn 2 continues turn 1 token for token, and each turn ends with a stop token or at its own budget."""
    assert call_2["stop_token_ids"] == stop_ids and 2 in stop_ids
    assert call_2["budget"] >= max(rollout["budget_t2"] for rollout in rollouts)
    for prompt, rollout in zip(call_2["prompts"], rollouts, strict=True):
        assert prompt == [*rollout["prompt"], *rollout["turn_1"], *rollout["between"]]
        for name, budget, is_cut in zip(
            ("turn_1", "turn_2"), (BUDGETS[0], rollout["budget_t2"]), rollout["truncated"], strict=True
        ):
            ids = rollout[name]
            if name == "turn_1" and rollout["offline"]:
                continue
            assert not set(ids[:-1]) & set(stop_ids)
            assert (ids[-1] not in stop_ids and len(ids) == budget) if is_cut else (ids[-1] in stop_ids)
            assert len(ids) <= budget


def blocks_of_turn_1(rollout: dict[str, Any]) -> int:
    """Tokens of prompt and turn 1 in whole blocks, which vLLM has computed when it comes to turn 2."""
    return 0 if rollout["offline"] else (len(rollout["prompt"]) + len(rollout["turn_1"]) - 1) // BLOCK * BLOCK


def test_colocated(model, tmp_path):
    written = run("colocate", model, tmp_path)
    check(written)
    (own,) = written
    assert [call["syncs"] for call in own["calls"]] == [1, 1, 2, 2, 3, 3, 4, 4]
    # The one row with a smaller budget does not shorten the others, nor they it.
    assert {rollout["budget_t2"] for batch in own["rollouts"] for rollout in batch} == {5, BUDGETS[1]}
    assert {rollout["offline"] for batch in own["rollouts"] for rollout in batch} == {True, False}
    found = list(itertools.chain.from_iterable(call["cached"] for call in own["calls"][1::2]))
    expected = [blocks_of_turn_1(rollout) for batch in own["rollouts"] for rollout in batch]
    assert sum(expected) >= 10 * BLOCK
    assert all(tokens <= cached for tokens, cached in zip(expected, found, strict=True))


def test_colocated_on_two_processes(model, tmp_path):
    written = run("colocate_two", model, tmp_path)
    check(written)
    assert [len(batch) for own in written for batch in own["rollouts"][:3]] == [4] * 6


def test_colocated_with_an_adapter(model, tmp_path):
    written = run("colocate_lora", model, tmp_path)
    check(written)
    # Four steps on two rollout batches, and the evaluation.
    assert [call["syncs"] for call in written[0]["calls"]] == [1, 1, 2, 2, 3, 3]


def check_server_cache(own: dict[str, Any], rollouts: list[list[dict[str, Any]]]) -> None:
    found = [call["cached"][0] for call in own["calls"][1::2]]
    expected = [sum(map(blocks_of_turn_1, batch)) for batch in rollouts]
    assert sum(expected) >= 10 * BLOCK
    assert all(tokens <= cached for tokens, cached in zip(expected, found, strict=True))


def test_server(model, server, tmp_path):
    written = run("server", model, tmp_path, server)
    check(written)
    check_server_cache(written[0], written[0]["rollouts"])


def test_server_with_an_adapter(model, server, tmp_path):
    written = run("server_lora", model, tmp_path, server)
    check(written)
    assert [call["syncs"] for call in written[0]["calls"]] == [1, 1, 2, 2, 3, 3]


def test_server_of_two_processes(model, server, tmp_path):
    # First turns from the dataset: the processes have unequal numbers of prompts for turn 1, and one call for all.
    written = run("server_two", model, tmp_path, server)
    check(written)
    both = [[*one, *two] for one, two in zip(*(own["rollouts"] for own in written), strict=True)]
    check_server_cache(written[0], both)
    numbers = [[len(call["prompts"]) for call in own["calls"]] for own in written]
    assert numbers[0] == numbers[1]
    online = [[sum(not rollout["offline"] for rollout in batch) for batch in own["rollouts"]] for own in written]
    assert any(one != two for one, two in zip(*online, strict=True))
