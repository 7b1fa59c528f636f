"""Callbacks: the hand-over between the stages, the adaptive beta_2, detectors of collapse, the completions table."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trl_score.collapse import CollapseRule, CopyRule, KLBudgetRule, SandbaggingRule, TruncationRule
from trl_score.score.phase_times import add_seconds, count_step
from trl_score.terminal_view import printable

if TYPE_CHECKING:
    from trl_score.score.score_config import SCoReConfig
    from trl_score.score.turn_metrics import MetricWindow

logger = logging.getLogger(__name__)

SIGTERM_EXIT_CODE = 143
"""With which a run ends that SIGTERM ended: what a shell reports of a process that dies of it, 128 + 15."""

_MOST_BETA_2_CHANGE = 0.2


class AdaptiveBeta2(TrainerCallback):
    """
    Keeps turn 1's KL in Stage I near a target by moving beta_2; or just holds beta_2, without a target.

    beta_2 <- max(first beta_2, beta_2 * (1 + clip(KL1 / target - 1, -0.2, 0.2))), once a rollout batch: the controller
    of Ziegler et al. (arXiv 1909.08593) with a floor. SCoRe (section 5.1) suggests an adaptive beta_2 without a rule.

    Args:
        beta_2 (`float`):
            First and least value.
        target_kl (`float`, *optional*):
            Turn 1's KL to keep to, in nats per sequence. `None`: beta_2 stays as it is.

    Example:

    ```python
    >>> controller = AdaptiveBeta2(beta_2=0.1, target_kl=0.5)
    >>> controller.observe(kl_sum=8.0, num_rollouts=10)
    >>> controller.update()
    >>> round(controller.beta_2, 3)
    0.12

    ```
    """

    def __init__(self, beta_2: float, target_kl: float | None = None) -> None:
        self.beta_2 = beta_2
        self.least_beta_2 = beta_2
        self.target_kl = target_kl
        self.kl_sum = 0.0
        self.num_rollouts = 0.0

    def observe(self, kl_sum: float, num_rollouts: float) -> None:
        """
        Takes note of turn 1's KL in some rollouts of all processes.

        Args:
            kl_sum (`float`):
                Sum of the KL, in nats.
            num_rollouts (`float`):
                Over how many rollouts.
        """
        self.kl_sum += kl_sum
        self.num_rollouts += num_rollouts

    def update(self) -> None:
        """Moves beta_2 by what was observed since the last update."""
        if self.target_kl is not None and self.num_rollouts > 0:
            excess = self.kl_sum / self.num_rollouts / self.target_kl - 1.0
            change = min(max(excess, -_MOST_BETA_2_CHANGE), _MOST_BETA_2_CHANGE)
            self.beta_2 = max(self.least_beta_2, self.beta_2 * (1.0 + change))
        self.kl_sum = self.num_rollouts = 0.0

    def state(self) -> dict[str, float]:
        """
        Gives what a resumed run goes on with.

        Returns:
            `dict`: the coefficient, and what was observed since it was moved.
        """
        return {"beta_2": self.beta_2, "kl_sum": self.kl_sum, "num_rollouts": self.num_rollouts}

    def load(self, state: Mapping[str, float]) -> None:
        """
        Takes back what `state` gave.

        Args:
            state (`Mapping`):
                The coefficient, and what was observed since it was moved.
        """
        self.beta_2, self.kl_sum, self.num_rollouts = state["beta_2"], state["kl_sum"], state["num_rollouts"]


class StageBoundary(TrainerCallback):
    """
    Says when Stage II begins, and saves and evaluates there if the run saves and evaluates at all.

    Args:
        args ([`SCoReConfig`]):
            The configuration.
    """

    def __init__(self, args: "SCoReConfig") -> None:
        self.args = args

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warns where the split leaves one of the two stages without a step."""
        num_steps = self.args.num_stage_1_steps(state.max_steps)
        if self.args.stage == "both" and not 0 < num_steps < state.max_steps:
            logger.warning(
                "`stage='both'` with `stage_1_steps=%s` gives Stage I %d of %d steps, so one stage is left out. Name "
                "the stage that is meant, or change `stage_1_steps`.",
                self.args.stage_1_steps,
                num_steps,
                state.max_steps,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Asks for a checkpoint and an evaluation of the model as it leaves Stage I."""
        if self.args.stage == "both" and state.global_step == self.args.num_stage_1_steps(state.max_steps):
            logger.info("Stage II begins after step %d.", state.global_step)
            control.should_log = True  # no entry mixes both stages
            control.should_save = control.should_save or str(args.save_strategy.value) != "no"
            control.should_evaluate = control.should_evaluate or str(args.eval_strategy.value) != "no"
        return control


class SaveOnSigterm(TrainerCallback):
    """
    Ends training at the end of a step, with a checkpoint, after any of the processes got a SIGTERM.

    Args:
        on_any_process (`Callable[[bool], bool]`):
            Whether something holds on any of the processes; every process asks at once.
    """

    def __init__(self, on_any_process: Callable[[bool], bool]) -> None:
        self.on_any_process = on_any_process
        self.is_received = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes note of a SIGTERM instead of dying of it. A second one does what it did before."""
        if threading.current_thread() is not threading.main_thread():  # Python hears signals there alone
            yield
            return
        process = os.getpid()
        previous = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

        def take_note(number: int, frame: Any) -> None:
            signal.signal(signal.SIGTERM, previous)
            if os.getpid() == process:
                self.is_received = True
            else:  # a worker that was forked from here: it is not training
                os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(signal.SIGTERM, take_note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Asks for a checkpoint and for the end, after the log and the evaluation that are due."""
        if self.on_any_process(self.is_received):
            self.is_received = True
            logger.warning("SIGTERM: training is saved and ended after step %d.", state.global_step)
            control.should_save = control.should_training_stop = True
        return control

    on_evaluate = on_step_end

    def end_if_received(self) -> None:
        """
        Ends the process after training, if any of the processes got a SIGTERM.

        Raises:
            `SystemExit`: With `SIGTERM_EXIT_CODE`.
        """
        if self.on_any_process(self.is_received):
            raise SystemExit(SIGTERM_EXIT_CODE)


class StepTimer(TrainerCallback):
    """
    Times each step, and its optimizer's step, which runs outside the trainer's own `training_step`.

    Args:
        window ([`MetricWindow`]):
            Where `score/seconds_step` and `score/seconds_optimizer` are added.
    """

    def __init__(self, window: "MetricWindow") -> None:
        self.window = window
        self.step_start = self.optimizer_start = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the step's clock."""
        self.step_start = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops it, and counts the step for the means of its phases."""
        self.window.add("score/seconds_step", time.perf_counter() - self.step_start)
        count_step(self.window, updates=True)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the optimizer's clock."""
        self.optimizer_start = time.perf_counter()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stops it."""
        add_seconds("score/seconds_optimizer", time.perf_counter() - self.optimizer_start, self.window)


class CollapseDetector(TrainerCallback):
    """
    Watches the training log for one way to fail, warns when it lasts, and stops the run if asked to.

    Args:
        rule ([`CollapseRule`]):
            What to watch for, and how long it must last.
        stop (`bool`, *optional*, defaults to `False`):
            Whether to end training then.
    """

    def __init__(self, rule: CollapseRule, stop: bool = False) -> None:
        self.rule = rule
        self.stop = stop
        self.messages: list[str] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Goes through what a resumed run has logged already, so that it goes on where it was."""
        findings = [self.rule.check(logs) for logs in state.log_history if "score/accuracy_t1" in logs]
        self.messages += [finding for finding in findings if finding is not None]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> TrainerControl:
        """Checks what was just logged in training."""
        message = self.rule.check(logs) if logs and "score/accuracy_t1" in logs else None
        if message is not None:
            self.messages.append(message)
            ending = " Training stops." if self.stop else ""
            logger.warning("Step %d, %s: %s%s", state.global_step, type(self).__name__, message, ending)
            control.should_training_stop = control.should_training_stop or self.stop
        return control


class CopyDetector(CollapseDetector):
    """
    Turn 2 copies turn 1: the policy answers as well as it can at once and no longer corrects (SCoRe, figures 3 and 5).

    Args:
        least_changed (`float`, *optional*, defaults to `0.02`):
            Share of answers changed below which, together with `least_edited`, turn 2 counts as a copy.
        least_edited (`float`, *optional*, defaults to `0.02`):
            Edit-distance ratio likewise.
        patience (`int`, *optional*, defaults to `5`):
            Log entries in a row before it speaks.
        stop (`bool`, *optional*, defaults to `False`):
            See [`CollapseDetector`].
    """

    def __init__(
        self, least_changed: float = 0.02, least_edited: float = 0.02, patience: int = 5, stop: bool = False
    ) -> None:
        super().__init__(CopyRule(least_changed, least_edited, patience), stop)


class SandbaggingDetector(CollapseDetector):
    """
    Turn 1 gets worse while the bonus grows: the policy errs at first in order to correct itself afterwards.

    Cannot pay under the paper's credit (turn discount 0), so where it shows, look at `turn_discount` and the rewards.

    Args:
        most_lost (`float`, *optional*, defaults to `0.1`):
            How far turn 1's accuracy may fall below its best, while delta(t1,t2) rises above its value at that best.
        patience (`int`, *optional*, defaults to `5`):
            Log entries in a row before it speaks.
        stop (`bool`, *optional*, defaults to `False`):
            See [`CollapseDetector`].
    """

    def __init__(self, most_lost: float = 0.1, patience: int = 5, stop: bool = False) -> None:
        super().__init__(SandbaggingRule(most_lost, patience), stop)


class KLBudgetDetector(CollapseDetector):
    """
    A turn's KL to the reference is beyond its budget.

    Args:
        budget_t1 (`float`, *optional*, defaults to `5.0`):
            Most nats per sequence of turn 1.
        budget_t2 (`float`, *optional*, defaults to `50.0`):
            Most nats per sequence of turn 2.
        patience (`int`, *optional*, defaults to `5`):
            Log entries in a row before it speaks.
        stop (`bool`, *optional*, defaults to `False`):
            See [`CollapseDetector`].
    """

    def __init__(self, budget_t1: float = 5.0, budget_t2: float = 50.0, patience: int = 5, stop: bool = False) -> None:
        super().__init__(KLBudgetRule(budget_t1, budget_t2, patience), stop)


class TruncationDetector(CollapseDetector):
    """
    A length budget cuts many turns off, so that their reward says nothing of what the policy would have written.

    Args:
        most_truncated (`float`, *optional*, defaults to `0.3`):
            Share of a turn's completions that may be cut off.
        patience (`int`, *optional*, defaults to `5`):
            Log entries in a row before it speaks.
        stop (`bool`, *optional*, defaults to `False`):
            See [`CollapseDetector`].
    """

    def __init__(self, most_truncated: float = 0.3, patience: int = 5, stop: bool = False) -> None:
        super().__init__(TruncationRule(most_truncated, patience), stop)


def print_turns_table(rows: Sequence[Mapping[str, Any]], step: int, num_rows: int | None = None) -> None:
    """
    Prints rollouts with both turns side by side.

    Args:
        rows (`Sequence[Mapping]`):
            One mapping per rollout: `prompt`, `completion_t1`, `completion_t2`, rewards, advantages.
        step (`int`):
            The step, for the title.
        num_rows (`int`, *optional*):
            How many rows to print; all by default.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for row in rows[:num_rows]:
        title = f"Step {step}: {_cell(row['prompt'])}"
        table = Table("", "turn 1", "turn 2", title=escape(title), title_justify="left", show_lines=True)
        for name in dict.fromkeys(column.removesuffix("_t1") for column in row if column.endswith("_t1")):
            table.add_row(name, escape(_cell(row[f"{name}_t1"])), escape(_cell(row.get(f"{name}_t2"))))
        Console().print(table)


def _cell(value: Any) -> str:
    """A number, a text, or the last message of a conversation, as a person reads it."""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        return printable(str(value[-1].get("content") or ""))
    return printable(str(value))


def save_turns_table(
    rows: Sequence[Mapping[str, Any]],
    output_dir: str,
    step: int,
    report_to: Sequence[str] | None,
    prefix: str = "",
) -> None:
    """
    Writes rollouts to `completions/completions_STEP.parquet`, and to wandb and trackio where those are on.

    Args:
        rows (`Sequence[Mapping]`):
            One mapping per rollout.
        output_dir (`str`):
            The run's folder.
        step (`int`):
            The step.
        report_to (`Sequence[str]`, *optional*):
            The run's loggers.
        prefix (`str`, *optional*, defaults to `""`):
            `"eval_"` for rollouts of an evaluation: goes before the file's name and the table's.
    """
    import pandas as pd

    frame = pd.DataFrame([{"step": step, **row} for row in rows])
    folder = Path(output_dir) / "completions"
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / f"{prefix}completions_{step:05d}.parquet")
    if report_to and "wandb" in report_to:
        import wandb

        if wandb.run is not None:
            wandb.log({f"{prefix}completions": wandb.Table(dataframe=frame)})
    if report_to and "trackio" in report_to:
        import trackio

        trackio.log({f"{prefix}completions": trackio.Table(dataframe=frame)})
