"""Steps whose loss or gradient is NaN or infinite: they change nothing, are counted, and end the run if they go on.

Stands between the loss and the optimizer of both trainers. `trl_compat.EngineSeams` asks it before each step.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BATCH_FILE = "skipped_step_{step}_process_{process}.jsonl"
"""In the run's folder: what the last step that was skipped was trained on, one row a line."""


class StepGuard:
    """
    Keeps the micro-batches of a step until it is known whether the step is sound.

    Args:
        most_in_a_row (`int`):
            Steps in a row that may be skipped; at this many the run ends.

    Example:

    ```python
    >>> guard = StepGuard(most_in_a_row=2)
    >>> guard.add({"rewards": [0.5]}, is_finite=False)
    >>> guard.end_step(grad_norm=1.0), guard.num_in_a_row, guard.is_over
    (False, 1, False)
    >>> guard.end_step(grad_norm=float("nan")), guard.num_in_a_row, guard.is_over
    (False, 2, True)

    ```
    """

    def __init__(self, most_in_a_row: int) -> None:
        self.most_in_a_row = most_in_a_row
        self.num_in_a_row = 0
        self.batches: list[Mapping[str, Any]] = []
        self.is_loss_finite = True

    def add(self, batch: Mapping[str, Any], *, is_finite: bool) -> None:
        """
        Takes note of a micro-batch.

        Args:
            batch (`Mapping`):
                The micro-batch.
            is_finite (`bool`):
                Whether its loss is finite. Before the step ends, all processes must have come to the same.
        """
        self.batches.append(batch)
        self.is_loss_finite &= is_finite

    def end_step(self, grad_norm: float) -> bool:
        """
        Says whether the optimizer may take the step.

        Args:
            grad_norm (`float`):
                The gradient's norm, the same on all processes.

        Returns:
            `bool`: whether all losses of the step and its gradient are finite.
        """
        is_sound = self.is_loss_finite and math.isfinite(grad_norm)
        self.num_in_a_row = 0 if is_sound else self.num_in_a_row + 1
        self.is_loss_finite = True
        if not self.is_over:
            self.batches = []
        return is_sound

    @property
    def is_over(self) -> bool:
        """`bool`: Whether so many steps in a row were skipped that the run must end."""
        return self.num_in_a_row >= self.most_in_a_row


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """
    Writes rows as strict readers of JSON take them: no number is NaN or infinite, see `as_json`.

    Args:
        path (`pathlib.Path`):
            A JSON Lines file.
        rows (`Iterable[Mapping]`):
            The rows.
    """
    path.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def as_json(number: float) -> float | str:
    """
    Gives a number as strict readers of JSON take it, which know no NaN and no infinity.

    Args:
        number (`float`):
            The number.

    Returns:
        `float` or `str`: the number, or its name.

    Example:

    ```python
    >>> as_json(0.5), as_json(float("nan")), as_json(float("-inf"))
    (0.5, 'nan', '-inf')

    ```
    """
    return number if math.isfinite(number) else str(number)
