"""
How far a run is, how well it goes and how long it will take: live lines in a terminal, one plain line a log elsewhere.

`SCoReTrainer` and `CLoudRewardTrainer` show it in the place of transformers' progress bar;
`trainer.remove_callback(transformers.ProgressCallback)` takes it away.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from trl_score.live_lines import LiveLines, is_live_terminal
from trl_score.log_keys import STEP_PHASES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trl_score.score.turn_metrics import MetricWindow

NUM_RECENT = 50
"""Steps over which the running means are taken."""


class RunningMean:
    """
    The mean over what was added last, exact over the things that were counted.

    Args:
        most (`int`, *optional*, defaults to `50`):
            How many additions count.

    Example:

    ```python
    >>> mean = RunningMean(most=2)
    >>> for total, count in ((9.0, 9), (3.0, 4), (0.0, 2)):
    ...     mean.add(total, count)
    >>> mean.value
    0.5

    ```
    """

    def __init__(self, most: int = NUM_RECENT) -> None:
        self._added: deque[tuple[float, float]] = deque(maxlen=most)

    def add(self, total: float, count: float = 1.0) -> None:
        """
        Adds a sum over a number of things.

        Args:
            total (`float`):
                The sum.
            count (`float`, *optional*, defaults to `1.0`):
                How many were summed; of 0 nothing is kept.
        """
        if count > 0:
            self._added.append((total, count))

    @property
    def value(self) -> float | None:
        """`float`, *optional*: The mean, or `None` before anything was counted."""
        count = sum(count for _, count in self._added)
        return sum(total for total, _ in self._added) / count if count else None


def num_due(step: int, last_step: int, every: float, also_at: Collection[int] = ()) -> int:
    """
    Counts the steps to come after which something is due.

    Args:
        step (`int`):
            The step that is done.
        last_step (`int`):
            The run's last step.
        every (`float`):
            After how many steps it is due each time; 0 for never.
        also_at (`Collection[int]`, *optional*):
            Further steps after which it is due.

    Returns:
        `int`: how many of the steps from `step + 1` to `last_step`.

    Example:

    ```python
    >>> num_due(step=4, last_step=10, every=3)  # after 6 and 9
    2
    >>> num_due(step=4, last_step=10, every=3, also_at=[2, 7, 9])  # after 7 too
    3

    ```
    """
    if every <= 0:
        return 0
    multiples = {round(every * number) for number in range(int(step / every), int(last_step / every) + 1)}
    return sum(step < due <= last_step for due in multiples | set(also_at))


def seconds_left(
    num_steps: int, seconds_step: float | None, occasions: Sequence[tuple[int, float | None]]
) -> float | None:
    """
    Estimates how long a run still takes.

    Args:
        num_steps (`int`):
            Steps to come.
        seconds_step (`float`, *optional*):
            Mean seconds of a step.
        occasions (`Sequence[tuple[int, float | None]]`):
            Of what is done between steps, such as evaluations: how many are due, and their mean seconds. What has not
            been timed yet counts nothing.

    Returns:
        `float`, *optional*: seconds, or `None` before a step was timed.

    Example:

    ```python
    >>> seconds_left(10, 2.0, [(2, 30.0), (5, None)])  # 10 * 2 + 2 * 30
    80.0

    ```
    """
    if seconds_step is None:
        return None
    return num_steps * seconds_step + sum(number * seconds for number, seconds in occasions if seconds is not None)


def clock(seconds: float | None) -> str:
    """
    Writes a time as hours, minutes and seconds.

    Args:
        seconds (`float`, *optional*):
            The time; `None` for one that is not known.

    Returns:
        `str`: such as `1:02:03`.

    Example:

    ```python
    >>> clock(3723.4), clock(59.6), clock(None)
    ('1:02:03', '0:01:00', '?')

    ```
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class StepTimes:
    """
    Takes a run's wall time apart: steps, and evaluations and saves between them.

    Args:
        now (`Callable[[], float]`, *optional*):
            The clock.

    Example:

    ```python
    >>> times = StepTimes(iter([0.0, 2.0, 12.0, 13.0, 15.0]).__next__)
    >>> for what in ("step", "evaluation", "evaluation", "step"):  # an evaluation of two datasets
    ...     times.end(what)
    >>> times.mean("step"), times.mean("evaluation"), times.mean("save")
    (2.0, 11.0, None)

    ```
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self.start = self._last = now()
        self._previous = ""
        self._seconds: dict[str, deque[float]] = {}

    def end(self, what: str) -> None:
        """
        Counts the time since the last call.

        Args:
            what (`str`):
                What has just ended. The same thing twice in a row is one occasion, unless it is a step.
        """
        now = self._now()
        seconds, self._last = now - self._last, now
        past = self._seconds.setdefault(what, deque(maxlen=NUM_RECENT))
        if what == self._previous != "step":
            past[-1] += seconds
        else:
            past.append(seconds)
        self._previous = what

    def mean(self, what: str) -> float | None:
        """
        Gives the mean of the last times.

        Args:
            what (`str`):
                Of what.

        Returns:
            `float`, *optional*: seconds, or `None` where there was none.
        """
        past = self._seconds.get(what)
        return sum(past) / len(past) if past else None

    @property
    def elapsed(self) -> float:
        """`float`: Seconds since training began or was resumed."""
        return self._now() - self.start


class RunProgress(ProgressCallback):
    """
    Shows how far a run is and how long it will take.

    In a terminal: live lines, which other output passes by. Elsewhere, with `disable_tqdm` and with several processes:
    one plain line a log, of the main process.

    A trainer's own class adds what it measures: `summary` and `log_line`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.times = StepTimes()
        self.state = TrainerState()
        self.live: LiveLines | None = None
        self.training_bar: Any = None
        self._every = {"evaluation": 0.0, "save": 0.0}

    # What a trainer's own class says

    def summary(self) -> list[str]:
        """Gives the lines below the bar, as they are now."""
        return []

    def name_of_stage(self) -> str:
        """What stands before the bar."""
        return "training"

    def further_occasions(self) -> set[int]:
        """Steps after which the run is evaluated and saved beside the regular ones."""
        return set()

    def log_line(self, logs: Mapping[str, Any]) -> str | None:
        """Gives a log entry in words, or `None` if it says nothing of what is shown."""
        return None

    # What transformers calls

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draws the lines for the first time."""
        self.times, self.state = StepTimes(), state
        self._every = {
            "evaluation": interval(args.eval_strategy, state.eval_steps, state),
            "save": interval(args.save_strategy, state.save_steps, state),
        }
        # What other processes write to the same terminal, such as their last words, would be drawn over.
        is_alone = args.world_size == 1
        if is_alone and not args.disable_tqdm and is_live_terminal(sys.stdout):
            self.live = LiveLines(self._lines)
            self.live.start()
            self.training_bar = self.live  # its own bars are taken away where there is one

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Counts the step."""
        self.times.end("step")
        if self.live is not None:
            self.live.refresh()

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar of an evaluation, in a terminal."""
        if not args.disable_tqdm and is_live_terminal(sys.stderr):
            super().on_prediction_step(args, state, control, **kwargs)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Counts the evaluation."""
        super().on_evaluate(args, state, control, **kwargs)
        self.times.end("evaluation")

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Counts the save."""
        self.times.end("save")

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Writes a line."""
        self.state = state
        line = self.log_line(logs or {})
        if state.is_world_process_zero and line is not None:
            left = "" if self.is_done else f"; {clock(self.seconds_left)} left"
            if self.live is None and self.prediction_bar is not None:
                self.prediction_bar.clear()  # it is closed next, and stands where the line begins
            sys.stdout.write(f"step {state.global_step}/{state.max_steps}, {line}{left}\n")
            sys.stdout.flush()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draws the lines for the last time."""
        self.close()

    def close(self) -> None:
        """Gives the terminal back, however training ended."""
        if self.live is not None:
            self.live.stop()
            self.live = None
            self.training_bar = None

    # The lines

    @property
    def is_done(self) -> bool:
        """`bool`: Whether no step is left."""
        return self.state.global_step >= self.state.max_steps

    @property
    def seconds_left(self) -> float | None:
        """`float`, *optional*: Seconds until the run's end, with the evaluations and saves that are due."""
        step, last = self.state.global_step, self.state.max_steps
        also_at = self.further_occasions() | {last}
        occasions = [
            (num_due(step, last, every, also_at), self.times.mean(what)) for what, every in self._every.items()
        ]
        return seconds_left(last - step, self.times.mean("step"), occasions)

    def _lines(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        step, last = self.state.global_step, self.state.max_steps
        bar = Table.grid(padding=(0, 1), expand=True)
        for is_wide in (False, True, False):
            bar.add_column(no_wrap=True, ratio=1 if is_wide else None)
        times = f"{step}/{last} steps  {clock(self.times.elapsed)} so far, {clock(self.seconds_left)} left"
        bar.add_row(Text(self.name_of_stage(), "bold"), ProgressBar(total=max(last, 1), completed=step), Text(times))
        return Group(bar, *(Text(line, no_wrap=True, overflow="ellipsis") for line in self.summary()))


def interval(strategy: Any, every: float, state: TrainerState) -> float:
    """
    Gives after how many steps a run evaluates, or saves.

    Args:
        strategy (`str`):
            `"no"`, `"steps"` or `"epoch"`, or transformers' enumeration of them.
        every (`float`):
            Steps, for `"steps"`.
        state ([`~transformers.TrainerState`]):
            The run's, with its steps and epochs.

    Returns:
        `float`: steps; 0 for never.

    Example:

    ```python
    >>> interval("epoch", 500, TrainerState(max_steps=30, num_train_epochs=4))
    7.5

    ```
    """
    name = getattr(strategy, "value", strategy)
    if name == "epoch":
        return state.max_steps / max(state.num_train_epochs, 1)
    return float(every or 0) if name == "steps" else 0.0


def percent(share: float | None, sign: str = "") -> str:
    """
    Writes a share in percent.

    Args:
        share (`float`, *optional*):
            The share; `None` where nothing could be counted.
        sign (`str`, *optional*, defaults to `""`):
            `"+"` to write the sign of what is above 0.

    Returns:
        `str`: such as `41.2%`.

    Example:

    ```python
    >>> percent(0.412), percent(0.077, "+"), percent(None)
    ('41.2%', '+7.7%', '?')

    ```
    """
    return "?" if share is None else f"{share:{sign}.1%}"


class TurnProgress(RunProgress):
    """
    The progress of a `SCoReTrainer`: the stage, accuracy and reward of both turns, and the seconds of each phase.

    Args:
        window ([`MetricWindow`]):
            Where the trainer adds what the next log is made of.
        last_step_of_stage_1 (`Callable[[], int]`, *optional*):
            Gives the step after which Stage II begins, where a run has both.
    """

    def __init__(self, window: "MetricWindow", last_step_of_stage_1: Callable[[], int] | None = None) -> None:
        super().__init__()
        self.window = window
        self.last_step_of_stage_1 = last_step_of_stage_1
        self._seen: dict[str, tuple[float, float]] = {}
        self._means: dict[str, RunningMean] = {}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Takes note of what the step added to the window."""
        sums = self.window.state()
        for key, (total, count) in sums.items():
            seen_total, seen_count = self._seen.get(key, (0.0, 0.0))
            self._means.setdefault(key, RunningMean()).add(total - seen_total, count - seen_count)
        self._seen = sums
        super().on_step_end(args, state, control, **kwargs)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Writes a line, and knows that a training log has emptied the window."""
        if not any("eval" in key for key in logs or {}):
            self._seen = {}
        super().on_log(args, state, control, logs, **kwargs)

    def further_occasions(self) -> set[int]:
        """The boundary of the stages."""
        return set() if self.last_step_of_stage_1 is None else {self.last_step_of_stage_1()}

    def name_of_stage(self) -> str:
        """The stage that the last rollouts were paid in."""
        return stage_name(self._mean("score/stage"))

    def summary(self) -> list[str]:
        """Both turns and the phases, over the last steps."""
        values = {key: mean.value for key, mean in self._means.items()}
        if values.get("score/stage") is None:
            return ["the first rollouts are being made"]
        return [in_words(values), phases_in_words(values)]

    def log_line(self, logs: Mapping[str, Any]) -> str | None:
        """Both turns since the last log, or over an evaluation."""
        prefix = next(
            (key.removesuffix("score/accuracy_t1") for key in logs if key.endswith("score/accuracy_t1")), None
        )
        if prefix is None:
            return None
        values = {key.removeprefix(prefix): value for key, value in logs.items() if key.startswith(prefix)}
        if prefix:
            return f"{prefix.removesuffix('_')}: {in_words(values)}"
        return f"{stage_name(values['score/stage'])}: {in_words(values)}; {phases_in_words(values)}"

    def _mean(self, key: str) -> float | None:
        return self._means[key].value if key in self._means else None


def stage_name(stage: float | None) -> str:
    """
    Names a stage. A mean of both is Stage II, in which no run goes back.

    Args:
        stage (`float`, *optional*):
            From 1 to 2; `None` before anything is known.

    Returns:
        `str`: its name.

    Example:

    ```python
    >>> stage_name(1.0), stage_name(1.02), stage_name(None)
    ('Stage I', 'Stage II', 'SCoRe')

    ```
    """
    if stage is None:
        return "SCoRe"
    return "Stage II" if stage > 1 else "Stage I"


def in_words(values: Mapping[str, float | None]) -> str:
    """
    Writes accuracy and reward of both turns.

    Args:
        values (`Mapping`):
            Means by the keys of `log_keys`, `None` where nothing could be counted.

    Returns:
        `str`: one line.

    Example:

    ```python
    >>> in_words({"score/accuracy_t1": 0.5, "score/accuracy_t2": 0.6, "score/delta_t1_t2": 0.1, "score/reward_t1": 0.4})
    'turn 1 50.0%, turn 2 60.0% (+10.0%), reward 0.400 -> ?'

    ```
    """
    accuracy_t1, accuracy_t2 = (percent(values.get(f"score/accuracy_t{turn}")) for turn in (1, 2))
    rewards = [values.get(f"score/reward_t{turn}") for turn in (1, 2)]
    reward_t1, reward_t2 = ("?" if reward is None else f"{reward:.3f}" for reward in rewards)
    delta = percent(values.get("score/delta_t1_t2"), "+")
    return f"turn 1 {accuracy_t1}, turn 2 {accuracy_t2} ({delta}), reward {reward_t1} -> {reward_t2}"


def phases_in_words(values: Mapping[str, float | None]) -> str:
    """
    Writes the seconds of a step and of its phases.

    Args:
        values (`Mapping`):
            Means by the keys of `log_keys`. Phases that take less than a hundredth of a step are left out.

    Returns:
        `str`: one line.

    Example:

    ```python
    >>> phases_in_words({"score/seconds_step": 12.0, "score/seconds_rewards": 2.5, "score/seconds_update": 0.1})
    '12.0 s a step: rewards 2.5'

    ```
    """
    whole = values.get("score/seconds_step") or 0.0
    digits = 1 if whole >= 10 else 2
    seconds = {name: values.get(key) or 0.0 for key, name in STEP_PHASES.items()}
    phases = [f"{name} {value:.{digits}f}" for name, value in seconds.items() if value > 0.01 * whole]
    return f"{whole:.{digits}f} s a step: {', '.join(phases)}"


class CritiqueProgress(RunProgress):
    """The progress of a `CLoudRewardTrainer`: accuracy on the pairs, margin, and losses, as they were last logged."""

    def __init__(self) -> None:
        super().__init__()
        self._logged = "nothing is logged yet"

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Keeps the line that it writes."""
        super().on_log(args, state, control, logs, **kwargs)
        if logs and "loss" in logs:
            self._logged = self.log_line(logs) or self._logged

    def summary(self) -> list[str]:
        """What was logged last."""
        return [self._logged]

    def log_line(self, logs: Mapping[str, Any]) -> str | None:
        """Loss and accuracy since the last log, or over an evaluation."""
        prefix = next((key.partition("cloud/")[0] for key in logs if "cloud/" in key), "")
        names = {"loss": "loss", "cloud/reward_loss": "reward loss", "cloud/critique_loss": "critique loss"}
        parts = [f"{name} {logs[prefix + key]:.4f}" for key, name in names.items() if f"{prefix}{key}" in logs]
        if not parts:
            return None
        if f"{prefix}cloud/accuracy" in logs:
            parts += [f"accuracy {percent(logs[prefix + 'cloud/accuracy'])}"]
            parts += [f"margin {logs[prefix + 'cloud/margin']:+.3f}"]
        return f"{prefix.removesuffix('_')}: {', '.join(parts)}" if prefix else ", ".join(parts)


def show_progress(trainer: Any, progress: RunProgress) -> None:
    """
    Puts a display in the place of transformers' own.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer; a display that its user has written stays.
        progress ([`RunProgress`]):
            The display.
    """
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback) in (DEFAULT_PROGRESS_CALLBACK, ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
    trainer.add_callback(progress)
