"""The launcher: which processes start with which options, what becomes of their exit codes and of signals."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from trl_score.programs import launcher
from trl_score.programs.parser import ACCELERATE_CONFIGS, accelerate_config_names, make_program_parser

ROOT = Path(__file__).parents[2]
CHILD = """
import os, signal, sys, time
from pathlib import Path
sys.argv.remove("score")
what = sys.argv[1]
Path(f"started_{os.environ.get('RANK', 0)}").write_text(" ".join(sys.argv[1:]))
if what == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("ready", flush=True)
    time.sleep(60)
if what == "kill":
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(int(what) if os.environ.get("RANK", "0") == "0" else 0)
"""


def parse(*arguments: str, name: str = "score", launches: bool = True) -> argparse.Namespace:
    return make_program_parser(name, f"trl-score {name}", "", launches=launches).parse_command(arguments)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which processes run, with a module to launch that does as its first argument says."""
    (tmp_path / "launched_child.py").write_text(CHILD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return tmp_path


def launch(what: str, *arguments: str) -> int:
    command = [*arguments, "--main_process_port", "0", "--module", "launched_child", "score"]
    return launcher.launch(command, argparse.Namespace(program_arguments=[what]))


def test_the_command_line_is_divided() -> None:
    options = parse("--num_processes", "2", "--seed=3", "--multi-gpu", "--reward_funcs", "a", "b", "--gpu_ids=0,1")
    assert options.launcher == {"num_processes": 2, "multi_gpu": True, "gpu_ids": "0,1"}
    assert options.program_arguments[-4:] == ["--seed=3", "--reward_funcs", "a", "b"]
    assert options.launcher_arguments == ["--num_processes", "2", "--multi_gpu", "--gpu_ids=0,1"]
    assert (options.seed, options.reward_funcs) == (3, ["a", "b"])


def test_a_file_may_hold_options_of_the_launcher(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    settings = {"seed": 3, "num_processes": 4, "accelerate_config": "zero2", "multi_gpu": False}
    file.write_text(yaml.safe_dump(settings))
    options = parse("--config", str(file), "--num_processes", "2")
    arguments = launcher.launcher_arguments(options.launcher)
    assert arguments == ["--num_processes", "2", "--config_file", str(ACCELERATE_CONFIGS / "accelerate_zero2.yaml")]
    assert options.program_arguments == ["--config", str(file)]
    launched = parse(*options.program_arguments, launches=False)  # the same file once more, by the program
    assert (launched.seed, launched.launcher) == (3, {})


def test_the_launcher_reads_what_is_written_for_it() -> None:
    given = {"accelerate_config": "zero3", "num_processes": 2, "use_fsdp": True, "mixed_precision": "bf16"}
    arguments = launcher.launcher_arguments(given)
    parsed = launch_command_parser().parse_args([*arguments, "--module", "trl_score.programs", "score", "--seed", "1"])
    assert (parsed.num_processes, parsed.use_fsdp, parsed.mixed_precision) == (2, True, "bf16")
    assert Path(parsed.config_file).name == "accelerate_zero3.yaml"
    assert (parsed.training_script, parsed.training_script_args) == ("trl_score.programs", ["score", "--seed", "1"])


def test_every_option_of_accelerate_is_the_programs_or_the_launchers() -> None:
    # What says what is launched, TPU pods, and what the YAML key `env` means here.
    left_out = {"config_file", "module", "no_python", "env", "vm", "tpu_use_cluster", "tpu_use_sudo"}
    known = {action.dest for action in make_program_parser("score", "", "", launches=True)._actions}
    of_accelerate = {action.dest for action in launch_command_parser()._actions if action.option_strings}
    assert of_accelerate - known == left_out


def test_a_file_of_accelerate_goes_before_a_name_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"zero1", "zero2", "zero3", "zero3_offload", "fsdp2", "multi_gpu"} <= set(accelerate_config_names())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zero2").write_text("num_processes: 2\n")
    assert launcher.accelerate_config_file("zero2") == Path("zero2")
    (tmp_path / "broken.yaml").write_text("num_processes: [2\n")
    with pytest.raises(ValueError, match=r"Expected YAML in 'broken.yaml'"):
        launcher.accelerate_config_file("broken.yaml")
    with pytest.raises(ValueError, match=r"takes a file or one of fsdp2, multi_gpu, zero1, .*mean zero3_offload\?"):
        launcher.accelerate_config_file("zero3_ofload")


def test_processes_that_would_not_be_started_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"`--num_processes 2` alone would start one process here.* Add `--multi_gpu`"):
        launcher.start("score", parse("--num_processes", "2", "--mixed_precision=no"))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    launcher.check_processes({"num_processes": 2})


def test_a_launched_process_launches_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(launcher, "run_with_options", lambda name, options: ran.append(name) or 0)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"A launcher has started this process.*got `--num_processes 2`"):
        launcher.start("score", parse("--num_processes", "2"))
    assert launcher.start("score", parse("--seed", "1")) == 0
    assert ran == ["score"]


@pytest.mark.parametrize("code", [0, 1, 2, 130, 141, 143])
def test_the_exit_code_is_the_childs(code: int, child: Path) -> None:
    assert launch(str(code), "--num_processes", "1", "--num_machines", "1") == code
    assert (child / "started_0").read_text() == str(code)


def test_a_child_that_a_signal_ended(child: Path) -> None:
    assert launch("kill", "--num_processes", "1", "--num_machines", "1") == 143


@pytest.mark.parametrize("code", [0, 2])
def test_the_exit_code_of_two_processes(code: int, child: Path) -> None:
    assert launch(str(code), "--multi_gpu", "--num_processes", "2", "--num_machines", "1") == code
    assert sorted(path.name for path in child.glob("started_*")) == ["started_0", "started_1"]


PARENT = """
import argparse
from trl_score.programs import launcher
launcher._SECONDS_TO_STOP = 0.3
command = ["--num_processes", "1", "--num_machines", "1", "--module", "launched_child", "score"]
raise SystemExit(launcher.launch(command, argparse.Namespace(program_arguments=["wait"])))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_ends_the_program(number: signal.Signals, code: int, child: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=child)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    os.kill(process.pid, number)
    rest, _ = process.communicate(timeout=30)  # the child has closed its end too
    assert (process.returncode, rest) == (code, "")


SMALL = (
    "--max_steps=2",
    "--per_device_train_batch_size=8",
    "--train_size=64",
    "--final_eval_size=0",
    "--output_dir=out",
)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"DS_ACCELERATOR": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def check_two_processes(folder: Path) -> None:
    """8 rollouts of a prompt on each process: a step sees one of 64 prompts on each."""
    state = json.loads((folder / "out" / "trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"]) == (2, 2 * 2 / 64)
    assert (folder / "out" / "model.safetensors").is_file()


@pytest.mark.slow
def test_score_trains_on_two_processes_with_deepspeed(tmp_path: Path) -> None:
    done = run(tmp_path, "trl_score", "score", "--accelerate_config", "zero2_cpu", "--main_process_port=0", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    check_two_processes(tmp_path)
    assert done.stdout.count("Model saved to out") == 1
    assert re.search("DeepSpeed", done.stderr + done.stdout)


@pytest.mark.slow
def test_torchrun_trains_on_the_processes_it_started(tmp_path: Path) -> None:
    torchrun = ("torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m")
    done = run(tmp_path, *torchrun, "trl_score", "score", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Model saved to out") == 1
    check_two_processes(tmp_path)
