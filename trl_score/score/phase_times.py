"""The seconds that each phase of a step takes, for the log: together they are nearly those of the step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trl_score.log_keys import STEP_PHASES
from trl_score.score.turn_metrics import MetricWindow


@contextmanager
def measuring_seconds(key: str, window: MetricWindow, device: torch.device) -> Iterator[None]:
    """
    Measures what runs here, to its end on the device.

    Args:
        key (`str`):
            A key of `STEP_PHASES`.
        window ([`MetricWindow`]):
            Where the seconds are added.
        device (`torch.device`):
            The device that it runs on.
    """
    start = time.perf_counter()
    yield
    wait_for(device)
    add_seconds(key, time.perf_counter() - start, window)


def wait_for(device: torch.device) -> None:
    """
    Waits until a device has done what it was given, so that a phase's time is not counted in a later one.

    Args:
        device (`torch.device`):
            The device.
    """
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def add_seconds(key: str, seconds: float, window: MetricWindow) -> None:
    """
    Adds seconds of a phase; `count_step` then says over how many steps the mean is.

    Args:
        key (`str`):
            A key of `STEP_PHASES`.
        seconds (`float`):
            The seconds.
        window ([`MetricWindow`]):
            Where they are added.
    """
    window.add(key, seconds, count=0)


def count_step(window: MetricWindow, *, updates: bool) -> None:
    """
    Counts a step, or in evaluation a rollout batch.

    Args:
        window ([`MetricWindow`]):
            Where the seconds of its phases were added.
        updates (`bool`):
            Whether it updates the weights; without it the phases that do are left out.

    Example:

    ```python
    >>> window = MetricWindow()
    >>> add_seconds("score/seconds_rewards", 3.0, window)  # rollouts of two steps
    >>> for _ in range(2):
    ...     count_step(window, updates=True)
    >>> window.take_means()["score/seconds_rewards"]
    1.5

    ```
    """
    for key in STEP_PHASES:
        if updates or key not in ("score/seconds_update", "score/seconds_optimizer"):
            window.add(key, 0.0)
