"""Exit codes of the command line, and what turns an error into one. Loads nothing but the standard library."""

import os
import sys
import traceback
from collections.abc import Callable

from trl_score.command_parser import USAGE_ERROR
from trl_score.user_errors import UserError

EXPECTED_ERRORS = (ValueError, OSError, UserError)
"""What a command raises where the user can help it: bad options or data, a file or a connection that is not there."""

STOPPED, NO_READER = 130, 141

WHILE_TRAINING = "(raised while training)"
"""The note on an error that came up when training had begun: its traceback is shown, whatever its type."""


def run_guarded(run: Callable[[], int], prog: str, shows_traceback: bool = False) -> int:
    """
    Runs something, and turns what the user can help into one sentence and an exit code. Any other error passes, and so
    does one that came up while training.

    Args:
        run (`Callable`):
            What to run; returns the exit code.
        prog (`str`):
            What the user typed, for the sentence.
        shows_traceback (`bool`, *optional*, defaults to `False`):
            Whether to print the traceback of an expected error too.

    Returns:
        `int`: The exit code.

    Example:
        >>> run_guarded(lambda: 0, "trl-score")
        0
    """
    try:
        code = run()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"{prog}: stopped.", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # Such as `trl-score ... | head`. Python would complain once more when it closes what nobody reads.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except EXPECTED_ERRORS as error:
        if WHILE_TRAINING in getattr(error, "__notes__", ()):
            raise
        if shows_traceback:
            traceback.print_exc()
        # Libraries below break their messages into lines; notes say what the package knows of the error.
        message = " ".join([str(error), *getattr(error, "__notes__", ())])
        print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
        return USAGE_ERROR
