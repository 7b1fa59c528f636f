"""
How many answers and updates a SCoRe run spends, and how a baseline spends as many.

An *answer* is one turn that the model generates: a two-turn rollout is two of them. An *update* is one optimizer step.
Pure and torch-free. The arithmetic with numbers in it: docs/baselines.md.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from trl_score.score.score_config import SCoReConfig


@dataclass(frozen=True)
class Budget:
    """
    What a run may spend.

    Args:
        updates (`int`):
            Optimizer steps.
        prompts (`int`):
            Prompts that rollouts are made of, counting each time that one is drawn.
        group_size (`int`):
            Rollouts of one prompt (G).

    Example:

    ```python
    >>> budget = Budget(updates=180, prompts=4320, group_size=8)
    >>> budget.rollouts, budget.answers
    (34560, 69120)

    ```
    """

    updates: int
    prompts: int
    group_size: int

    @property
    def rollouts(self) -> int:
        """`int`: Rollouts of two turns."""
        return self.prompts * self.group_size

    @property
    def answers(self) -> int:
        """`int`: Turns that the model generates in them."""
        return 2 * self.rollouts

    def __sub__(self, spent: "Budget") -> "Budget":
        """What is left after another run, of the same group size."""
        return Budget(self.updates - spent.updates, self.prompts - spent.prompts, self.group_size)

    def split(self, num_parts: int) -> list["Budget"]:
        """
        Cuts the budget into iterations that differ by one prompt and one update at most.

        Args:
            num_parts (`int`):
                Iterations.

        Returns:
            `list[Budget]`: their budgets, which add up to this one.

        Raises:
            `ValueError`: If an iteration would get no prompt or no update.

        Example:

        ```python
        >>> [(part.updates, part.prompts) for part in Budget(updates=7, prompts=9, group_size=2).split(3)]
        [(3, 3), (2, 3), (2, 3)]

        ```
        """
        if min(self.updates, self.prompts) < num_parts:
            raise ValueError(
                f"Each of {num_parts} iterations needs a prompt and an update, got a budget of {self.prompts} prompts "
                f"and {self.updates} updates. Raise `max_steps`."
            )
        parts = zip(_split_evenly(self.updates, num_parts), _split_evenly(self.prompts, num_parts), strict=True)
        return [Budget(updates, prompts, self.group_size) for updates, prompts in parts]


def _split_evenly(total: int, num_parts: int) -> list[int]:
    return [total // num_parts + (part < total % num_parts) for part in range(num_parts)]


@dataclass(frozen=True)
class Spent:
    """
    What a run did spend.

    Args:
        answers (`int`):
            Turns that were generated.
        updates (`int`):
            Optimizer steps.

    Example:

    ```python
    >>> Spent(answers=10, updates=1) + Spent(answers=6, updates=2)
    Spent(answers=16, updates=3)

    ```
    """

    answers: int
    updates: int

    def __add__(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(self.answers + other.answers, self.updates + other.updates)


@dataclass(frozen=True)
class Schedule:
    """
    When a SCoRe run makes rollouts and when it updates, in TRL's numbers.

    Args:
        generation_batch_size (`int`):
            Rollouts of one batch, on all processes.
        group_size (`int`):
            Rollouts of one prompt in it, `num_generations`.
        micro_batches_per_batch (`int`):
            Micro-batches that one rollout batch is used for: `steps_per_generation * num_iterations`.
        micro_batches_per_update (`int`):
            `gradient_accumulation_steps`.
        num_rows (`int`, *optional*):
            Rows of the training set; `None` where its length is not known.

    Example: a rollout batch of 192 for every update, 8 rollouts of a prompt.

    ```python
    >>> schedule = Schedule(192, 8, 1, 1, num_rows=8192)
    >>> schedule.budget(max_steps=180, num_train_epochs=3)
    Budget(updates=180, prompts=4320, group_size=8)

    ```
    """

    generation_batch_size: int
    group_size: int
    micro_batches_per_batch: int
    micro_batches_per_update: int
    num_rows: int | None = None

    @classmethod
    def of(cls, args: "SCoReConfig", num_rows: int | None = None) -> "Schedule":
        """
        Reads the schedule off a configuration.

        Args:
            args ([`SCoReConfig`]):
                The SCoRe run's.
            num_rows (`int`, *optional*):
                Rows of the training set.

        Returns:
            `Schedule`: its schedule.
        """
        # TRL's own __post_init__ has filled them in.
        return cls(
            generation_batch_size=cast(int, args.generation_batch_size),
            group_size=cast(int, args.num_generations),
            micro_batches_per_batch=cast(int, args.steps_per_generation) * args.num_iterations,
            micro_batches_per_update=args.gradient_accumulation_steps,
            num_rows=num_rows,
        )

    @property
    def prompts_per_batch(self) -> int:
        """`int`: Prompts of one rollout batch."""
        return self.generation_batch_size // self.group_size

    def budget(self, max_steps: int, num_train_epochs: float) -> Budget:
        """
        Adds up a run.

        Args:
            max_steps (`int`):
                Updates of the run; 0 or less: as many as `num_train_epochs` give.
            num_train_epochs (`float`):
                Passes over the training set, where `max_steps` does not say.

        Returns:
            `Budget`: what the run spends.

        Raises:
            `ValueError`: If neither says how long the run is.
        """
        if max_steps > 0:
            return self.budget_of_updates(max_steps)
        if self.num_rows is None:
            raise ValueError(
                f"A dataset of unknown length needs `max_steps`, got {max_steps}. Say how many updates the run has."
            )
        return self.budget_of_updates(math.ceil(num_train_epochs * self._updates_per_epoch(self.num_rows)))

    def budget_of_updates(self, updates: int) -> Budget:
        """
        Adds up the first updates of a run.

        Args:
            updates (`int`):
                How many.

        Returns:
            `Budget`: what they cost. A rollout batch that was begun counts as a whole.
        """
        micro_batches = updates * self.micro_batches_per_update
        if self.num_rows is not None:  # the last update of an epoch has what is left of its micro-batches
            epochs, rest = divmod(updates, self._updates_per_epoch(self.num_rows))
            whole_epochs = epochs * self._micro_batches_per_epoch(self.num_rows)
            micro_batches = whole_epochs + rest * self.micro_batches_per_update
        batches = math.ceil(micro_batches / self.micro_batches_per_batch)
        return Budget(updates, batches * self.prompts_per_batch, self.group_size)

    def _micro_batches_per_epoch(self, num_rows: int) -> int:
        return num_rows // self.prompts_per_batch * self.micro_batches_per_batch

    def _updates_per_epoch(self, num_rows: int) -> int:
        return max(math.ceil(self._micro_batches_per_epoch(num_rows) / self.micro_batches_per_update), 1)
