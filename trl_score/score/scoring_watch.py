"""A watch over reward functions: one that takes too long is an error that names it and its row, and never a hang.

Three ways in which a function can be stuck, and what ends each:

- in the main thread: it is interrupted, as by the keyboard, and the error takes the interrupt's place;
- in a background thread, or as a coroutine: whoever waits for it stops waiting;
- in compiled code that keeps Python's lock, such as a regular expression: no Python code runs then, so the process is
  ended, half as much time later, and where it stood is written to its error output.
"""

import asyncio
import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from types import CoroutineType, FrameType
from typing import Any, TypeVar

from trl_score.records import Completion

Result = TypeVar("Result")

LAST_RESORT = 1.5
"""How many times its time scoring gets before the process is ended."""


@dataclass
class Scoring:
    """
    A reward function at work.

    Args:
        name (`str`):
            The function's name.
        turn (`int`):
            The turn that it scores.
        completions (`Sequence`):
            That turn's completions.
        thread (`int`, *optional*):
            The thread that it runs in.
        error (`TimeoutError`, *optional*):
            Set when its time is over.
    """

    name: str
    turn: int
    completions: Sequence[Completion]
    thread: int = 0
    error: TimeoutError | None = None


class ScoringWatch:
    """
    Gives the reward functions so much time, together, to score one turn of a rollout batch.

    Args:
        timeout_s (`float`, *optional*):
            Seconds; without it nothing is watched.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self.timeout_s = timeout_s
        self._deadline: float | None = None
        self._current: Scoring | None = None
        self._lock = threading.Lock()

    @contextmanager
    def one_turn(self) -> Iterator[None]:
        """The time in which a turn must be scored; it begins now."""
        if self.timeout_s is None:
            yield
            return
        self._deadline = time.monotonic() + self.timeout_s
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(LAST_RESORT * self.timeout_s, exit=True, file=sys.__stderr__)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._deadline = None

    @property
    def seconds_left(self) -> float | None:
        """`float`, *optional*: Seconds until the turn must be scored, or `None` where it may take any time."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    @contextmanager
    def over(self, name: str, turn: int, completions: Sequence[Completion]) -> Iterator[None]:
        """
        Watches a function that runs in this thread; in the main thread it is interrupted when its time is over.

        Args:
            name (`str`):
                The function's name.
            turn (`int`):
                The turn that it scores.
            completions (`Sequence`):
                That turn's completions.

        Raises:
            `TimeoutError`: If its time is over.
        """
        self._current = scoring = Scoring(name, turn, completions, threading.get_ident())
        seconds_left = self.seconds_left
        if seconds_left is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        timer = threading.Timer(seconds_left, self._interrupt, [scoring])
        timer.daemon = True
        timer.start()
        try:
            try:
                yield
            finally:
                timer.cancel()
                with self._lock:
                    self._current = None
                time.sleep(0)  # an interrupt that was just sent arrives here, and not in somebody else's code
        except KeyboardInterrupt:
            if scoring.error is None:  # somebody at the keyboard
                raise
        if scoring.error is not None:
            raise scoring.error

    def _interrupt(self, scoring: Scoring) -> None:
        with self._lock:
            if self._current is not scoring:
                return
            scoring.error = self.error(scoring, frames_of_thread(scoring.thread))
            # With a handler of somebody else's the last resort remains.
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.pthread_kill(scoring.thread, signal.SIGINT)

    def result_of(self, future: "Future[Result]", scoring: Scoring) -> Result:
        """
        Waits for what a background thread computes.

        Args:
            future (`Future`):
                Of a function that is watched by `over`, in another thread.
            scoring ([`Scoring`]):
                What it does. If another function that was begun before it is at work, that one is named.

        Returns:
            The function's result.

        Raises:
            `TimeoutError`: If its time is over.
        """
        if wait([future], timeout=self.seconds_left).done:
            return future.result()
        at_work = self._current or scoring
        raise self.error(at_work, frames_of_thread(at_work.thread))

    async def result_of_task(self, task: "asyncio.Future[Result]", scoring: Scoring) -> Result:
        """
        Waits for what a coroutine computes.

        Args:
            task (`asyncio.Future`):
                The function at work on this event loop.
            scoring ([`Scoring`]):
                What it does.

        Returns:
            The function's result.

        Raises:
            `TimeoutError`: If its time is over.
        """
        done, _ = await asyncio.wait({task}, timeout=self.seconds_left)
        if done:
            return task.result()
        error = self.error(scoring, frames_of_tasks())
        task.cancel()
        raise error

    def error(self, scoring: Scoring, frames: Sequence[FrameType]) -> TimeoutError:
        """
        Says which function is at which row.

        Args:
            scoring ([`Scoring`]):
                The function and its completions.
            frames (`Sequence[FrameType]`):
                Where it stands, innermost first.

        Returns:
            `TimeoutError`: to be raised.
        """
        row = find_row(frames, scoring.completions)
        place = f"at row {row} ({str(scoring.completions[row])[:80]!r})" if row is not None else "at an unknown row"
        if frames:
            place += f", in line {frames[-1].f_lineno} of {frames[-1].f_code.co_filename}"
        return TimeoutError(
            f"Reward function {scoring.name!r} has not scored turn {scoring.turn} within {self.timeout_s:g} seconds, "
            f"and is {place}. Let it give up sooner and return None, or raise `reward_timeout`."
        )


