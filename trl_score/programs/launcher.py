"""
The launcher: a program on the processes that accelerate is told of, in the manner of `trl`'s own command line.

Where one process is asked for, and no accelerate file says otherwise, the program runs in this one.
"""

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from trl_score.command_parser import nearest, read_settings
from trl_score.exit_codes import STOPPED
from trl_score.programs.parser import ACCELERATE_CONFIGS, accelerate_config_names
from trl_score.programs.run import run_with_options

_SECONDS_TO_STOP = 5.0
_NUMBERS_AND_PRECISION = ("num_processes", "num_cpu_threads_per_process", "mixed_precision", "main_process_port")


def start(name: str, options: argparse.Namespace) -> int:
    """
    Runs a program: here, or on processes that are launched. Where a launcher has started this process it runs here.

    Args:
        name (`str`):
            `"score"` or `"cloud"`.
        options (`argparse.Namespace`):
            What the program's parser gave.

    Returns:
        `int`: The exit code, of a launched program that of its first process to fail.

    Raises:
        ValueError: If the launcher's options are given to a process that is launched already, name no file, or would
            start fewer processes than they say.
    """
    if is_launched(os.environ):
        if options.launcher_arguments:
            raise ValueError(
                f"A launcher has started this process, and so it launches none: expected no launcher options, got "
                f"`{' '.join(options.launcher_arguments)}`. Give them to that launcher."
            )
        return run_with_options(name, options)
    if options.dry_run or not needs_launch(options.launcher):
        return run_with_options(name, options)
    check_processes(options.launcher)
    return launch([*launcher_arguments(options.launcher), "--module", "trl_score.programs", name], options)


def is_launched(environment: Mapping[str, str]) -> bool:
    """
    Tells whether `torchrun` or `accelerate launch` has started this process.

    Args:
        environment (`Mapping[str, str]`):
            Environment variables.

    Returns:
        `bool`: whether there is a rank, or what accelerate gives its single process.

    Example:
        >>> is_launched({"RANK": "0"}), is_launched({"ACCELERATE_MIXED_PRECISION": "bf16"})
        (True, False)
    """
    is_single = {"ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"} <= environment.keys()
    return "RANK" in environment or "LOCAL_RANK" in environment or is_single


def needs_launch(given: Mapping[str, object]) -> bool:
    """
    Tells whether `accelerate launch` would do anything but start one process.

    Args:
        given (`Mapping[str, Any]`):
            The launcher's options.

    Returns:
        `bool`: whether any is given, there is a default file of accelerate's, or several devices.
    """
    import torch
    from accelerate.commands.config.config_args import default_config_file

    return bool(given) or Path(default_config_file).is_file() or torch.accelerator.device_count() > 1


def check_processes(given: Mapping[str, object]) -> None:
    """
    Refuses several processes of which `accelerate launch` would start one, without a word: it takes a number of
    processes for one of GPUs, unless it is told what they are.

    Args:
        given (`Mapping[str, Any]`):
            The launcher's options.

    Raises:
        ValueError: If nothing but their number is given, and there are not several devices.

    Example:
        >>> check_processes({"num_processes": 2, "multi_gpu": True})
    """
    import torch
    from accelerate.commands.config.config_args import default_config_file

    number = int(str(given.get("num_processes", 1)))
    says_how = any(value for option, value in given.items() if option not in _NUMBERS_AND_PRECISION)
    has_default = Path(default_config_file).is_file()
    if number > 1 and not says_how and not has_default and torch.accelerator.device_count() <= 1:
        raise ValueError(
            f"`--num_processes {number}` alone would start one process here, where there are not several devices. Add "
            "`--multi_gpu`, and `--use_cpu` for processes on CPUs, or name an `--accelerate_config`."
        )


def launcher_arguments(given: Mapping[str, object]) -> list[str]:
    """
    Writes the launcher's options as `accelerate launch` reads them.

    Args:
        given (`Mapping[str, Any]`):
            Values by name; `accelerate_config` is a file or the name of one of ours.

    Returns:
        `list[str]`: The command line.

    Raises:
        ValueError: If there is no such file.

    Example:
        >>> launcher_arguments({"num_processes": 2, "multi_gpu": True, "tpu": False})
        ['--num_processes', '2', '--multi_gpu']
    """
    arguments: list[str] = []
    for name, value in given.items():
        if name == "accelerate_config":
            arguments += ["--config_file", str(accelerate_config_file(str(value)))]
        elif value is True:
            arguments.append(f"--{name}")
        elif value is not None and value is not False:
            arguments += [f"--{name}", str(value)]
    return arguments


def accelerate_config_file(name: str) -> Path:
    """
    Finds an accelerate file.

    Args:
        name (`str`):
            A file, or the name of one of the package's, such as `zero2`.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If it is neither, or the file is no YAML.

    Example:
        >>> accelerate_config_file("zero2").name
        'accelerate_zero2.yaml'
    """
    own = ACCELERATE_CONFIGS / f"accelerate_{name}.yaml"
    if Path(name).is_file():
        read_settings(name)  # what is no YAML is told here, in one sentence
        return Path(name)
    if own.is_file():
        return own
    known = accelerate_config_names()
    raise ValueError(
        f"`--accelerate_config` takes a file or one of {', '.join(known)}, got {name!r}{nearest(name, known)}."
    )


def launch(arguments: Sequence[str], options: argparse.Namespace) -> int:
    """
    Starts processes as `accelerate launch` does, and waits for them.

    Args:
        arguments (`Sequence[str]`):
            The launcher's command line, up to the program's name.
        options (`argparse.Namespace`):
            With what stands on the command line for the program.

    Returns:
        `int`: The exit code of the first process to fail, as a shell gives it; 0 if none did.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parsed = launch_command_parser().parse_args([*arguments, *options.program_arguments])
    try:
        with terminating_children():
            launch_command(parsed)
    except subprocess.CalledProcessError as error:
        return shell_code(error.returncode)
    except ChildFailedError as error:
        return shell_code(error.get_first_failure()[1].exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    except KeyboardInterrupt:
        stop_children()
        return STOPPED
    return 0


def shell_code(code: int) -> int:
    """
    Gives an exit code as a shell does.

    Args:
        code (`int`):
            Of a process; negative where a signal ended it.

    Returns:
        `int`: 128 and the signal, or the code.

    Example:
        >>> shell_code(2), shell_code(-15)
        (2, 143)
    """
    return 128 - code if code < 0 else code


@contextmanager
def terminating_children() -> Iterator[None]:
    """While it is open, a SIGTERM goes to the processes that this one has started, which save and end."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in children():
            os.kill(child, number)

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def children() -> list[int]:
    """
    Lists the processes that the main thread of this one has started and that are not waited for.

    Returns:
        `list[int]`: their ids.
    """
    return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def stop_children() -> None:
    """Waits for processes that a Ctrl-C has reached too, and ends with a SIGTERM those that it has not."""
    deadline = time.monotonic() + _SECONDS_TO_STOP
    asked = False
    for child in children():
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline and not asked:
                os.kill(child, signal.SIGTERM)
                asked = True
            time.sleep(0.1)
