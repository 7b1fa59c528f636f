"""`trl-score correct` with the embedded model: where questions come from, what is printed, and what is refused."""

import io
import json
import sys

import pytest

from trl_score.cli import main
from trl_score.data import adder
from trl_score.pipeline import SelfCorrectionPipeline

QUESTION = "47+86+25+60=?"


@pytest.fixture(scope="module")
def expected():
    """What the pipeline answers, greedily."""
    options = {"correction_prompt": adder.CORRECTION_PROMPT, "max_new_tokens": adder.MAX_COMPLETION_LENGTH}
    return SelfCorrectionPipeline(adder.adder_base_path(), **options)(QUESTION)


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard input a person's, who types some lines and then Ctrl-D."""

    def type_lines(*lines):
        stdin = io.StringIO()
        stdin.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", stdin)
        answers = iter(lines)

        def read(prompt):
            try:
                return next(answers)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", read)

    return type_lines


def correct(*arguments):
    return main(["correct", "--model", "adder", *arguments])


def test_both_turns_are_shown(expected, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert correct(QUESTION) == 0
    written = capsys.readouterr().out
    assert written.startswith(f"{QUESTION}\n") and "turn 1" in written and "turn 2" in written
    assert written.count(expected.turns[0]) >= 2
    assert written.endswith(f"answer unchanged: {expected.final_answer}\n")


def test_json_is_what_the_pipeline_gives(expected, capsys):
    assert correct(QUESTION, "--json") == 0
    written = capsys.readouterr().out
    assert json.loads(written) == json.loads(json.dumps(expected.as_dict())) and written.count("\n") == 1


def test_the_question_may_come_from_standard_input(expected, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n"))
    assert correct("--json") == 0
    assert json.loads(capsys.readouterr().out)["turns"] == list(expected.turns)


def test_questions_are_asked_for_until_the_end(expected, terminal, capsys):
    terminal(QUESTION, "", "01+02=?")
    assert correct("--json") == 0
    first, *lines = capsys.readouterr().out.strip().splitlines()
    assert first == "Type a question, or Ctrl-D to end."
    assert [json.loads(line)["prompt"][0]["content"] for line in lines] == [QUESTION, "01+02=?"]
    assert json.loads(lines[0])["turns"] == list(expected.turns)


def test_options_reach_the_model(capsys):
    options = ["--turns", "3", "--max_new_tokens", "3", "6", "9", "--do_sample", "--temperature", "1.5", "--seed", "5"]
    assert correct(QUESTION, "--json", *options, "--correction_prompt", "look again") == 0
    answer = json.loads(capsys.readouterr().out)
    pipe = SelfCorrectionPipeline(adder.adder_base_path(), num_turns=3, max_new_tokens=[3, 6, 9])
    sampling = {"do_sample": True, "temperature": 1.5, "seed": 5, "correction_prompt": "look again"}
    assert answer["turns"] == list(pipe(QUESTION, **sampling).turns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "Expected a question, got ''."),
        ([QUESTION, "--temperature", "0.5"], "`--temperature` and `--seed` are of sampling, got one without"),
        ([QUESTION, "--seed", "5"], "`--temperature` and `--seed` are of sampling, got one without"),
        ([QUESTION, "--turns", "0"], "`num_turns` must be at least 1, got 0"),
        ([QUESTION, "--max_new_tokens", "3", "4", "5"], "one for each of 2 turns, got [3, 4, 5]"),
        ([QUESTION, "--correction_prompt", " "], "`correction_prompt` must not be empty"),
    ],
)
def test_what_cannot_be_asked(arguments, message, capsys):
    assert correct(*arguments) == 2
    written = capsys.readouterr()
    assert message in written.err and written.err.count("\n") == 1 and written.out == ""


def test_empty_standard_input(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert correct() == 2
    assert "Expected a question, got ''. Give it as an argument or on standard input." in capsys.readouterr().err


def test_a_model_that_is_not_there(tmp_path, capsys):
    for model in (tmp_path / "nowhere", tmp_path, "no-such/model"):
        assert main(["correct", "--model", str(model), QUESTION]) == 2
        written = capsys.readouterr().err
        assert (
            f"Expected a model with a tokenizer that can be read in {str(model)!r}" in written
            and written.count("\n") == 1
        )
