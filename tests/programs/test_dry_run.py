"""`--dry_run`: what it says of a run, by hand and against real models, and what it refuses. No weights are there."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score import cli
from trl_score.programs.dry_run import print_plan
from trl_score.programs.processes import Processes

REWARDS = """
def length(completions, **columns):
    return [float(len(str(completion))) for completion in completions]

def one_only(completions, **columns):
    return [1.0]

def crashes(completions, solution, **columns):
    raise KeyError("gold")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with reward functions and ten questions."""
    (tmp_path / "dry_rewards.py").write_text(REWARDS)
    rows = [{"prompt": [{"role": "user", "content": "a" * number}], "solution": "1"} for number in range(1, 11)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "no_rows.jsonl").write_text("no row\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "dry_rewards", raising=False)
    return tmp_path


@pytest.fixture
def weightless(folder: Path, local_model: Callable[[str], Path]) -> str:
    """A model without weights."""
    shutil.copytree(local_model("qwen2"), folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return str(folder / "model")


def rows_of(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    lines = [line.split("  ", 2) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    return {name.strip(): value.strip() for _, name, value in (line for line in lines if len(line) == 3)}


def test_plan_of_the_embedded_task(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    assert cli.main(["score", "--dry_run"]) == 0
    rows = rows_of(capsys)
    assert rows["optimizer steps"] == "180: Stage I 90, Stage II 90"
    # An update of 192 rollouts, 8 of a prompt; a rollout of 16 + 12 + 12 + 12 tokens.
    assert rows["rollouts"] == "34,560, 8 of each of 4,320 prompts"
    assert rows["tokens at most"] == f"{34_560 * 52:,}"
    # 167,232 parameters of 4 bytes, AdamW's two moments beside them; the end of Stage I, the end.
    assert (rows["weights"], rows["optimizer"]) == ("653.2 KiB", "1.3 MiB")
    assert rows["checkpoints at most"] == "2 of 653.2 KiB"
    assert sorted(folder.iterdir()) == before


def test_processes_of_the_launcher_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "--dry_run", "--accelerate_config", "zero3_cpu"]) == 0
    rows = rows_of(capsys)
    assert rows["processes"] == "2, zero3"
    assert rows["rollouts"] == "69,120, 8 of each of 8,640 prompts"
    assert rows["weights"] == "326.6 KiB"  # half of them
    assert cli.main(["score", "--dry_run", "--num_processes", "4"]) == 0
    assert rows_of(capsys)["processes"] == "4, ddp"


def test_deepspeed_holds_the_weights_in_bf16(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "--dry_run", "--accelerate_config", "zero3_cpu", "--use_cpu", "--bf16=true"]) == 0
    rows = rows_of(capsys)
    # 167,232 parameters on two processes: 2 bytes, and 12 with the copy and the moments in fp32.
    assert (rows["weights"], rows["optimizer"]) == ("163.3 KiB", "979.9 KiB")
    assert rows["checkpoints at most"] == "2 of 326.6 KiB"


def test_stage_of_a_configuration_of_deepspeeds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage_3 = {"zero_optimization": {"stage": 3}}
    (folder / "zero.json").write_text(json.dumps(stage_3))
    config = {"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "zero.json"}}
    (folder / "accelerate.yaml").write_text(json.dumps({**config, "num_processes": 2, "use_cpu": True}))
    assert cli.main(["score", "--dry_run", "--accelerate_config", "accelerate.yaml"]) == 0
    assert rows_of(capsys)["processes"] == "2, zero3"
    assert Processes.of({"num_processes": 2}, stage_3) == Processes.of({"num_processes": 2}, "zero.json")
    assert Processes.of({"num_processes": 2}, stage_3) == Processes(2, "zero3")


def flags(model: str, *more: str) -> list[str]:
    settings = ["--use_cpu", "--dataset_name=rows.jsonl", "--max_completion_length=8", "--num_train_epochs=2"]
    sizes = ["--per_device_train_batch_size=4", "--num_generations=2", "--reward_funcs=dry_rewards.length"]
    return ["score", "--dry_run", f"--model_name_or_path={model}", *settings, *sizes, *more]


def test_epochs_and_an_adapter_of_a_model_without_weights(
    weightless: str, local_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = ["--use_peft", "--lora_r=4", "--lora_target_modules", "q_proj", "v_proj"]
    assert cli.main(flags(weightless, "--bf16=false", "--dtype=float32", *adapter)) == 0
    rows = rows_of(capsys)
    model = AutoModelForCausalLM.from_pretrained(local_model("qwen2"))
    total = model.num_parameters()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert rows["parameters"] == f"{total:,}, {trained:,} trained (LoRA)"
    # 10 prompts twice, 2 rollouts of each, 4 rollouts an update.
    assert rows["rollouts"] == "40, 2 of each of 20 prompts"
    assert rows["optimizer steps"].startswith("10: ")
    assert rows["reward length"].endswith("for the made-up answer 42")


def test_an_adapter_that_is_trained_further(
    folder: Path, local_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(local_model("qwen2"))
    total = model.num_parameters()
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder / "adapter")
    AutoTokenizer.from_pretrained(local_model("qwen2")).save_pretrained(folder / "adapter")
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert cli.main(flags(str(folder / "adapter"), "--bf16=false", "--stage=2")) == 0
    rows = rows_of(capsys)
    assert rows["parameters"] == f"{total:,}, {trained:,} trained (LoRA)"
    assert rows["optimizer steps"] == "10: Stage I 0, Stage II 10"
    assert rows["reference"] == "0 B"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset_name=nowhere.jsonl"], "nowhere.jsonl"),
        (["--eval_strategy=epoch"], "The dataset has no split 'test', only train"),
        (["--reward_funcs=dry_rewards.one_only"], "one_only returned 1 rewards for 2 completions"),
        (["--dataset_name=no_rows.jsonl"], "Expected rows in 'no_rows.jsonl', got what is no json"),
        (["--reward_funcs=dry_reward.length"], "there is no module 'dry_reward' on the path"),
        (["--reward_funcs=dry_rewards.crashes"], "crashes raised KeyError on the examples: 'gold'"),
        (["--max_completion_length=100000"], "A rollout must fit into the model's context"),
        (["--num_generations=3"], "num_generations"),
        (["--accelerate_config=zero4"], "takes a file or one of"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_code_2(
    more: list[str], message: str, weightless: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(flags(weightless, *more)) == 2
    written = capsys.readouterr()
    assert message in written.err.splitlines()[-1] and written.out == ""
    assert "Traceback" not in written.err


def test_plan_of_cloud(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    assert cli.main(["cloud", "--dry_run"]) == 0
    rows = rows_of(capsys)
    assert rows["optimizer steps"] == "classic 600, sft 200, joint 100, off-policy joint 100"
    assert (rows["training pairs"], rows["critiques to write"]) == ("4,800", "9,600")
    assert rows["micro-batch"] == "128 rows of up to 128 tokens"
    assert sorted(folder.iterdir()) == before


def test_pairs_without_critiques_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    settings = ["--use_cpu", "--stage=joint", "--dataset_name=pairs.jsonl", "--max_length=64", "--max_steps=2"]
    assert cli.main(["cloud", "--dry_run", "--model_name_or_path=quiz", *settings]) == 2
    assert "must have a column 'chosen_critique'" in capsys.readouterr().err


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {"Run": {"processes": "8, zero3", "steps": "10"}}
    print_plan(plan)
    assert capsys.readouterr().out == "Run\n  processes  8, zero3\n  steps      10\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_plan(plan)
    written = capsys.readouterr().out
    assert "─" in written and "8, zero3" in written
