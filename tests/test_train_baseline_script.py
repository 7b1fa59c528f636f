"""examples/train_baseline.py: what each method writes and spends, and what is refused before a model is loaded."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "train_baseline.py"
CONFIG = ROOT / "examples" / "configs" / "adder.yaml"
# 6 updates of 16 rollouts: 6 * 16 * 2 = 192 answers.
SIZES = ("--max_steps=6", "--per_device_train_batch_size=16", "--train_size=512", "--final_eval_size=48", "--seed=3")
ANSWERS, UPDATES = 192, 6
METRICS = {"accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i", "answers_changed"}


@pytest.fixture(scope="module")
def script() -> Any:
    """The script as a module: importing the libraries once is enough."""
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module("train_baseline")
    sys.path.remove(str(SCRIPT.parent))


def run(script: ModuleType, folder: Path, method: str, *flags: str) -> None:
    arguments = ["--config", str(CONFIG), f"--output_dir={folder}", f"--method={method}", "--disable_tqdm=true", *flags]
    script.main(*script.make_parser().parse_args_and_config(arguments, fail_with_unknown_args=True))


def check_output(folder: Path, method: str) -> dict[str, Any]:
    """Checks what every method must write, and gives the summary."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    for name in ("base", "trained"):
        for decoding in ("greedy", "sampled"):
            assert set(summary[name][decoding]) >= METRICS
    for name in ("records_base.jsonl", "records.jsonl", "records_sampled.jsonl"):
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        assert len(records) == 48
        assert all(len(record["turns"]) == 2 for record in records)
    assert (summary["method"], summary["seed"], summary["num_problems"]) == (method, 3, 48)
    return summary


def logged_steps(folder: Path) -> list[int]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["step"] for entry in history]


@pytest.mark.slow
def test_self_refine_trains_nothing_and_keeps_the_critiques(script: ModuleType, tmp_path: Path) -> None:
    run(script, tmp_path, "self_refine", *SIZES)
    summary = check_output(tmp_path, "self_refine")
    assert (summary["samples"], summary["updates"]) == (0, 0)
    assert summary["base"]["greedy"]["accuracy_t1"] == summary["trained"]["greedy"]["accuracy_t1"]
    assert summary["base"]["greedy"]["accuracy_t2"] != summary["trained"]["greedy"]["accuracy_t2"]
    record = json.loads((tmp_path / "records.jsonl").read_text().splitlines()[0])
    assert isinstance(record["critique"], str)


@pytest.mark.slow
def test_an_ablation_is_a_score_run(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(script, tmp_path, "multi_turn_rl", *SIZES)
    summary = check_output(tmp_path, "multi_turn_rl")
    assert (summary["samples"], summary["updates"]) == (ANSWERS, UPDATES)
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert {entry["score/stage"] for entry in history if "score/stage" in entry} == {2}
    assert json.loads((tmp_path / "score_config.json").read_text())["alpha"] == 0.0
    printed = capsys.readouterr().out
    assert "Greedy, 48 problems" in printed
    assert "multi_turn_rl" in printed


@pytest.mark.slow
def test_single_turn_rl_spends_as_much(script: ModuleType, tmp_path: Path) -> None:
    run(script, tmp_path, "single_turn_rl", *SIZES)
    summary = check_output(tmp_path, "single_turn_rl")
    assert (summary["samples"], summary["updates"]) == (ANSWERS, UPDATES)
    assert max(logged_steps(tmp_path)) == UPDATES


@pytest.mark.slow
def test_star_in_stage_2_spends_as_much_and_writes_its_traces(script: ModuleType, tmp_path: Path) -> None:
    run(script, tmp_path, "score_star_stage_2", *SIZES)
    summary = check_output(tmp_path, "score_star_stage_2")
    assert (summary["samples"], summary["updates"]) == (ANSWERS, UPDATES)
    assert json.loads((tmp_path / "stage_1" / "score_config.json").read_text())["stage"] == 1
    assert max(logged_steps(tmp_path / "stage_1")) == 3
    # Stage II's 3 updates and 3 * 2 prompts in 3 iterations: one update, and 2 prompts of 8 rollouts.
    for number in (1, 2, 3):
        rows = [json.loads(line) for line in (tmp_path / "traces" / f"D+_STaR_{number}.jsonl").read_text().splitlines()]
        assert 0 < len(rows) <= 16
        assert all(row["rewards"][1] == 1.0 for row in rows)


@pytest.mark.slow
def test_as_a_command(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    flags = ["--config", str(CONFIG), "--method=pair_sft", "--output_dir=out", *SIZES]
    command = [sys.executable, str(SCRIPT), *flags]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = check_output(tmp_path / "out", "pair_sft")
    assert (summary["samples"], summary["updates"]) == (ANSWERS, UPDATES)
    assert max(logged_steps(tmp_path / "out")) == UPDATES


NOWHERE = "--model_name_or_path=nowhere"  # whoever loads the model fails with another message


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        ("star+", (), r"got 'star\+'. Did you mean 'star'"),
        (
            "star",
            ("--offline_turn_1_column=turn_1",),
            r"star makes its first turns itself, got `offline_turn_1_column=",
        ),
        ("single_turn_rl", ("--kl_estimator=k2",), r"needs `kl_estimator='k1'`, got 'k2'"),
        ("star", ("--max_steps=2",), r"Each of 3 iterations needs a prompt and an update, got .* 2 updates"),
        ("score_star_stage_2", ("--stage=2",), r"run of both stages, got `stage='2'`"),
        ("score_star_stage_2", ("--stage_1_steps=0",), r"at least one update of Stage I, got `stage_1_steps=0.0`"),
        ("score_star_stage_2", ("--stage_1_steps=180",), r"Each of 3 iterations needs .* 0 prompts and 0 updates"),
        ("pair_sft", ("--resume_from_checkpoint=x",), r"cannot be resumed, got `resume_from_checkpoint='x'`"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    method: str, flags: tuple[str, ...], message: str, script: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(script, tmp_path, method, NOWHERE, "--train_size=64", *flags)
    assert not list(tmp_path.iterdir())


def test_the_page_names_every_option_and_key(script: ModuleType) -> None:
    page = (ROOT / "docs" / "baselines.md").read_text()
    own = set(script.BaselineScriptArguments.__annotations__) - {"final_eval_size"}  # that is train_score.py's
    assert own >= {"method", "learn_right_turn_1", "star_continues", "critique_prompt", "refine_prompt"}
    assert [name for name in own if f"`--{name}" not in page] == []
    for key in ("base", "trained", "method", "samples", "updates", "seed"):
        assert f"`{key}`" in page


def test_a_wrong_method_is_one_sentence_and_code_2(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    flags = ["--config", str(CONFIG), "--method=starr", "--output_dir=out"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *flags], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("train_baseline.py: ") and "'starr'" in last
    assert "Traceback" not in done.stderr
