"""Runs a program in this process: from a command line to an exit code."""

import argparse
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import TracebackType
from typing import Any

from transformers import TrainerCallback
from trl import TrlParser

from trl_score.exit_codes import EXPECTED_ERRORS, WHILE_TRAINING, run_guarded
from trl_score.programs.parser import make_program_parser, option_classes


def run_program(name: str, arguments: Sequence[str], prog: str, description: str | None = None) -> int:
    """
    Runs a program with a command line.

    Args:
        name (`str`):
            `"score"` or `"cloud"`.
        arguments (`Sequence[str]`):
            The options.
        prog (`str`):
            What the user typed, for messages and `--help`.
        description (`str`, *optional*):
            What `--help` says first.

    Returns:
        `int`: The exit code.

    Raises:
        SystemExit: After `--help`, or if the command line cannot be parsed.
    """
    parser = make_program_parser(name, prog, description or "")
    return run_guarded(
        lambda: run_with_options(name, parser.parse_command(arguments)), prog, "--traceback" in arguments
    )


def run_with_options(name: str, options: argparse.Namespace) -> int:
    """
    Runs a program with its options, which are checked by making configurations of them.

    Args:
        name (`str`):
            `"score"` or `"cloud"`.
        options (`argparse.Namespace`):
            What the parser of the program gave.

    Returns:
        `int`: The exit code.
    """
    # TRL's defaults use names that transformers is about to rename.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if options.dry_run:
        return int(import_module("trl_score.programs.dry_run").dry_run(name, options))
    import_module(f"trl_score.programs.{name}").main(*configurations(name, options))
    return 0


def configurations(name: str, options: argparse.Namespace) -> tuple[Any, ...]:
    """
    Makes script arguments, configuration and model arguments.

    Args:
        name (`str`):
            `"score"` or `"cloud"`.
        options (`argparse.Namespace`):
            What the parser of the program gave.

    Returns:
        `tuple`: an instance of each of the program's dataclasses.
    """
    return TrlParser(option_classes(name)).parse_dict(vars(options), allow_extra_keys=True)


class TrainingErrors(TrainerCallback):
    """
    Marks what is raised once training has begun, so that its traceback is shown: a `ValueError` is then nothing that
    other options would help.

    A callback of the trainer, and a context around its `train`.

    Args:
        has_begun (`bool`, *optional*, defaults to `False`):
            Whether to mark all errors, without waiting for a training to begin.
    """

    def __init__(self, has_begun: bool = False) -> None:
        self.has_begun = has_begun

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes note."""
        self.has_begun = True

    def __enter__(self) -> "TrainingErrors":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.has_begun and isinstance(error, EXPECTED_ERRORS):
            error.add_note(WHILE_TRAINING)
