"""
`trl-score`: one command line for training, evaluation and pictures. `python -m trl_score` is the same.

A command is a module of `trl_score.commands`, imported when it is named, so that `trl-score --help` loads no model
library. Exit codes: 0 done, 1 an error of ours (with its traceback), 2 what the user can help (one sentence), 130
stopped by Ctrl-C, 141 nobody reads the output any longer.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from trl_score import __version__
from trl_score.command_parser import CommandParser, nearest
from trl_score.exit_codes import run_guarded

COMMANDS = {
    "score": "train a model to correct itself",
    "cloud": "train a reward model that criticises",
    "critiques": "let a reward model criticise preference data",
    "evaluate": "measure how well a model corrects itself",
    "correct": "try a model by hand, all turns side by side",
    "plot": "draw the figures of one run, or of several over each other",
    "report": "write one HTML page on a run",
    "merge": "merge an adapter into its base model",
    "push": "push a run's folder to the Hub",
    "env": "print what a bug report needs",
}
"""Each command and what it does, in the order of `--help`; the module `trl_score.commands.NAME` is it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        arguments (`Sequence[str]`, *optional*):
            The command line without the program's name. By default that of the process.

    Returns:
        `int`: The exit code.

    Raises:
        SystemExit: After `--help` and `--version`, or if the command line cannot be parsed.

    Example:
        >>> main(["--version"])
        Traceback (most recent call last):
        SystemExit: 0
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    top = make_top_parser()
    name = top.parse_args(tokens[:1]).command
    if name not in COMMANDS:
        top.error(f"unknown command {name!r}" + nearest(name, COMMANDS))

    def run() -> int:
        module = load_command(name)
        return int(module.run(make_command_parser(name, module).parse_command(tokens[1:])))

    return run_guarded(run, f"trl-score {name}", shows_traceback="--traceback" in tokens)


def make_top_parser() -> CommandParser:
    """
    Makes the parser of what stands before the command's options.

    Returns:
        [`CommandParser`]: It knows `--help`, `--version` and the command's name.
    """
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    description = "Train language models to correct themselves (SCoRe) and to criticise (CLoud).\n\ncommands:\n"
    parser = CommandParser("trl-score", description + "\n".join(lines))
    parser.usage = "trl-score COMMAND [options]"
    parser.epilog = "Options of a command: trl-score COMMAND --help"
    parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="help", help="show this help and exit")
    parser.add_argument("--version", action="version", version=f"trl_score {__version__}", help="show the version")
    return parser


def load_command(name: str) -> ModuleType:
    """
    Imports the module of a command.

    Args:
        name (`str`):
            One of `COMMANDS`.

    Returns:
        `ModuleType`: The module, with `run`, and `add_arguments` or `make_parser`.
    """
    return import_module(f"trl_score.commands.{name}")


def make_command_parser(name: str, module: ModuleType) -> CommandParser:
    """
    Makes the parser of a command.

    Args:
        name (`str`):
            One of `COMMANDS`.
        module (`ModuleType`):
            Its module.

    Returns:
        [`CommandParser`]: With the command's own options and the common ones.
    """
    prog, description = f"trl-score {name}", (module.__doc__ or "").strip()
    if hasattr(module, "make_parser"):
        parser: CommandParser = module.make_parser(prog, description)
        return parser
    parser = CommandParser(prog, description)
    module.add_arguments(parser)
    parser.add_common_arguments()
    return parser
