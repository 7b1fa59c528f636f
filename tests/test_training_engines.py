"""
Two processes under DDP, ZeRO-1, ZeRO-2, ZeRO-3 and FSDP2 train what one process trains, both trainers, full and LoRA,
in fp32 and bf16: losses, advantages, rewards, metrics and weights. `training_engines.py` has the cases and runs them.

The tolerances here are those that `docs/engines.md` states, beside the matrix of what ran.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from training_engines import CASES, CASES_OF, ENGINES, NAN_STEP, reference_of

WORKER = Path(__file__).parent / "training_engines.py"
TOLERANCE = {"fp32": {"rel": 1e-4, "abs": 1e-5}, "bf16": {"rel": 0.05, "abs": 0.05}}
"""Of each logged number and advantage."""

UPDATE_TOLERANCE = {"fp32": 1e-5, "bf16": 0.25}
"""Of the weights: length of the difference between two ends, over that of the way from the start."""

NOT_COMPARED = ("seconds", "runtime", "per_second", "step_time", "total_flos")
"""Times, and operations, which count padding."""

PAIRED = [(engine, case) for engine in ENGINES for case in CASES_OF[engine]]
ENDED = ("zero2", "score-full-fp32-nan_loss")
COMPARED = [pair for pair in PAIRED if pair != ENDED]
SCORE = [(engine, case) for engine, case in COMPARED if case.startswith("score")]

pytestmark = pytest.mark.slow

FolderOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def trained(local_model: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderOf]:
    """Gives the folder that an engine wrote, running it when it is first asked for."""
    folder = tmp_path_factory.mktemp("engines")
    command = [sys.executable, str(WORKER), str(local_model("qwen2")), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        (folder / "worker.txt").open("w") as errors,
        subprocess.Popen(command, env=environment, stderr=errors, text=True, **pipes) as worker,
    ):

        def folder_of(engine: str) -> Path:
            answer = folder / f"{engine}.json"
            if not answer.exists():
                print(engine, file=worker.stdin, flush=True)
                answer.write_text(worker.stdout.readline())
            outputs = [path.read_text()[-3000:] for path in folder.glob(f"{engine}/output-*.txt")]
            assert answer.read_text() in ("[0]\n", "[0, 0]\n"), (answer.read_text(), outputs)
            return folder / engine

        yield folder_of
        worker.stdin.close()
    assert worker.returncode == 0, (folder / "worker.txt").read_text()[-3000:]


def result(trained: FolderOf, engine: str, case: str, rank: int = 0) -> dict[str, Any]:
    return torch.load(trained(engine) / case / f"run-{rank}.pt", weights_only=False)


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return {key: weight.float() for key, weight in load_file(path).items()}


def precision_of(case: str) -> str:
    return case.split("-")[2]


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Length of the difference of all weights."""
    assert one.keys() == two.keys()
    assert all(one[key].shape == two[key].shape for key in one)
    return sum((one[key] - two[key]).square().sum().item() for key in one) ** 0.5


def compared(entry: dict[str, Any], case: str) -> dict[str, Any]:
    """A log entry without what is not compared; `loss` of a skipped step is that of the processes that have one."""
    left_out = NOT_COMPARED
    if "nan_loss" in case and (entry["step"] == NAN_STEP + 1 or "train_loss" in entry):
        left_out += ("loss",)
    return {key: value for key, value in entry.items() if not any(part in key for part in left_out)}


@pytest.mark.parametrize(("engine", "case"), COMPARED)
def test_an_engine_logs_as_one_process(trained, engine, case):
    one = result(trained, "one", reference_of(case))["logs"]
    two = result(trained, engine, case)["logs"]
    assert len(one) == len(two) == 5  # three steps, an evaluation, the end
    for expected, found in zip(one, two, strict=True):
        expected, found = compared(expected, case), compared(found, case)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            close = None if value is None else pytest.approx(value, **TOLERANCE[precision_of(case)])
            assert found[key] == close, (key, expected["step"])


@pytest.mark.parametrize(("engine", "case"), COMPARED)
def test_an_engine_ends_at_the_weights_of_one_process(trained, engine, case):
    start, one = (saved_weights(trained("one") / reference_of(case) / name) for name in ("start", "saved"))
    two = saved_weights(trained(engine) / case / "saved")
    assert distance(one, two) <= UPDATE_TOLERANCE[precision_of(case)] * distance(start, one)


@pytest.mark.parametrize(("engine", "case"), SCORE)
def test_an_engine_pays_each_rollout_as_one_process(trained, engine, case):
    tables = {
        which: sorted((trained(which) / name / "completions").glob("completions_*.parquet"))
        for which, name in (("one", reference_of(case)), (engine, case))
    }
    assert [path.name for path in tables["one"]] == [path.name for path in tables[engine]]
    assert len(tables["one"]) == 3
    for path_of_one, path in zip(*tables.values(), strict=True):
        one, two = pd.read_parquet(path_of_one), pd.read_parquet(path)
        assert len(one) == 8
        for column in one.columns:
            if column.startswith("advantage"):
                expected = pytest.approx(one[column].tolist(), **TOLERANCE[precision_of(case)])
                assert two[column].tolist() == expected
            else:
                assert two[column].astype(str).tolist() == one[column].astype(str).tolist()


