"""examples/train_score.py as a user runs it, on small local models, a local file and a reward of the user's own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trl_score.plots import read_run

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "train_score.py"

REWARD_MODULE = """
def long_enough(completions, solution, **kwargs):
    texts = [completion if isinstance(completion, str) else completion[0]["content"] for completion in completions]
    return [float(len(text) % 2) for text in texts]
"""

FLAGS = [
    "--reward_funcs=my_rewards.long_enough",
    "--output_dir=out",
    "--dtype=float32",
    "--use_cpu",
    "--max_steps=2",
    "--num_generations=2",
    "--per_device_train_batch_size=4",
    "--max_completion_length=8",
    "--correction_prompt=Look again.",
    "--save_steps=1000",
    "--report_to=none",
    "--logging_steps=1",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's working folder: a data file and a module with a reward function."""
    (tmp_path / "my_rewards.py").write_text(REWARD_MODULE)
    return tmp_path


def write_data(folder: Path, *, is_chat: bool) -> Path:
    questions = [f"What is {i} + {i}?" for i in range(8)]
    rows = [
        {"prompt": [{"role": "user", "content": question}] if is_chat else question, "solution": str(2 * i)}
        for i, question in enumerate(questions)
    ]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_script(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma", "plain"])
def test_trains_each_architecture_from_a_local_file(
    kind: str, folder: Path, local_model: Callable[[str], Path]
) -> None:
    data = write_data(folder, is_chat=kind != "plain")
    done = run_script(folder, f"--model_name_or_path={local_model(kind)}", f"--dataset_name={data}", *FLAGS)
    assert done.returncode == 0, done.stderr[-2000:]
    history = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
    assert [entry["score/stage"] for entry in history if "score/stage" in entry] == [1, 2]
    assert (folder / "out" / "model.safetensors").is_file()
    assert json.loads((folder / "out" / "score_config.json").read_text())["correction_prompt"] == "Look again."


@pytest.mark.slow
def test_peft_evaluation_yaml_and_overriding_flags(folder: Path, local_model: Callable[[str], Path]) -> None:
    data = write_data(folder, is_chat=True)
    lines = [flag.removeprefix("--").replace("=", ": ", 1) for flag in FLAGS if "=" in flag]
    lines[0] = "reward_funcs: [my_rewards.long_enough]"
    settings = ["use_cpu: true", "use_peft: true", "lora_target_modules: [q_proj, v_proj]", "stage: 1"]
    (folder / "run.yaml").write_text("\n".join([*lines, *settings, f"dataset_name: {data}"]) + "\n")
    done = run_script(
        folder,
        "--config",
        "run.yaml",
        f"--model_name_or_path={local_model('qwen2')}",
        "--max_steps=1",
        "--eval_strategy=steps",
        "--eval_steps=1",
        "--dataset_test_split=train",
        "--final_eval_size=4",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    history = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
    assert max(entry["step"] for entry in history) == 1, "the flag must override the file"
    assert any("eval_score/accuracy_t2" in entry for entry in history)
    assert (folder / "out" / "adapter_model.safetensors").is_file()
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["num_problems"] == 4
    assert set(summary) >= {"base", "stage1"} and "stage2" not in summary  # the run was Stage I only
    assert set(summary["stage1"]["greedy"]) >= {"accuracy_t1", "delta_t1_t2", "answers_changed"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name_or_path=nowhere", "--reward_funcs=adder"], "`--dataset_name` is needed"),
        (["--model_name_or_path=nowhere", "--dataset_name=adder"], "`--reward_funcs` is needed"),
        (
            ["--model_name_or_path=nowhere", "--dataset_name=adder", "--reward_funcs=lost"],
            "Reward function 'lost' is not known",
        ),
    ],
)
def test_missing_arguments_are_named(flags: list[str], message: str, folder: Path) -> None:
    done = run_script(folder, *flags, "--use_cpu")
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.slow
def test_without_arguments_it_runs_the_embedded_task(folder: Path) -> None:
    done = run_script(folder, "--max_steps=2", "--per_device_train_batch_size=16", "--final_eval_size=64", "--seed=3")
    assert done.returncode == 0, done.stderr[-2000:]
    output = folder / "runs" / "demo"
    summary = json.loads((output / "summary.json").read_text())
    metrics = {"accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i", "answers_changed"}
    for stage in ("base", "stage1", "stage2"):
        for decoding in ("greedy", "sampled"):
            assert set(summary[stage][decoding]) == metrics
            for interval in summary[stage][decoding].values():
                assert interval["low"] <= interval["value"] <= interval["high"]
    assert (summary["seed"], summary["num_problems"]) == (3, 64)
    assert {"training", "evaluation"} == set(summary["seconds"])
    assert {"python", "torch", "transformers", "trl", "trl_score"} == set(summary["versions"])
    assert (output / "training_curves.png").stat().st_size > 10_000
    run = read_run(output)
    assert list(run.records) == ["base", "base_sampled", "", "sampled", "stage1", "stage1_sampled"]
    for stage, name in (("base", "base"), ("stage1", "stage1"), ("stage2", "")):  # the records are those of the table
        for decoding, ending in (("greedy", ""), ("sampled", "_sampled" if name else "sampled")):
            right_at_turn_2 = [record.correct[1] for record in run.records[name + ending]]
            assert sum(right_at_turn_2) / 64 == pytest.approx(summary[stage][decoding]["accuracy_t2"]["value"])
    for text in (
        "Greedy, 64 problems",
        "Sampled, 64 problems",
        "Dialogues after Stage II",
        "runs/demo",
    ):
        assert text in done.stdout


@pytest.mark.slow
def test_run_of_stage_2_alone_is_compared_with_its_start(folder: Path) -> None:
    sizes = ("--max_steps=1", "--per_device_train_batch_size=16", "--final_eval_size=32")
    done = run_script(folder, "--stage=2", *sizes)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((folder / "runs" / "demo" / "summary.json").read_text())
    assert "stage2" in summary and "stage1" not in summary
    assert "No checkpoint of Stage I" not in done.stderr
