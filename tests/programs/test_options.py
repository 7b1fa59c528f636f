"""Options of the programs: from YAML and flags the same as TRL's own parser reads, and what is refused."""

import argparse
import dataclasses
import os
from pathlib import Path

import pytest
import yaml
from trl import TrlParser

from trl_score.exit_codes import EXPECTED_ERRORS, WHILE_TRAINING, run_guarded
from trl_score.programs.options import CLoudScriptArguments
from trl_score.programs.parser import make_program_parser, option_classes
from trl_score.programs.run import TrainingErrors, configurations

CONFIGS = sorted((Path(__file__).parents[2] / "examples" / "configs").glob("*.yaml"))
FLAGS = ["--use_cpu", "--bf16=false", "--output_dir=nowhere"]


def parse(name: str, *arguments: str) -> argparse.Namespace:
    return make_program_parser(name, f"trl-score {name}", "").parse_command(arguments)


def program_of(config: Path) -> str:
    return "cloud" if "cloud" in config.stem else "score"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_configuration_is_read_as_trl_reads_it(config: Path) -> None:
    name = program_of(config)
    arguments = ["--config", str(config), *FLAGS]
    ours = configurations(name, parse(name, *arguments))
    theirs = TrlParser(option_classes(name)).parse_args_and_config(arguments)
    for one, other in zip(ours, theirs, strict=True):
        assert type(one) is type(other)
        pairs = {
            field.name: (getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)
        }
        assert {
            name: pair for name, pair in pairs.items() if pair[0] != pair[1] and repr(pair[0]) != repr(pair[1])
        } == {}


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-3\nreward_funcs: adder\nmax_steps: 7\nresume_from_checkpoint: true\n")
    options = parse("score", "--config", str(file), "--max-steps", "3")
    assert (options.learning_rate, options.reward_funcs, options.max_steps) == (0.001, ["adder"], 3)
    assert options.resume_from_checkpoint is True  # as TRL takes it: the last checkpoint


def test_without_config_and_model_it_is_the_embedded_task() -> None:
    assert parse("score").model_name_or_path == "adder"
    assert parse("cloud", "--max_steps=2").model_name_or_path == "quiz"
    assert parse("score", "--model_name_or_path=mine").dataset_name is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"unknown key 'learning_rat' \(did you mean learning_rate\?\)"),
        ("learning_rate: fast", "'learning_rate': expected what --learning_rate takes, got 'fast'"),
        ("max_steps: [1]", r"'max_steps': expected one value, got \[1\]"),
        ("stage: 3", r"'stage': expected one of \['1', '2', 'both'\], got 3"),
        ("env: X", "'env': expected environment variables by name, got 'X'"),
    ],
)
def test_a_wrong_file_names_the_key(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text + "\n")
    with pytest.raises(ValueError, match=message):
        parse("score", "--config", str(file))


def test_json_of_an_option_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"`--classic_options` takes JSON, got '{max_steps'"):
        CLoudScriptArguments(classic_options="{max_steps")


def test_a_file_sets_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_SCORE_TRIED", "no")
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"env": {"TRL_SCORE_TRIED": 1}}))
    parse("score", "--config", str(file))
    assert os.environ["TRL_SCORE_TRIED"] == "1"


def test_an_unknown_flag_is_one_sentence_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("score", "--learning_rat", "1")
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("trl-score score: unknown option --learning_rat (did you mean --learning_rate?).")
    assert message.count("\n") == 1


def test_help_sorts_the_options_by_the_class_that_declares_them() -> None:
    text = make_program_parser("score", "trl-score score", "Train.").format_help()
    sections = {part.split(":\n", 1)[0]: part for part in text.split("\n\n")}
    assert "--alpha" in sections["SCoReConfig (trl_score)"]
    assert "--num_generations" in sections["GRPOConfig (TRL)"]
    assert "--per_device_train_batch_size" in sections["TrainingArguments (Transformers)"]
    assert "--use_peft" in sections["ModelConfig (TRL)"]
    assert text.count("--alpha ") == 1


@pytest.mark.parametrize("error", EXPECTED_ERRORS)
def test_an_error_while_training_keeps_its_traceback(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(begins: bool) -> int:
        errors = TrainingErrors()
        with errors:
            if begins:
                errors.on_train_begin(None, None, None)
            raise error("Expected a value.")

    assert run_guarded(lambda: run(begins=False), "trl-score score") == 2
    assert capsys.readouterr().err == "trl-score score: Expected a value.\n"
    with pytest.raises(error) as raised:
        run_guarded(lambda: run(begins=True), "trl-score score")
    assert raised.value.__notes__ == [WHILE_TRAINING]