@pytest.mark.parametrize(("engine", "case"), [pair for pair in SCORE if precision_of(pair[1]) == "fp32"])
def test_generate_writes_the_turns_of_one_process(trained, engine, case):
    """Greedy, with the weights of each step: three batches and an evaluation, two turns each."""
    one = result(trained, "one", reference_of(case))["written"]
    parts = [result(trained, engine, case, rank)["written"] for rank in (0, 1)]
    assert [first + second for first, second in zip(*parts, strict=True)] == one
    assert len(one) == 2 * 4
    assert one[0] != one[4]  # the weights have changed what is written to the same prompts or to others


@pytest.mark.parametrize("case", [case for case in CASES_OF["zero3"] if case.startswith("score")])
def test_zero3_gathers_each_weight_once_for_both_turns(trained, case):
    for rank in (0, 1):
        gathered = result(trained, "zero3", case, rank)["gathered"]
        assert len(gathered) == 4
        if "ungathered" in case:
            assert min(gathered) > 4  # each forward gathers what it needs
        else:
            assert gathered == [1.0] * 4


@pytest.mark.parametrize(("engine", "case"), [pair for pair in COMPARED if precision_of(pair[1]) == "bf16"])
def test_what_is_computed_in_fp32_is_not_rounded_to_bf16(trained, engine, case):
    """Log-probabilities, hence the KL, and rewards."""
    keys = ("score/kl_t1", "score/kl_t2") if case.startswith("score") else ("cloud/reward_min", "cloud/reward_max")
    steps = [entry for entry in result(trained, engine, case)["logs"] if "loss" in entry]
    values = torch.tensor([entry[key] for entry in steps[1:] for key in keys])
    assert not values.bfloat16().float().equal(values)
    # It is bf16 that was trained in all the same.
    logs_in_fp32 = result(trained, engine, case.replace("bf16", "fp32"))["logs"]
    assert steps[-1]["loss"] != pytest.approx(logs_in_fp32[2]["loss"], rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_comparison_is_of_something(trained, case):
    folder, logs = trained("one") / case, result(trained, "one", case)["logs"]
    start, end = (saved_weights(folder / name) for name in ("start", "saved"))
    # Adam moves a weight by up to the learning rate a step: 3e-3, 2e-3, 1e-3 (and for CLoud 3e-3 each).
    largest = max((end[key] - start[key]).abs().max().item() for key in start)
    assert 5e-3 < largest < 1.2e-2
    if case.startswith("score"):
        assert abs(logs[2]["score/kl_t1"]) > 0.01
        assert [entry["score/stage"] for entry in logs[:3]] == [1, 2, 2]
        assert min(logs[2]["score/advantage_abs_t1"], logs[2]["score/advantage_abs_t2"]) > 0.1
    else:
        assert logs[2]["cloud/reward_max"] - logs[2]["cloud/reward_min"] > 0.1


@pytest.mark.parametrize("kind", ["nan_loss", "nan_gradient"])
def test_fsdp2_skips_a_step_with_a_nan_on_one_process_on_both(trained, kind):
    """That the rest is as on one process the tests above say."""
    for rank in (0, 1):
        logs = result(trained, "fsdp2", f"score-full-fp32-{kind}", rank)["logs"]
        assert [entry["score/skipped_steps"] for entry in logs[:3]] == [0, 1, 0]
    weights = saved_weights(trained("fsdp2") / f"score-full-fp32-{kind}" / "saved")
    assert all(weight.isfinite().all() for weight in weights.values())


def test_zero2_ends_both_processes_at_a_nan_of_one(trained):
    engine, case = ENDED
    for rank in (0, 1):
        error = result(trained, engine, case, rank)["error"]
        assert error.startswith(
            f"The loss or the gradient was NaN or infinite in 1 steps in a row, of which step {NAN_STEP + 1} "
        )
        assert (trained(engine) / case / f"skipped_step_{NAN_STEP + 1}_process_{rank}.jsonl").exists()
    assert all(weight.isfinite().all() for weight in saved_weights(trained(engine) / case / "saved").values())


def test_the_page_says_what_ran():
    page = (WORKER.parents[1] / "docs" / "engines.md").read_text()
    header, _, *rows = [line for line in page.split("## What ran\n")[1].splitlines() if line.startswith("|")][
        : 2 + len(ENGINES)
    ]
    kinds = ["-".join(re.findall("[a-z]+", column.lower())) for column in header.split("|")[2:-1]]
    said = set()
    for row in rows:
        engine, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        name = engine.lower().replace("-", "")
        said |= {
            (name, f"{kind}-{precision}")
            for kind, cell in zip(kinds, cells, strict=True)
            for precision in cell.split(", ")
        }
    assert said == {(engine, case) for engine in ENGINES for case in CASES_OF[engine] if case in CASES}
    for precision in ("fp32", "bf16"):
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {precision} |"))
        numbers = [float(number) for number in re.findall(r"[\d.]+(?:e-\d+)?", row.split("|", 2)[2])]
        assert numbers == [*TOLERANCE[precision].values(), UPDATE_TOLERANCE[precision]]
