"""The memory that each phase of a step takes, for the log."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trl_score.score.turn_metrics import MetricWindow

GIB = 1024**3


class PhaseMemory:
    """
    Measures phases, where it is asked to.

    Args:
        device (`torch.device`):
            The device that training runs on.
        is_on (`bool`):
            Whether to measure at all.

    Example:

    ```python
    >>> window = MetricWindow()
    >>> with PhaseMemory(torch.device("cpu"), is_on=True).measuring("update", window):
    ...     pass
    >>> list(window.take_means())
    ['score/memory_update']

    ```
    """

    def __init__(self, device: torch.device, is_on: bool) -> None:
        self.device = device
        self.is_on = is_on

    def begin(self) -> None:
        """A phase begins."""
        if self.is_on and self.device.type != "cpu":
            torch.get_device_module(self.device).reset_peak_memory_stats(self.device)

    def end(self, phase: str, window: MetricWindow) -> None:
        """
        A phase ends, and what it took is added to the log.

        Args:
            phase (`str`):
                Its name, as in `score/memory_generation`.
            window ([`MetricWindow`]):
                Where it is added.
        """
        if self.is_on:
            window.add(f"score/memory_{phase}", self.most_held() / GIB)

    @contextmanager
    def measuring(self, phase: str, window: MetricWindow) -> Iterator[None]:
        """A phase that begins and ends here."""
        self.begin()
        yield
        self.end(phase, window)

    def most_held(self) -> int:
        """
        Gives the most memory that was held since the phase began; on a CPU, since the process began.

        Returns:
            `int`: bytes, on an accelerator those of tensors.
        """
        if self.device.type != "cpu":
            return int(torch.get_device_module(self.device).max_memory_allocated(self.device))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
