"""Scoring one turn at a time with reward functions that know nothing of turns.

A reward function written for GRPOTrainer sees each turn as an ordinary completion. One that wants to know more names
it: `turn` (1 or 2) and `completions_t1` (the first turns, when it scores the second). What comes back is checked here,
so that a wrong length, a wrong type or a NaN is an error that names the function and the row, and never a reward.

Turn 1 can be scored ahead, in one background thread, while turn 2 is being generated.
"""

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from trl_score.records import Completion, RewardFunc
from trl_score.score.scoring_watch import BackgroundThread, Scoring, ScoringWatch

logger = logging.getLogger(__name__)

TURN_ARGUMENTS = ("turn", "completions_t1")
"""What a reward function may name, beyond TRL's arguments and the dataset's columns."""


@dataclass
class TurnContext:
    """
    Which turn is being scored; the trainer sets it, the wrapped reward functions read it.

    Args:
        turn (`int`, *optional*, defaults to `1`):
            1 or 2.
        completions_t1 (`list`, *optional*):
            The first turns of the batch.
        watch ([`ScoringWatch`], *optional*):
            Gives each turn its time; by default scoring may take any.
        keeps_errors (`bool`, *optional*, defaults to `False`):
            Whether an error is kept in `error`, with rewards of 0 in its place, so that all processes can agree on it
            before it is raised. Without it an error is raised where it occurs.
        error (`Exception`, *optional*):
            The first error that was kept.
    """

    turn: int = 1
    completions_t1: list[Completion] = field(default_factory=list)
    watch: ScoringWatch = field(default_factory=ScoringWatch)
    keeps_errors: bool = False
    error: Exception | None = None

    def take_error(self) -> Exception | None:
        """Gives the error that was kept, once."""
        error, self.error = self.error, None
        return error


def check_turn_rewards(values: Any, num_expected: int, *, name: str, turn: int) -> list[float | None]:
    """
    Checks what a reward function returned.

    Args:
        values (`Sequence`):
            One number or `None` per completion.
        num_expected (`int`):
            How many there must be.
        name (`str`):
            The function's name, for the message.
        turn (`int`):
            The turn that was scored, for the message.

    Returns:
        `list[float | None]`: the values as floats; `None` stays `None` (could not be scored).

    Raises:
        `TypeError`: If `values` is no sequence, or an entry is neither a number nor `None`.
        `ValueError`: If the number of values is wrong, or one is NaN or infinite.

    Example:

    ```python
    >>> check_turn_rewards([1, None, 0.5], 3, name="accuracy", turn=2)
    [1.0, None, 0.5]
    >>> check_turn_rewards([1.0, float("nan")], 2, name="accuracy", turn=1)
    Traceback (most recent call last):
        ...
    ValueError: Reward function 'accuracy' returned nan for row 1 of turn 1; expected a finite number, or None ...

    ```
    """
    try:
        values = list(values)
    except TypeError as error:
        raise TypeError(
            f"Reward function {name!r} must return one number or None per completion, got {type(values).__name__} for "
            f"turn {turn}. Return a list of {num_expected}."
        ) from error
    if len(values) != num_expected:
        raise ValueError(
            f"Reward function {name!r} returned {len(values)} rewards for the {num_expected} completions of turn "
            f"{turn}. Return exactly one per completion, None for one that cannot be scored."
        )
    return [_check_value(value, f"row {row} of turn {turn}", name) for row, value in enumerate(values)]


def _check_value(value: Any, where: str, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        raise TypeError(
            f"Reward function {name!r} returned {value!r} of type {type(value).__name__} for {where}; expected a "
            "number or None."
        )
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Reward function {name!r} returned {value!r} of type {type(value).__name__} for {where}; expected a "
            "number or None."
        ) from error
    if not math.isfinite(number):
        raise ValueError(
            f"Reward function {name!r} returned {number} for {where}; expected a finite number, or None for a "
            "completion that cannot be scored."
        )
    return number


class TurnReward:
    """
    A synchronous reward function, scoring one turn at a time.

    Args:
        func (`Callable`):
            The user's reward function.
        name (`str`):
            The name it is logged under.
        context ([`TurnContext`]):
            Which turn is being scored.

    Example:

    ```python
    >>> def is_four(completions, **kwargs):
    ...     return [float(completion == "4") for completion in completions]
    >>> reward = TurnReward(is_four, "is_four", TurnContext(turn=1))
    >>> reward(completions=["4", "5"])
    [1.0, 0.0]

    ```
    """

    def __init__(self, func: RewardFunc, name: str, context: TurnContext) -> None:
        self.func = func
        self.__name__ = name
        self.context = context
        self.can_run_in_thread = True
        self._ahead: Future[list[float | None]] | None = None
        self._wanted = _wanted_turn_arguments(func)

    def start(self, background: BackgroundThread, **kwargs: Any) -> None:
        """
        Begins to score turn 1 in the background; the next call for turn 1 returns what comes of it.

        Args:
            background ([`BackgroundThread`]):
                Where it runs.
            kwargs:
                What a call for turn 1 would be given.
        """
        if self.can_run_in_thread:
            self._ahead = background.submit(self._score, 1, kwargs["completions"], kwargs)

    def __call__(self, **kwargs: Any) -> list[float | None]:
        """
        Scores the context's turn.

        Args:
            kwargs:
                TRL's arguments of a reward function.

        Returns:
            `list[float | None]`: one per completion.

        Raises:
            `TypeError`, `ValueError`: If the function's result is wrong, see `check_turn_rewards`.
            `TimeoutError`: If it takes too long.
        """
        try:
            return self._rewards(kwargs)
        except Exception as error:
            if not self.context.keeps_errors:
                raise
            self.context.error = self.context.error or error
            return [0.0] * len(kwargs["completions"])

    def _rewards(self, kwargs: dict[str, Any]) -> list[float | None]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and self.context.turn == 1:
            try:
                return self.context.watch.result_of(ahead, Scoring(self.__name__, 1, kwargs["completions"]))
            except (ValueError, RuntimeError) as error:
                if not _needs_main_thread(error):
                    raise
                logger.warning(
                    "Reward function %r works in the main thread only (%s), so turn 1 is no longer scored while turn 2 "
                    "is generated.",
                    self.__name__,
                    error,
                )
                self.can_run_in_thread = False
        return self._score(self.context.turn, self.context.completions_t1, kwargs)

    def _score(self, turn: int, completions_t1: list[Completion], kwargs: dict[str, Any]) -> list[float | None]:
        call_kwargs = _turn_kwargs(self._wanted, turn, completions_t1, kwargs)
        try:
            with self.context.watch.over(self.__name__, turn, kwargs["completions"]):
                values = self.func(**call_kwargs)
        except Exception as error:  # re-raised as it is: only the place is added
            error.add_note(f"Raised by reward function {self.__name__!r} while it scored turn {turn}.")
            raise
        return check_turn_rewards(values, len(kwargs["completions"]), name=self.__name__, turn=turn)


