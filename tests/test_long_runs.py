"""
A run that is killed and gone on with is the run that nobody killed, bit for bit. And of two processes, both end alike
where something goes wrong on one.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_harness import KILLED, KINDS, WORKER, Runs, differences, output_of, reference_is_of_something

from trl_score.callbacks import SIGTERM_EXIT_CODE

pytestmark = pytest.mark.slow

# Each run is killed at all of its moments, one after the other. A window of rollouts is 4 steps long, Stage II begins
# after step 3, an epoch ends at step 8; every step is saved, every third logged, every fourth evaluated. In "lora"
# windows are 2 steps long, epochs 4, and Stage II begins after step 8.
MOMENTS: dict[str, list[dict[str, Any]]] = {
    "full": [
        {"at": "generation", "step": 0},  # nothing is saved yet
        {"at": "micro_batch", "step": 1, "count": 2},  # inside of a window, between micro-batches
        {"at": "after_model", "step": 2},  # a save with nothing but the weights
        {"at": "after_step", "step": 3},  # the boundary of the stages, before its log
        {"at": "after_random_state", "step": 3},  # a save with everything but the mark
        {"at": "evaluation", "step": 4, "count": 2},
        {"at": "generation", "step": 4},  # between the turns of the second window
        {"at": "micro_batch", "step": 5, "count": 2, "signal": "SIGTERM"},
        {"at": "after_optimizer", "step": 7},
        {"at": "evaluation", "step": 8, "signal": "SIGTERM"},  # the end of an epoch
        {"at": "after_checkpoint", "step": 9},
        {"at": "after_micro_batch", "step": 9},
    ],
    "lora": [
        {"at": "after_micro_batch", "step": 2},
        {"at": "after_random_state", "step": 5},
        {"at": "evaluation", "step": 8, "count": 1},
    ],
    "full, two processes": [
        {"at": "micro_batch", "step": 2, "count": 2, "rank": 1},
        {"at": "after_random_state", "step": 3, "rank": 1},
        {"at": "generation", "step": 4, "rank": 0},
        {"at": "after_model", "step": 9, "rank": 0},
    ],
    "lora, two processes": [
        {"at": "micro_batch", "step": 1, "count": 2, "rank": 0},
        {"at": "micro_batch", "step": 4, "rank": 1, "signal": "SIGTERM"},  # it is rank 1 that hears of it
        {"at": "after_random_state", "step": 6, "rank": 1},
    ],
}


@pytest.fixture(scope="module")
def runs(local_model: Callable[[str], Path]) -> Iterator[Runs]:
    runs = Runs(local_model("qwen2"))
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def references(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of each kind that nobody kills, made when it is asked for."""
    folders: dict[str, Path] = {}

    def reference(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("reference")
            codes = runs.run(folders[kind], **KINDS[kind])
            assert set(codes) == {0}, output_of(folders[kind])[-4000:]
            assert reference_is_of_something(folders[kind])
        return folders[kind]

    return reference


@pytest.mark.parametrize("kind", KINDS)
def test_killed_run_goes_on_as_if_nothing_had_been(kind, runs, references, tmp_path):
    for moment in MOMENTS[kind]:
        codes = runs.run(tmp_path, resume=True, kill=moment, **KINDS[kind])
        # Of two processes, the one that is not killed may end by itself, as the other is gone.
        expected = [{SIGTERM_EXIT_CODE}] if "signal" in moment else [{KILLED}, {KILLED, 1}]
        assert set(codes) in expected, (moment, codes, output_of(tmp_path)[-4000:])
    codes = runs.run(tmp_path, resume=True, **KINDS[kind])
    assert set(codes) == {0}, output_of(tmp_path)[-4000:]
    assert differences(references(kind), tmp_path) == []
    num_half_written = sum(
        moment["at"] in ("after_model", "after_optimizer", "after_random_state") for moment in MOMENTS[kind]
    )
    assert output_of(tmp_path).count("Passed over: checkpoint-") >= num_half_written


# What goes wrong on one process

ON_PROCESS_1 = "RuntimeError: Process 1 could not score its rollouts, so training ends on all."
SHORT = {"steps_per_generation": 2, "num_iterations": 1, "save_strategy": "no", "eval_strategy": "no"}


def end_in_trouble(runs: Runs, folder: Path, trouble: str, **options: Any) -> list[str]:
    """The error with which each of two processes ends; it must not be that the other one is gone."""
    codes = runs.run(folder, world_size=2, trouble=trouble, options={**SHORT, **options})
    assert codes == [1, 1], output_of(folder)[-4000:]
    return [(folder / f"output-{rank}.txt").read_text().splitlines()[-1] for rank in (0, 1)]


def test_nan_on_one_process_skips_the_steps_of_both_and_ends_both(runs, tmp_path):
    errors = end_in_trouble(runs, tmp_path, "nan", max_skipped_steps=2)
    for error in errors:
        assert (
            "FloatingPointError: The loss or the gradient was NaN or infinite in 2 steps in a row, of which step 3"
            in error
        )
    for process in (0, 1):
        rows = (tmp_path / f"skipped_step_3_process_{process}.jsonl").read_text().splitlines()
        assert len(rows) == 4  # two micro-batches of 2
        assert all(json.loads(row)["prompt"] for row in rows)


def test_stuck_reward_function_on_one_process_ends_both(runs, tmp_path):
    errors = end_in_trouble(runs, tmp_path, "stuck", reward_timeout=20.0)
    sentence = "Reward function 'reward' has not scored turn 2 within 20 seconds, and is at row 1 ("
    assert (
        f"RuntimeError: Process 1 could not score its rollouts, so training ends on all. TimeoutError: {sentence}"
        in errors[0]
    )
    assert f"TimeoutError: {sentence}" in (tmp_path / "output-1.txt").read_text()


def test_stuck_reward_function_in_the_background_of_one_process_ends_both(runs, tmp_path):
    errors = end_in_trouble(runs, tmp_path, "stuck ahead", reward_timeout=6.0)
    sentence = "TimeoutError: Reward function 'reward' has not scored turn 1 within 6 seconds, and is at row 1 ("
    assert f"{ON_PROCESS_1} {sentence}" in errors[0]
    assert sentence in (tmp_path / "output-1.txt").read_text()


def test_reward_function_stuck_in_compiled_code_on_one_process_ends_both(runs, tmp_path):
    end_in_trouble(runs, tmp_path, "stuck in C", reward_timeout=6.0)
    written = (tmp_path / "output-1.txt").read_text()
    assert "Timeout (0:00:09)!" in written and "in stay_stuck" in written


def test_error_of_a_reward_function_on_one_process_ends_both(runs, tmp_path):
    errors = end_in_trouble(runs, tmp_path, "error")
    assert (
        "RuntimeError: Process 1 could not score its rollouts, so training ends on all. OSError: the judge is away"
        in errors[0]
    )
    assert "Raised by reward function 'reward' while it scored turn 2." in errors[1]


def test_error_of_a_reward_model_on_one_process_ends_both(runs, tmp_path):
    errors = end_in_trouble(runs, tmp_path, "model")
    assert f"{ON_PROCESS_1} RuntimeError: no memory for the reward model" in errors[0]
    assert errors[1] == "Raised by a reward model while it scored turn 2."


# What the processes cannot agree on: the launcher ends the others


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("forward", "RuntimeError: the forward went wrong"),
        ("collator", "RuntimeError: the collator went wrong"),
        ("killed", "Signal 9 (SIGKILL)"),
    ],
)
def test_process_that_dies_takes_the_others_with_it_within_a_minute(trouble, said, runs, tmp_path):
    job = {"folder": str(tmp_path), "model": str(runs.model), "world_size": 2, "trouble": trouble, "options": SHORT}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(WORKER), json.dumps(job)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    seconds = time.time() - float((tmp_path / "failed-1.txt").read_text())
    assert done.returncode == 1
    assert said in done.stderr
    assert seconds < 60
    for rank in (0, 1):
        process = int((tmp_path / f"process-{rank}.txt").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
