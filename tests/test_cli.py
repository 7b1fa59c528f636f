"""The command line as a shell sees it: what it prints where, exit codes, and that nothing heavy is loaded too early."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from trl_score import __version__, cli
from trl_score.cloud.chat import ChatError
from trl_score.log_keys import SCORE_LOG_KEYS

MODEL_LIBRARIES = {"torch", "transformers", "trl", "matplotlib", "datasets", "yaml"}


def run_cli(*arguments, **options):
    command = [sys.executable, "-m", "trl_score", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def plant(monkeypatch, run):
    """Puts a command named `try` in place that does what `run` does."""
    module = SimpleNamespace(__doc__="Try.", add_arguments=lambda parser: parser.add_argument("--x"), run=run)
    monkeypatch.setitem(cli.COMMANDS, "try", "try something")
    monkeypatch.setattr(cli, "load_command", lambda name: module)


def test_help_lists_the_commands():
    result = run_cli("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for name, summary in cli.COMMANDS.items():
        assert f"  {name:<10} {summary}\n" in result.stdout


def test_version():
    assert run_cli("--version").stdout == f"trl_score {__version__}\n"


def test_every_command_has_its_own_help():
    for name in cli.COMMANDS:
        text = cli.make_command_parser(name, cli.load_command(name)).format_help()
        assert text.startswith(f"usage: trl-score {name} ") and "--config FILE" in text


def test_help_takes_under_half_a_second_and_loads_no_model_library():
    code = """
import sys, time
start = time.perf_counter()
from trl_score.cli import main
try:
    main(["--help"])
except SystemExit:
    print(time.perf_counter() - start, *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stderr.split() for _ in range(3)]
    assert not MODEL_LIBRARIES & set(runs[0][1:])
    # The best of three: a busy machine makes it slower, never faster.
    assert min(float(seconds) for seconds, *_ in runs) < 0.5


def test_figures_and_reports_load_no_model_library(tmp_path):
    keys = dict.fromkeys(SCORE_LOG_KEYS, 0.25)
    log = [{"step": step, **keys, "score/stage": 1} for step in range(1, 4)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    code = f"""
import sys
from trl_score.cli import main
main(["plot", {str(tmp_path)!r}, "--output", {str(tmp_path / "figures")!r}])
main(["report", {str(tmp_path)!r}, "--output", {str(tmp_path / "report.html")!r}])
print(*{{name.partition(".")[0] for name in sys.modules}}, file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.count("\n") == 11  # five figures twice, and the page
    assert {"torch", "transformers", "trl", "accelerate"}.isdisjoint(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "trl-score: the following arguments are required: COMMAND."),
        (["plott"], "trl-score: unknown command 'plott' (did you mean plot?). All options: trl-score --help"),
        (["plot", "x", "--ouput", "y"], "trl-score plot: unknown option --ouput (did you mean --output?)."),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    written = capsys.readouterr()
    assert written.err.startswith(message) and written.err.count("\n") == 1 and written.out == ""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Expected a\n  value."),
        FileNotFoundError("Expected a value."),
        PermissionError("Expected a value."),
        json.JSONDecodeError("Expected a value.", "", 0),
        ChatError("Expected a value."),
    ],
)
def test_what_the_user_can_help_is_one_sentence_and_code_2(error, monkeypatch, capsys):
    def fail(arguments):
        raise error

    plant(monkeypatch, fail)
    assert cli.main(["try"]) == 2
    written = capsys.readouterr().err
    assert written.startswith("trl-score try: Expected a value.") and written.count("\n") == 1
    assert cli.main(["try", "--traceback"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_what_an_error_was_given_as_a_note_is_said_too(monkeypatch, capsys):
    error = PermissionError("Expected a value.")
    error.add_note("Nothing was\ntrained yet.")

    def fail(arguments):
        raise error

    plant(monkeypatch, fail)
    assert cli.main(["try"]) == 2
    assert capsys.readouterr().err == "trl-score try: Expected a value. Nothing was trained yet.\n"


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), AssertionError("x"), TypeError("x")])
def test_an_error_of_ours_keeps_its_traceback(error, monkeypatch):
    def fail(arguments):
        raise error

    plant(monkeypatch, fail)
    with pytest.raises(type(error), match="x"):
        cli.main(["try"])


def test_an_error_of_ours_ends_with_code_1():
    code = """
from trl_score import cli
from types import SimpleNamespace
cli.load_command = lambda name: SimpleNamespace(add_arguments=lambda parser: None, run=lambda arguments: {}["x"])
raise SystemExit(cli.main(["plot"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" in result.stderr and result.stderr.endswith("KeyError: 'x'\n")


def test_the_exit_code_is_the_commands(monkeypatch):
    plant(monkeypatch, lambda arguments: {"a": 0, "b": 3}[arguments.x])
    assert (cli.main(["try", "--x", "a"]), cli.main(["try", "--x", "b"])) == (0, 3)


# A shell has what it starts in the background ignore SIGINT, and that is inherited.
SLEEPER = """
import signal
import time
from types import SimpleNamespace
from trl_score import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
def run(arguments):
    print("ready", flush=True)
    time.sleep(60)
cli.load_command = lambda name: SimpleNamespace(add_arguments=lambda parser: None, run=run)
raise SystemExit(cli.main(["plot"]))
"""


def test_ctrl_c_gives_130():
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, written = process.communicate(timeout=30)
    assert (process.returncode, written) == (130, "trl-score plot: stopped.\n")


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    code = SLEEPER.replace("time.sleep(60)", "print('more' * 100_000); return 0").replace(
        'print("ready", flush=True)', ""
    )
    process = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "")