def find_row(frames: Iterable[FrameType], completions: Sequence[Completion]) -> int | None:
    """
    Finds the completion that a function is busy with: the one that a variable of it holds.

    Args:
        frames (`Iterable[FrameType]`):
            Where the function stands, innermost first.
        completions (`Sequence`):
            What it was given.

    Returns:
        `int`, *optional*: the row, or `None` if no variable holds exactly one.

    Example:

    ```python
    >>> def stuck(completions):
    ...     for completion in completions:
    ...         if "loop" in completion:
    ...             return find_row([sys._getframe()], completions)
    >>> stuck(["4", "an endless loop", "5"])
    1

    ```
    """
    rows: dict[int, set[int]] = {}
    for row, completion in enumerate(completions):
        messages = completion if isinstance(completion, list) else []
        for part in (completion, *messages, *(message.get("content") for message in messages)):
            rows.setdefault(id(part), set()).add(row)
    for frame in frames:
        # The last of several is the one of the last loop.
        for value in reversed(list(frame.f_locals.values())):
            found = rows.get(id(value), set())
            if len(found) == 1:
                return found.pop()
    return None


def frames_of_thread(thread: int) -> list[FrameType]:
    """
    Gives where a thread stands in a reward function.

    Args:
        thread (`int`):
            The thread's identifier.

    Returns:
        `list[FrameType]`: innermost first; the last one is the reward function's own.
    """
    frames = []
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_globals.get("__name__") != "trl_score.score.turn_rewards":
        frames.append(frame)
        frame = frame.f_back
    return frames


def frames_of_tasks() -> list[FrameType]:
    """
    Gives where the coroutines of this event loop wait.

    Returns:
        `list[FrameType]`: of each task those that await each other, innermost first.
    """
    frames: list[FrameType] = []
    for task in asyncio.all_tasks():
        chain: list[FrameType] = []
        awaited: Any = task.get_coro()
        while isinstance(awaited, CoroutineType):
            if awaited.cr_frame is not None and not awaited.cr_frame.f_globals["__name__"].startswith("trl"):
                chain.append(awaited.cr_frame)
            awaited = awaited.cr_await
        frames += reversed(chain)
    return frames


class BackgroundThread:
    """
    Runs calls one after the other, in threads that do not keep the process alive where a call never ends.

    Args:
        on_start (`Callable[[], None]`, *optional*):
            Called in each thread first.

    Example:

    ```python
    >>> background = BackgroundThread()
    >>> background.submit(sum, [1, 2]).result()
    3

    ```
    """

    def __init__(self, on_start: Callable[[], None] | None = None) -> None:
        self._on_start = on_start
        self._last: threading.Thread | None = None

    def submit(self, call: Callable[..., Result], *args: Any) -> "Future[Result]":
        """
        Runs a call once all that were submitted before it have ended.

        Args:
            call (`Callable`):
                What to run.
            args:
                Its arguments.

        Returns:
            `Future`: of its result.
        """
        future: Future[Result] = Future()
        previous = self._last

        def run() -> None:
            if previous is not None:
                previous.join()
            try:
                if self._on_start is not None:
                    self._on_start()
                future.set_result(call(*args))
            except BaseException as error:  # noqa: BLE001 -- raised where the result is waited for
                future.set_exception(error)

        self._last = threading.Thread(target=run, name="score-turn-1", daemon=True)
        self._last.start()
        return future
