"""
The parser of a program: script arguments, configuration and model arguments as options, in sections, and from YAML.

Values are taken as TRL's own parser takes them; what is added is the nearest name to a mistyped one, a check of a
file's values that names the key, and a `--help` that is in order.
"""

import argparse
import inspect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trl import ModelConfig, TrlParser

import trl_score
from trl_score.command_parser import CommandParser, item_of
from trl_score.programs.options import CONFIGS, CLoudScriptArguments, SCoReScriptArguments

EMBEDDED_CONFIGS = {"score": CONFIGS / "adder.yaml", "cloud": CONFIGS / "cloud_quiz.yaml"}
"""What a program does without a configuration and without a model: the embedded task."""

ACCELERATE_CONFIGS = Path(trl_score.__file__).parent / "ds_configs"
"""The package's accelerate files, `accelerate_NAME.yaml`."""

USUAL_LAUNCHER_OPTIONS = (
    "num_processes",
    "num_machines",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "mixed_precision",
    "gpu_ids",
    "num_cpu_threads_per_process",
)
_OF_ACCELERATE_ALONE = ("help", "config_file", "module", "no_python", "env", "vm", "tpu_use_cluster", "tpu_use_sudo")

_LIBRARIES = {"trl_score": "trl_score", "trl": "TRL", "transformers": "Transformers"}
_PLACEHOLDERS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}


def option_classes(name: str) -> tuple[Any, ...]:
    """
    Gives the dataclasses whose fields are a program's options.

    Args:
        name (`str`):
            `"score"` or `"cloud"`.

    Returns:
        `tuple`: script arguments, configuration, model arguments.
    """
    if name == "score":
        from trl_score.score.score_config import SCoReConfig

        return SCoReScriptArguments, SCoReConfig, ModelConfig
    from trl_score.cloud.cloud_config import CLoudRewardConfig

    return CLoudScriptArguments, CLoudRewardConfig, ModelConfig


def make_program_parser(name: str, prog: str, description: str, *, launches: bool = False) -> "ProgramParser":
    """
    Makes the parser of a program.

    Args:
        name (`str`):
            `"score"` or `"cloud"`.
        prog (`str`):
            What the user typed up to here.
        description (`str`):
            What `--help` says first.
        launches (`bool`, *optional*, defaults to `False`):
            Whether the launcher's options are among them.

    Returns:
        [`ProgramParser`]: With all options.
    """
    return ProgramParser(prog, description.strip(), option_classes(name), str(EMBEDDED_CONFIGS[name]), launches)


