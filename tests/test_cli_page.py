"""docs/cli.md says of every command and option what the parsers say. A failure prints the table as it should be."""

import argparse
from pathlib import Path

import pytest

from trl_score import cli
from trl_score.callbacks import SIGTERM_EXIT_CODE
from trl_score.command_parser import USAGE_ERROR
from trl_score.exit_codes import NO_READER, STOPPED
from trl_score.programs.parser import ProgramParser

PAGE = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
COMMON = ("help", "config", "traceback")


def sections():
    """Heading -> text of each section."""
    heads = [part.partition("\n") for part in PAGE.split("\n## ")[1:]]
    return {head.strip("`"): text for head, _, text in heads}


def expected_rows(actions):
    return [f"| {written(action)} | {expanded(action)} |" for action in actions]


def written(action):
    """`--name VALUE`, or the placeholder of an argument without a name; a further value of a list as `...`."""
    name = " ".join([f"`{option}`" for option in action.option_strings]) or f"`{action.metavar}`"
    if not action.option_strings or action.nargs == 0:
        return name
    choices = "/".join(map(str, action.choices)) if action.choices else action.metavar
    return f"{name} {choices}{' ...' if action.nargs in ('+', '*') else ''}"


def expanded(action):
    return (action.help % {"default": action.default}).replace("|", "\\|")


def described_elsewhere(parser):
    """Options of a program that are not its own: those of configurations, which their own pages describe."""
    if not isinstance(parser, ProgramParser):
        return set()
    titles = [title for title in sections_of_parser(parser) if "ScriptArguments (trl_score)" not in title]
    of_classes = {action.dest for title in titles for action in sections_of_parser(parser)[title]}
    return of_classes | {action.dest for action in launcher_actions(parser)}


def launcher_actions(parser):
    return next(group._group_actions for group in parser._action_groups if group.title == "launcher")


def sections_of_parser(parser):
    """Title -> options of each section that is made of a dataclass."""
    return {group.title: group._group_actions for group in parser._action_groups if "(" in (group.title or "")}


def rows_of(section):
    return [line for line in section.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_of_a_command_is_on_the_page(name):
    parser = cli.make_command_parser(name, cli.load_command(name))
    actions = [action for action in parser._actions if action.dest not in COMMON]
    expected = expected_rows(action for action in actions if action.dest not in described_elsewhere(parser))
    section = sections().get(f"trl-score {name}", "")
    assert rows_of(section) == expected, "the table should be:\n" + "\n".join(expected)


@pytest.mark.parametrize("name", ["score", "cloud"])
def test_every_section_of_a_program_is_on_the_page(name):
    parser = cli.make_command_parser(name, cli.load_command(name))
    rows = [line for line in sections()[f"trl-score {name}"].splitlines() if line.startswith("| ")]
    titles = [row.split(" | ")[0].strip("| ") for row in rows]
    assert [title for title in titles if "(" in title and "`" not in title] == list(sections_of_parser(parser))


@pytest.mark.parametrize("name", ["score", "cloud"])
def test_the_usual_options_of_the_launcher_are_on_the_page(name):
    parser = cli.make_command_parser(name, cli.load_command(name))
    expected = expected_rows(action for action in launcher_actions(parser) if action.help != argparse.SUPPRESS)
    assert rows_of(sections()["The launcher"]) == expected, "the table should be:\n" + "\n".join(expected)


def test_what_all_commands_have_is_on_the_page():
    parser = cli.make_command_parser("plot", cli.load_command("plot"))
    expected = expected_rows(action for action in parser._actions if action.dest in COMMON)
    assert rows_of(sections()["Every command"]) == expected, "the table should be:\n" + "\n".join(expected)


def test_the_page_has_the_commands_in_their_order_with_their_summaries():
    listed = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| [`")]
    assert listed == [[f"[`{name}`](#trl-score-{name})", summary] for name, summary in cli.COMMANDS.items()]
    assert [head for head in sections() if head.startswith("trl-score ")] == [
        f"trl-score {name}" for name in cli.COMMANDS
    ]


def test_exit_codes_are_on_the_page():
    for code in (0, 1, USAGE_ERROR, STOPPED, NO_READER, SIGTERM_EXIT_CODE):
        assert f"| {code} |" in sections()["Exit codes"]
