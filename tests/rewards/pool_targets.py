"""What the worker pool is made to run in its tests. Loaded in the child by name, so it is a module and no test."""

import os
import signal
import sys
import time
from typing import Any


def act(payload: dict[str, Any]) -> Any:
    """Does one thing that a grader may do to its worker; `os._exit`, signals and `time.sleep` stand for C code."""
    (action, value), *_ = payload.items()
    actions = {
        "echo": lambda: value,
        "sleep": lambda: time.sleep(value),
        "power": lambda: len(str(7 ** (7**value))),
        "exit": lambda: os._exit(value),
        "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "memory": lambda: len(bytearray(value)),
        "raise": lambda: int(value),
        "pid": lambda: [os.getpid(), os.getppid()],
        "noise": lambda: os.write(1, b"noise\n") + sys.stdout.write("noise\n"),
        "environment": lambda: sorted(os.environ),
        "long": lambda: "x" * value,
    }
    return actions[action]()
