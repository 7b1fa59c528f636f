"""What a dataset row may set for itself: the length budget of each turn, and what is asked between the turns.

Stands before the rollout. A mixture of tasks ([`~trl_score.data.mix_tasks`]) writes these columns; a row without them,
or with `None` in them, goes by the run's own settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trl_score.records import BUDGET_COLUMNS, CORRECTION_COLUMN, Message
from trl_score.score.prompts import Correction

SETTING_COLUMNS = (*BUDGET_COLUMNS, CORRECTION_COLUMN)
"""The columns that a row may set something in."""


@dataclass(frozen=True)
class RowSetting:
    """
    How the rollouts of one row are made.

    Args:
        budgets (`tuple[int, int]`):
            Most tokens of turn 1 and of turn 2.
        correction ([`Correction`]):
            What stands between them.

    Example:

    ```python
    >>> setting = RowSetting((30, 20), Correction(closing_ids=[9], request_ids=[7, 8]))
    >>> setting.num_learned, setting.num_tokens
    (50, 53)

    ```
    """

    budgets: tuple[int, int]
    correction: Correction

    @property
    def num_learned(self) -> int:
        """`int`: The most tokens that the policy writes."""
        return sum(self.budgets)

    @property
    def num_tokens(self) -> int:
        """`int`: The most tokens that follow the prompt."""
        return self.num_learned + len(self.correction)


class RowSettings:
    """
    The settings of any row, each correction prompt read off the chat template once.

    Args:
        budgets (`tuple[int, int]`):
            The run's own budgets.
        correction_prompt (`str` or `list[dict]`):
            The run's own correction prompt.
        read_correction (`Callable`):
            `correction prompt -> Correction`, which refuses one that the template cannot take.

    Example:

    ```python
    >>> settings = RowSettings((30, 20), "Check it.", lambda prompt: Correction([9], [len(prompt)]))
    >>> settings.of({"prompt": "2+2="}) is settings.own
    True
    >>> own = {"max_completion_length_t1": 5, "max_completion_length_t2": None, "correction_prompt": "Again."}
    >>> settings.of({"prompt": "2+2=", **own})
    RowSetting(budgets=(5, 20), correction=Correction(closing_ids=[9], request_ids=[6]))

    ```
    """

    def __init__(
        self,
        budgets: tuple[int, int],
        correction_prompt: str | list[Message],
        read_correction: Callable[[str | list[Message]], Correction],
    ) -> None:
        self.own = RowSetting(budgets, read_correction(correction_prompt))
        self._read_correction = read_correction
        self._corrections: dict[str, Correction] = {}

    def of(self, row: Mapping[str, Any]) -> RowSetting:
        """
        Gives a row's settings.

        Args:
            row (`Mapping`):
                A dataset row.

        Returns:
            [`RowSetting`]: the run's own wherever the row sets nothing.

        Raises:
            `ValueError`: If a budget is not a whole number of at least 1, or a correction prompt is no text or not one
                that the chat template can take.
        """
        values = {column: row[column] for column in SETTING_COLUMNS if row.get(column) is not None}
        if not values:
            return self.own
        for column in BUDGET_COLUMNS:
            budget = values.get(column, 1)
            if not isinstance(budget, int) or budget < 1:
                raise ValueError(
                    f"Column {column!r} must hold whole numbers of at least 1 token, or None for the run's own budget, "
                    f"got {budget!r} for the prompt {str(row.get('prompt'))[:80]!r}."
                )
        budgets = zip(BUDGET_COLUMNS, self.own.budgets, strict=True)
        budget_t1, budget_t2 = (values.get(column, budget) for column, budget in budgets)
        return RowSetting((budget_t1, budget_t2), self._correction(values.get(CORRECTION_COLUMN)))

    def _correction(self, prompt: Any) -> Correction:
        if prompt is None:
            return self.own.correction
        if not isinstance(prompt, str):
            raise ValueError(
                f"Column {CORRECTION_COLUMN!r} must hold a user message's text, or None for the run's own, got "
                f"{prompt!r} of type {type(prompt).__name__}."
            )
        if prompt not in self._corrections:
            self._corrections[prompt] = self._read_correction(prompt)
        return self._corrections[prompt]
