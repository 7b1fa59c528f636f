"""
The parser of a command: options from the command line and from a YAML file, names nearest to a mistyped one.

An option is written with underscores, `--max_new_tokens`, as TRL writes it; `--max-new-tokens` is the same. In a file
of `--config` it is the key `max_new_tokens`. What stands on the command line overrides the file.
"""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

USAGE_ERROR = 2
"""Exit code where the user can help it: a wrong option, a missing file, data that cannot be used."""

_COMMON = ("help", "config", "traceback")


class CommandParser(argparse.ArgumentParser):
    """
    An `argparse.ArgumentParser` that also reads YAML, and answers a mistake with one sentence.

    Args:
        prog (`str`):
            What the user typed up to here, such as `trl-score plot`.
        description (`str`):
            What the command does, with examples; line breaks are kept.

    Example:
        >>> parser = CommandParser("trl-score plot", "Draw figures.")
        >>> _ = parser.add_argument("--max_turns", type=int, default=2)
        >>> parser.parse_command(["--max-turns", "3"]).max_turns
        3
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )

    def add_common_arguments(self) -> None:
        """Adds what every command has, below its own options."""
        common = self.add_argument_group("common options")
        common.add_argument("-h", "--help", action="help", help="show this help and exit")
        common.add_argument(
            "--config", metavar="FILE", help="YAML file with options by name; the command line overrides"
        )
        common.add_argument("--traceback", action="store_true", help="show where in the code an error was found")

    def parse_command(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        Parses a command line, and the file that it names with `--config`.

        Args:
            arguments (`Sequence[str]`):
                What follows the command's name.

        Returns:
            `argparse.Namespace`: the options.

        Raises:
            FileNotFoundError: If the file of `--config` does not exist.
            ValueError: If it is no mapping in YAML, or holds a key or a value that the command does not have.
            SystemExit: If the command line cannot be parsed (code 2), or asks for help (code 0).
        """
        tokens = self._spell_as_declared(arguments)
        finder = CommandParser(self.prog, "")
        finder.add_argument("--config")
        file = finder.parse_known_args(tokens)[0].config
        asks_for_help = any(token in ("-h", "--help") for token in tokens)
        if file is not None and not asks_for_help:
            self._take_defaults(read_settings(file), file)
        return self.parse_args(tokens)

    def error(self, message: str) -> NoReturn:
        """
        Ends the program with one sentence and the code of a user's mistake.

        Args:
            message (`str`):
                What is wrong.
        """
        self.exit(USAGE_ERROR, f"{self.prog}: {message}. All options: {self.prog} --help\n")

    def value_of(self, action: argparse.Action, value: Any, where: str) -> Any:
        """
        Checks a value of a file as argparse checks one of the command line.

        Args:
            action (`argparse.Action`):
                The option.
            value (`Any`):
                What YAML reads.
            where (`str`):
                The file and the key, for the message.

        Returns:
            `Any`: the option's value.

        Raises:
            ValueError: If the option cannot have it.
        """
        if value is None and action.default is None:
            return None
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise ValueError(f"{where}: expected true or false, got {value!r}.")
            return value
        if action.nargs in ("+", "*") or isinstance(action.nargs, int):
            return [item_of(action, item, where) for item in (value if isinstance(value, list) else [value])]
        return item_of(action, value, where)

    def _spell_as_declared(self, arguments: Sequence[str]) -> list[str]:
        """Writes each option as it was declared, whichever of `-` and `_` it was typed with; refuses unknown ones."""
        declared = {_key(option): option for option in self._option_string_actions if option.startswith("--")}
        end = arguments.index("--") if "--" in arguments else len(arguments)
        tokens = list(arguments)
        for index, token in enumerate(arguments[:end]):
            if token.startswith("--") and " " not in token.partition("=")[0]:
                name, equals, value = token.partition("=")
                if _key(name) not in declared:
                    self.error(f"unknown option {name}" + nearest(name, declared.values()))
                tokens[index] = declared[_key(name)] + equals + value
        return tokens

    def _take_defaults(self, settings: dict[str, Any], file: str) -> None:
        actions = {_key(action.dest): action for action in self._actions if action.dest not in _COMMON}
        for key, value in settings.items():
            if _key(str(key)) not in actions:
                raise ValueError(f"{file}: unknown key {str(key)!r}{nearest(str(key), actions)}.")
            action = actions[_key(str(key))]
            self.set_defaults(**{action.dest: self.value_of(action, value, f"{file}, {key!r}")})
            action.required = False
            if not action.option_strings:  # a positional argument: what the command line gives takes its place
                action.nargs = "?" if action.nargs is None else "*"


def read_settings(file: str | Path) -> dict[str, Any]:
    """
    Reads the options of a YAML file.

    Args:
        file (`str` or `Path`):
            The file.

    Returns:
        `dict[str, Any]`: values by key; empty if the file is.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, or no mapping.
    """
    import yaml

    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a YAML file of options, got {str(file)!r}, which is no file.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"Expected YAML in {str(file)!r}, got something else: {error}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ValueError(f"Expected options by name (`key: value`) in {str(file)!r}, got a {type(settings).__name__}.")
    return settings


def nearest(name: str, known: Iterable[str]) -> str:
    """
    Suggests what a mistyped name may have meant.

    Args:
        name (`str`):
            What was typed.
        known (`Iterable[str]`):
            The names there are.

    Returns:
        `str`: how a sentence goes on, empty if nothing is near.

    Example:
        >>> nearest("--ouput", ["--output", "--overwrite"])
        ' (did you mean --output?)'
        >>> nearest("--speed", ["--output"])
        ''
    """
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _key(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def item_of(action: argparse.Action, value: Any, where: str) -> Any:
    """
    Converts one value of a file as the command line would, and checks it against the option's choices.

    Args:
        action (`argparse.Action`):
            The option.
        value (`Any`):
            What YAML reads.
        where (`str`):
            The file and the key, for the message.

    Returns:
        `Any`: the value.

    Raises:
        ValueError: If it is none, or not one that the option takes.
    """
    if value is None or isinstance(value, (list, dict)):
        raise ValueError(f"{where}: expected one value, got {value!r}. Leave the key out for the default.")
    if isinstance(value, bool) and action.type is None:
        raise ValueError(f"{where}: expected text, got {value!r}. Words that YAML reads as true or false need quotes.")
    convert: Any = action.type or str
    try:
        item = convert(str(value))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{where}: expected what --{action.dest} takes, got {value!r}: {error}") from error
    if action.choices is not None and item not in action.choices:
        raise ValueError(f"{where}: expected one of {list(action.choices)}, got {value!r}.")
    return item