class ProgramParser(CommandParser):
    """
    A [`CommandParser`] whose options are the fields of dataclasses, a section for each class that declares them.

    Args:
        prog (`str`):
            What the user typed up to here.
        description (`str`):
            What the program does.
        classes (`Sequence`):
            The dataclasses.
        default_config (`str`):
            The file to read where the command line names neither a file nor a model.
        launches (`bool`):
            Whether the launcher's options are among them. Where they are not, a file may still hold them: its launcher
            has read them.
    """

    def __init__(
        self, prog: str, description: str, classes: Sequence[Any], default_config: str, launches: bool
    ) -> None:
        super().__init__(prog, description)
        self.usage = f"{prog} [--config FILE] [options]"
        self.default_config = default_config
        for title, actions in sections_of(classes).items():
            group = self.add_argument_group(title)
            for action in actions:
                group._add_action(as_written_here(action))
        self.add_argument_group("checks").add_argument(
            "--dry_run",
            action="store_true",
            help="check options, data, template and rewards, print steps, tokens, disk and memory, and stop",
        )
        taken = {action.dest for action in self._actions}
        self._launcher = {action.dest: action for action in launcher_actions() if action.dest not in taken}
        self._launches = launches
        if launches:
            self._add_launcher()
        self.add_common_arguments()

    def _add_launcher(self) -> None:
        group = self.add_argument_group(
            "launcher", "All options of `accelerate launch` that no section above has; these are the usual ones."
        )
        group.add_argument(
            "--accelerate_config",
            metavar="NAME",
            default=argparse.SUPPRESS,
            help="an accelerate file, or one of the package's: " + ", ".join(accelerate_config_names()),
        )
        for action in self._launcher.values():
            group._add_action(action)
        self._launcher["accelerate_config"] = self._option_string_actions["--accelerate_config"]

    def parse_command(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        Parses a command line, and the file that it names with `--config`; see [`CommandParser`].

        The file may set environment variables, as TRL's may: `env` is a mapping of them.

        Args:
            arguments (`Sequence[str]`):
                What follows the program's name.

        Returns:
            `argparse.Namespace`: the options.
        """
        names_task = any(token.startswith(("--config", "--model_name_or_path", "--model-name")) for token in arguments)
        tokens = self._spell_as_declared([*([] if names_task else ["--config", self.default_config]), *arguments])
        options = super().parse_command(tokens)
        options.launcher = {name: vars(options).pop(name) for name in self._launcher if name in options}
        options.program_arguments, options.launcher_arguments = self._split(tokens)
        return options

    def _split(self, tokens: Sequence[str]) -> tuple[list[str], list[str]]:
        """Divides a command line into the program's and the launcher's, each of whose options takes a value or none."""
        program: list[str] = []
        launcher: list[str] = []
        remaining = iter(tokens)
        for token in remaining:
            name, equals, _ = token.removeprefix("--").partition("=")
            if self._launches and token.startswith("--") and name in self._launcher:
                launcher.append(token)
                launcher += [] if equals or self._launcher[name].nargs == 0 else [next(remaining)]
            else:
                program.append(token)
        return program, launcher

    def value_of(self, action: argparse.Action, value: Any, where: str) -> Any:
        """
        Takes a value of a file as TRL does: text and numbers as the command line, all else as YAML reads it.

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
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if action.nargs == 0:
            return super().value_of(action, value, where)
        if action.nargs == "+" and value is not None:
            return [item_of(action, item, where) for item in (value if isinstance(value, list) else [value])]
        if isinstance(value, str) or is_number or (action.type in (int, float) and value is not None):
            return item_of(action, value, where)
        return value

    def _take_defaults(self, settings: dict[str, Any], file: str) -> None:
        variables = settings.pop("env", None) or {}
        if not isinstance(variables, dict):
            raise ValueError(f"{file}, 'env': expected environment variables by name, got {variables!r}.")
        os.environ.update({name: str(value) for name, value in variables.items()})
        ignored = () if self._launches else (*self._launcher, "accelerate_config")
        super()._take_defaults({key: value for key, value in settings.items() if key not in ignored}, file)


def launcher_actions() -> Iterator[argparse.Action]:
    """
    Gives the options of `accelerate launch`, but for those that say what is launched. They have no defaults here:
    accelerate has its own. The usual ones alone are in `--help`.

    Yields:
        `argparse.Action`: an option, with a spelling of its own.
    """
    from accelerate.commands.launch import launch_command_parser

    for action in launch_command_parser()._actions:
        if action.option_strings and action.dest not in _OF_ACCELERATE_ALONE:
            action.option_strings = [f"--{action.dest}"]
            action.default = argparse.SUPPRESS
            has_own = action.nargs == 0 or action.choices is not None
            action.metavar = None if has_own else _PLACEHOLDERS.get(action.type, "VALUE")
            action.help = action.help if action.dest in USUAL_LAUNCHER_OPTIONS else argparse.SUPPRESS
            yield action


def accelerate_config_names() -> list[str]:
    """
    Lists the package's accelerate files.

    Returns:
        `list[str]`: their names, such as `zero2`.
    """
    files = sorted(ACCELERATE_CONFIGS.glob("accelerate_*.yaml"))
    return [file.stem.removeprefix("accelerate_") for file in files]


def sections_of(classes: Sequence[Any]) -> dict[str, list[argparse.Action]]:
    """
    Sorts the options of dataclasses by the class that declares them, our own first.

    Args:
        classes (`Sequence`):
            The dataclasses.

    Returns:
        `dict[str, list[argparse.Action]]`: options by the title of their section.
    """
    sections: dict[str, list[argparse.Action]] = {}
    for options in classes:
        of_class: dict[type, list[argparse.Action]] = {base: [] for base in options.__mro__}
        for action in TrlParser(options)._actions:
            if action.dest != "help":
                of_class[declaring_class(options, action.dest)].append(action)
        sections |= {title_of(base): actions for base, actions in of_class.items() if actions}
    return sections


def declaring_class(options: type, name: str) -> type:
    """
    Finds the class that declares a field, the last one if several do. A private class counts as the one below it.

    Args:
        options (`type`):
            A dataclass.
        name (`str`):
            One of its fields.

    Returns:
        `type`: The class.

    Example:
        >>> declaring_class(SCoReScriptArguments, "train_size").__name__
        'SCoReScriptArguments'
        >>> declaring_class(SCoReScriptArguments, "dataset_config").__name__
        'ScriptArguments'
    """
    public = options
    for base in options.__mro__:
        public = public if base.__name__.startswith("_") else base
        if name in inspect.get_annotations(base):
            return public
    raise ValueError(f"{options.__name__} has no field {name!r}.")


def title_of(options: type) -> str:
    """
    Gives the title of a class's section.

    Args:
        options (`type`):
            A dataclass.

    Returns:
        `str`: its name, and whose it is.

    Example:
        >>> title_of(ModelConfig)
        'ModelConfig (TRL)'
    """
    return f"{options.__name__} ({_LIBRARIES[options.__module__.partition('.')[0]]})"


def as_written_here(action: argparse.Action) -> argparse.Action:
    """
    Gives an option one spelling, a short placeholder, and its default in its help.

    Args:
        action (`argparse.Action`):
            An option of TRL's parser, which is changed.

    Returns:
        `argparse.Action`: The same.
    """
    action.option_strings = [option for option in action.option_strings if "-" not in option.lstrip("-")]
    if action.nargs != 0 and action.choices is None:
        is_bool = getattr(action.type, "__name__", "") == "string_to_bool"
        action.metavar = "true/false" if is_bool else _PLACEHOLDERS.get(action.type, "VALUE")
    if action.nargs != 0 and action.default is not None:
        action.help = f"{action.help or ''} (default: %(default)s)".strip()
    return action
