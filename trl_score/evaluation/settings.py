"""
How an evaluation asks: turns, length budgets, the request between turns, samples, decoding; of a run, and of a row.

First step of an evaluation. A row of a mixture may carry its own request and budgets (`trl_score.data.mixtures`), and
a first turn made beforehand. Torch-free.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trl_score.evaluation.turns import Rows
from trl_score.records import BUDGET_COLUMNS, CORRECTION_COLUMN, Message
from trl_score.score.prompts import DEFAULT_CORRECTION_PROMPT, as_correction_messages


@dataclass(frozen=True)
class EvaluationSettings:
    """
    What is asked, how often, and how it is decoded. A run that is resumed must have the same.

    Args:
        max_completion_length (`int` or `Sequence[int]`):
            Most tokens of a turn: one number for all turns, or one for each.
        num_turns (`int`, *optional*, defaults to `2`):
            Turns of each problem.
        num_samples (`int`, *optional*, defaults to `1`):
            How often each problem is answered.
        correction_prompt (`str` or `list[dict]`, *optional*):
            What is asked between the turns. A row's column `correction_prompt` goes before it.
        offline_turn_1_column (`str`, *optional*):
            Dataset column with first turns made beforehand: a text, or a list of which sample k takes number k,
            beginning anew where there are fewer. In rows where it is `None` the model answers itself.
        do_sample (`bool`, *optional*, defaults to `False`):
            Whether to sample; greedy otherwise, as in the paper's tables.
        temperature (`float`, *optional*, defaults to `1.0`):
            Of sampling.
        batch_size (`int`, *optional*, defaults to `64`):
            Rows that are answered together. Greedy results do not depend on it.
        seed (`int`, *optional*, defaults to `0`):
            Of sampling and of the bootstrap.
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.

    Raises:
        `ValueError`: If a number is out of range, there is not one budget per turn, or several samples are asked for
            and all would be the same.

    Example:

    ```python
    >>> settings = EvaluationSettings(max_completion_length=(8, 12, 12), num_turns=3)
    >>> settings.row_budgets({"prompt": ["2+2?", "1+1?"], "max_completion_length_t2": [20, None]})
    [[8, 8], [20, 12], [20, 12]]

    ```
    """

    max_completion_length: int | Sequence[int]
    num_turns: int = 2
    num_samples: int = 1
    correction_prompt: str | list[Message] = DEFAULT_CORRECTION_PROMPT
    offline_turn_1_column: str | None = None
    do_sample: bool = False
    temperature: float = 1.0
    batch_size: int = 64
    seed: int = 0
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_turns", "num_samples", "batch_size"):
            if (value := self.__dict__[name]) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if len(self.budgets) != self.num_turns or min(self.budgets) < 1:
            raise ValueError(
                f"`max_completion_length` must be a number of tokens of at least 1, or one for each of "
                f"{self.num_turns} turns (`num_turns`), got {self.max_completion_length}."
            )
        if self.do_sample and self.temperature <= 0:
            raise ValueError(f"`temperature` must be above 0, got {self.temperature}. For greedy, leave sampling off.")
        # Given first turns may differ from sample to sample, and so may what follows them.
        if self.num_samples > 1 and not self.do_sample and self.offline_turn_1_column is None:
            raise ValueError(
                f"`num_samples` must be 1 for greedy decoding, whose samples are all the same, got {self.num_samples}. "
                "Turn `do_sample` on."
            )
        as_correction_messages(self.correction_prompt)

    @property
    def budgets(self) -> tuple[int, ...]:
        """`tuple[int, ...]`: Most tokens of each turn, where a row has no number of its own."""
        budget = self.max_completion_length
        return (budget,) * self.num_turns if isinstance(budget, int) else tuple(budget)

    def batch_seed(self, sample: int, number: int) -> int:
        """
        Gives the seed of a batch. It depends on nothing that was drawn before, so a run can go on in the middle.

        Args:
            sample (`int`):
                Which sample of the rows, from 0.
            number (`int`):
                Which batch of them, from 0.

        Returns:
            `int`: The seed.
        """
        digest = hashlib.sha256(f"{self.seed} {sample} {number}".encode()).digest()
        return int.from_bytes(digest[:6], "big")

    def row_budgets(self, rows: Rows) -> list[list[int]]:
        """
        Gives the length budgets of some rows.

        Args:
            rows (`dict[str, list]`):
                The rows. Turns after the second have the second turn's column.

        Returns:
            `list[list[int]]`: for each turn the most tokens of each row.

        Raises:
            `ValueError`: If a row's number is none, or below 1.
        """
        columns = [BUDGET_COLUMNS[min(turn, len(BUDGET_COLUMNS) - 1)] for turn in range(self.num_turns)]
        return [
            [budget if own is None else _checked_budget(own, column) for own in _column(rows, column)]
            for column, budget in zip(columns, self.budgets, strict=True)
        ]

    def row_correction_prompts(self, rows: Rows) -> list[str | list[Message]]:
        """
        Gives what is asked between the turns of some rows.

        Args:
            rows (`dict[str, list]`):
                The rows.

        Returns:
            `list`: a text, or messages, for each row.
        """
        return [self.correction_prompt if own is None else own for own in _column(rows, CORRECTION_COLUMN)]

    def given_first_turns(self, rows: Rows, sample: int) -> list[str | None]:
        """
        Gives the first turns that were made beforehand.

        Args:
            rows (`dict[str, list]`):
                The rows.
            sample (`int`):
                Which sample of them, from 0.

        Returns:
            `list[str | None]`: a text for each row; `None` where the model answers itself.

        Raises:
            `ValueError`: If a row has something else there.
        """
        if self.offline_turn_1_column is None:
            return [None] * len(rows["prompt"])
        return [self._given_first_turn(value, sample) for value in rows[self.offline_turn_1_column]]

    def _given_first_turn(self, value: Any, sample: int) -> str | None:
        if value is None:
            return None
        texts = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError(
                f"Column {self.offline_turn_1_column!r} must hold a first turn, a list of them, or None where the "
                f"model is to answer itself, got {value!r}. Fill it, or filter the row out."
            )
        return str(texts[sample % len(texts)])

    def as_dict(self) -> dict[str, Any]:
        """
        Gives the settings as JSON can hold them.

        Returns:
            `dict`: all of them; the length budget of each turn.
        """
        return {**asdict(self), "max_completion_length": list(self.budgets)}


def _column(rows: Rows, name: str) -> list[Any]:
    return rows[name] if name in rows else [None] * len(rows["prompt"])


def _checked_budget(value: Any, column: str) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(
            f"Column {column!r} must hold whole numbers of at least 1 token, or None for the run's own budget, got "
            f"{value!r}."
        )
    return value