class AsyncTurnReward:
    """
    An asynchronous reward function, scoring one turn at a time.

    Args:
        func (`Callable`):
            The user's coroutine function.
        name (`str`):
            The name it is logged under.
        context ([`TurnContext`]):
            Which turn is being scored.
    """

    def __init__(self, func: Callable[..., Any], name: str, context: TurnContext) -> None:
        self.func = func
        self.__name__ = name
        self.context = context
        self._ahead: Future[list[float | None]] | None = None
        self._wanted = _wanted_turn_arguments(func)

    def start(self, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        """
        Begins to score turn 1 on the event loop; the next call for turn 1 returns what comes of it.

        Args:
            loop (`asyncio.AbstractEventLoop`):
                Where it runs.
            kwargs:
                What a call for turn 1 would be given.
        """
        self._ahead = asyncio.run_coroutine_threadsafe(self._score(1, kwargs["completions"], kwargs), loop)

    async def __call__(self, **kwargs: Any) -> list[float | None]:
        """
        Scores the context's turn.

        Args:
            kwargs:
                TRL's arguments of a reward function.

        Returns:
            `list[float | None]`: one per completion.

        Raises:
            `TypeError`, `ValueError`: If the function's result is wrong, see `check_turn_rewards`.
            `TimeoutError`: If it takes too long.
        """
        try:
            return await self._rewards(kwargs)
        except Exception as error:
            if not self.context.keeps_errors:
                raise
            self.context.error = self.context.error or error
            return [0.0] * len(kwargs["completions"])

    async def _rewards(self, kwargs: dict[str, Any]) -> list[float | None]:
        turn = self.context.turn
        ahead, self._ahead = self._ahead, None
        if ahead is not None and turn == 1:
            task = asyncio.wrap_future(ahead)
        else:
            task = asyncio.ensure_future(self._score(turn, self.context.completions_t1, kwargs))
        return await self.context.watch.result_of_task(task, Scoring(self.__name__, turn, kwargs["completions"]))

    async def _score(self, turn: int, completions_t1: list[Completion], kwargs: dict[str, Any]) -> list[float | None]:
        call_kwargs = _turn_kwargs(self._wanted, turn, completions_t1, kwargs)
        try:
            values = await self.func(**call_kwargs)
        except Exception as error:  # re-raised as it is: only the place is added
            error.add_note(f"Raised by reward function {self.__name__!r} while it scored turn {turn}.")
            raise
        return check_turn_rewards(values, len(kwargs["completions"]), name=self.__name__, turn=turn)


def _needs_main_thread(error: BaseException | None) -> bool:
    """
    Whether a function failed for want of `signal.alarm` or an event loop, which only the main thread has.

    Python's own error says so. math-verify's says it in other words, and has Python's as its cause.
    """
    while error is not None:
        if "main thread" in str(error) or "no current event loop" in str(error):
            return True
        error = error.__cause__
    return False


def _wanted_turn_arguments(func: Callable[..., Any]) -> frozenset[str]:
    """The turn arguments that a function names. One that only takes `**kwargs` gets TRL's arguments, and no more."""
    return frozenset(TURN_ARGUMENTS) & frozenset(inspect.signature(func).parameters)


def _turn_kwargs(
    wanted: frozenset[str], turn: int, completions_t1: Sequence[Completion], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """TRL's arguments, the turn arguments that are wanted, and log functions that write to a column of that turn."""
    offered = {"turn": turn, "completions_t1": list(completions_t1)}
    turn_kwargs = {**kwargs, **{name: value for name, value in offered.items() if name in wanted}}
    for name in ("log_extra", "log_metric"):
        if name in kwargs:
            turn_kwargs[name] = _with_turn_suffix(kwargs[name], turn)
    return turn_kwargs


def _with_turn_suffix(log: Callable[[str, Any], None], turn: int) -> Callable[[str, Any], None]:
    def log_turn(name: str, value: Any) -> None:
        log(f"{name}_t{turn}", value)

    return log_turn
