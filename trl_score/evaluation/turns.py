"""
What passes between the steps of an evaluation: rows, turns, and whoever answers. Torch-free.

    settings -> respondent (all turns of a batch) -> rewards of each turn -> records -> metrics -> table
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

Rows: TypeAlias = dict[str, list[Any]]
"""Some rows of a dataset: column -> a value of each row."""


@dataclass(frozen=True)
class AnsweredTurn:
    """
    One turn of some rows.

    Args:
        texts (`list[str]`):
            The text of each row; empty where there was no reply.
        truncated (`list[bool]`):
            Whether the length budget ended it.
        token_ids (`list[list[int]]`, *optional*):
            Its tokens, where they are known.
        failures (`dict[int, str]`, *optional*):
            Row, by its place in the batch -> why there was no reply. Later turns of that row are failures too.
    """

    texts: list[str]
    truncated: list[bool]
    token_ids: list[list[int]] | None = None
    failures: dict[int, str] = field(default_factory=dict)


class Respondent(Protocol):
    """Who answers in an evaluation: a model in memory, or an endpoint."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """`dict`: What tells it from another, as JSON can hold it."""
        ...

    def answer(self, rows: Rows, *, sample: int, seed: int) -> list[AnsweredTurn]:
        """
        Answers some rows, the same each time it is asked.

        Args:
            rows (`dict[str, list]`):
                The rows.
            sample (`int`):
                Which sample of them, from 0.
            seed (`int`):
                Of all that is drawn.

        Returns:
            `list[AnsweredTurn]`: the turns, each of all rows.
        """
        ...
