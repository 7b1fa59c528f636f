"""Options from the command line and from YAML: spelling, precedence, and what is refused with which words."""

import argparse

import pytest

from trl_score.command_parser import CommandParser, read_settings


def make_parser():
    parser = CommandParser("trl-score try", "Try something.")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--output", required=True)
    parser.add_argument("--max_turns", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--labels", nargs="+")
    parser.add_argument("--kind", choices=("fast", "slow"), default="fast")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--sample", action=argparse.BooleanOptionalAction, default=False)
    parser.add_common_arguments()
    return parser


@pytest.fixture
def config(tmp_path):
    def write(text):
        file = tmp_path / "options.yaml"
        file.write_text(text)
        return str(file)

    return write


def parse(*arguments):
    return make_parser().parse_command(arguments)


@pytest.mark.parametrize("option", ["--max_turns", "--max-turns"])
def test_either_line_joins_words(option):
    assert parse("a", "--output", "o", option, "3").max_turns == 3
    assert parse("a", "--output", "o", f"{option}=3").max_turns == 3


@pytest.mark.parametrize("option", ["--no-sample", "--no_sample"])
def test_no_takes_an_option_back(option, config):
    file = config("sample: true\n")
    assert parse("a", "--output", "o", "--config", file).sample is True
    assert parse("a", "--output", "o", "--config", file, option).sample is False


def test_a_file_gives_every_kind_of_option(config):
    file = config(
        "files: [a, b]\noutput: o\nmax-turns: 4\nrate: 1e-3\nlabels: one\nkind: slow\noverwrite: true\nsample: no\n"
    )
    options = parse("--config", file)
    assert (options.files, options.output, options.max_turns, options.labels) == (["a", "b"], "o", 4, ["one"])
    # YAML 1.1 reads `1e-3` as text.
    assert (options.rate, options.kind, options.overwrite, options.sample) == (0.001, "slow", True, False)


def test_the_command_line_overrides_the_file(config):
    file = config("files: [a, b]\noutput: o\nmax_turns: 4\nlabels: [x, y]\n")
    options = parse("c", "--config", file, "--max_turns", "5", "--labels", "z", "--output=p")
    assert (options.files, options.output, options.max_turns, options.labels) == (["c"], "p", 5, ["z"])


def test_what_the_file_leaves_out_keeps_its_default(config):
    options = parse("a", "--output", "o", "--config", config("labels: null\n"))
    assert (options.labels, options.max_turns, options.overwrite) == (None, 2, False)
    assert parse("a", "--output", "o", "--config", config("")).kind == "fast"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_turn: 3", r"unknown key 'max_turn' \(did you mean max_turns\?\)"),
        ("speed: 3", r"unknown key 'speed'\.$"),
        ("config: x", "unknown key 'config'"),
        ("max_turns: many", "'max_turns': expected what --max_turns takes, got 'many': invalid literal for int"),
        ("max_turns: [1, 2]", r"'max_turns': expected one value, got \[1, 2\]"),
        ("max_turns: null", "'max_turns': expected one value, got None. Leave the key out for the default."),
        ("kind: medium", r"'kind': expected one of \['fast', 'slow'\], got 'medium'"),
        ("overwrite: 1", "'overwrite': expected true or false, got 1"),
        ("output: yes", "'output': expected text, got True. Words that YAML reads as true or false need quotes."),
        ("- a\n- b", r"Expected options by name \(`key: value`\) in '.*', got a list"),
        ("a: b: c", "Expected YAML in '.*', got something else: mapping values are not allowed"),
    ],
)
def test_what_a_file_cannot_say(config, text, message):
    with pytest.raises(ValueError, match=message):
        parse("a", "--output", "o", "--config", config(text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a YAML file of options, got '.*nowhere\.yaml'"):
        read_settings(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--ouput", "o"), "unknown option --ouput (did you mean --output?). All options: trl-score try --help"),
        (("a", "--output", "o", "--xyzzy"), "unknown option --xyzzy. All"),
        (
            ("a", "--output", "o", "--max", "3"),
            "unknown option --max (did you mean --max_turns?). All",
        ),  # no abbreviations
        (("a", "--output", "o", "--max_turns", "x"), "argument --max_turns: invalid int value: 'x'"),
        (("a",), "the following arguments are required: --output"),
        (("a", "--output", "o", "--config"), "argument --config: expected one argument"),
    ],
)
def test_what_a_command_line_cannot_say(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 2
    written = capsys.readouterr().err
    assert written.startswith(f"trl-score try: {message}") and written.count("\n") == 1


def test_text_after_two_dashes_is_no_option():
    assert parse("--output", "o", "--", "--ouput").files == ["--ouput"]
    assert parse("--output", "o", "--what is this?").files == ["--what is this?"]


def test_help_needs_no_sound_file(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--config", "nowhere.yaml", "--help")
    assert stop.value.code == 0
    assert "common options:" in capsys.readouterr().out
