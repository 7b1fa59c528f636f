"""The progress of a run: the estimate of what is left, the lines of a terminal, and those of a log file."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cloud_runs import preference_dataset
from cloud_runs import short_config as cloud_config
from score_runs import addition_dataset, odd_length, short_config
from test_live_lines import Terminal
from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState

from trl_score.cloud.cloud_trainer import CLoudRewardTrainer
from trl_score.log_keys import CLOUD_LOG_KEYS, SCORE_LOG_KEYS, STEP_PHASES
from trl_score.progress import (
    CritiqueProgress,
    RunningMean,
    StepTimes,
    TurnProgress,
    interval,
    num_due,
    seconds_left,
)
from trl_score.score.score_trainer import SCoReTrainer
from trl_score.score.turn_metrics import MetricWindow

LOGGED = {
    **dict.fromkeys(SCORE_LOG_KEYS, 0.1),
    "score/accuracy_t1": 0.5,
    "score/accuracy_t2": 0.6,
    "score/seconds_step": 8.0,
    **dict.fromkeys(STEP_PHASES, 1.0),
    "score/stage": 1.0,
}


# Formulas


def test_running_mean_weighs_things_and_forgets():
    mean = RunningMean(most=2)
    assert mean.value is None
    mean.add(1.0, 4)
    assert mean.value == 0.25
    mean.add(1.0, 1)
    assert mean.value == 0.4  # (1 + 1) / (4 + 1)
    mean.add(0.0, 0)  # nothing was counted
    assert mean.value == 0.4
    mean.add(0.0, 3)
    assert mean.value == 0.25  # (1 + 0) / (1 + 3): the first one is forgotten


@pytest.mark.parametrize(
    ("step", "last", "every", "also_at", "expected"),
    [
        (0, 10, 3, (), 3),  # after 3, 6, 9
        (3, 10, 3, (), 2),  # 3 is done
        (9, 10, 3, (), 0),
        (9, 10, 3, (10,), 1),
        (0, 10, 10, (10, 12, 0), 1),  # once, and neither what is done nor what does not come
        (0, 30, 7.5, (), 4),  # epochs of 7.5 steps: after 8, 15, 22, 30
        (15, 30, 7.5, (), 2),
        (0, 10, 0, (3,), 0),  # a run that does not evaluate does not at the boundary either
    ],
)
def test_occasions_that_are_due(step, last, every, also_at, expected):
    assert num_due(step, last, every, also_at) == expected


def test_seconds_left_count_what_was_timed():
    assert seconds_left(10, None, [(2, 30.0)]) is None
    assert seconds_left(10, 2.0, [(2, 30.0), (3, 1.5), (4, None)]) == 84.5  # 20 + 60 + 4.5


def test_interval_of_each_strategy():
    args = short_config("out", eval_strategy="steps", eval_steps=4, save_strategy="epoch")
    state = TrainerState(max_steps=12, num_train_epochs=3)
    assert [interval(strategy, 4, state) for strategy in (args.eval_strategy, args.save_strategy, "no")] == [4, 4, 0]


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def after(self, seconds: float) -> None:
        self.time += seconds


def test_estimate_of_a_run_with_evaluations_and_saves(tmp_path):
    args = short_config(tmp_path, eval_strategy="steps", eval_steps=4, save_strategy="steps", save_steps=5)
    state = TrainerState(max_steps=13, eval_steps=4, save_steps=5)
    progress = TurnProgress(MetricWindow(), last_step_of_stage_1=lambda: 2)
    progress.on_train_begin(args, state, TrainerControl())
    now = Clock()
    progress.times = StepTimes(now)
    assert progress.seconds_left is None
    for step, seconds in ((1, 3.0), (2, 1.0)):
        now.after(seconds)
        state.global_step = step
        progress.on_step_end(args, state, TrainerControl())
    assert progress.seconds_left == 22  # 11 steps of 2
    now.after(7.0)
    progress.on_evaluate(args, state, TrainerControl())  # at the boundary, of two datasets
    now.after(3.0)
    progress.on_evaluate(args, state, TrainerControl())
    now.after(0.5)
    progress.on_save(args, state, TrainerControl())
    # 11 steps of 2, evaluations after 4, 8, 12, 13 and saves after 5, 10, 13.
    assert progress.seconds_left == 22 + 4 * 10 + 3 * 0.5
    now.after(5.0)
    state.global_step = 3
    progress.on_step_end(args, state, TrainerControl())
    assert progress.seconds_left == 10 * 3 + 4 * 10 + 3 * 0.5  # steps of 3, 1 and 5 seconds
    assert progress.times.elapsed == 19.5


# What a person reads


def turn_progress() -> tuple[TurnProgress, MetricWindow]:
    metrics = MetricWindow()
    return TurnProgress(metrics), metrics


def end_step(progress: TurnProgress, window: MetricWindow, right: tuple[int, int], num: int, stage: int = 1) -> None:
    """A step in which so many of `num` rollouts were right in each turn."""
    for turn in (1, 2):
        window.add(f"score/accuracy_t{turn}", right[turn - 1], num)
        window.add(f"score/reward_t{turn}", 2 * right[turn - 1], num)
    window.add("score/delta_t1_t2", right[1] - right[0], num)
    window.add("score/stage", stage)
    for key in (*STEP_PHASES, "score/seconds_step"):
        window.add(key, 4.0 if key == "score/seconds_step" else 0.5)
    progress.on_step_end(None, TrainerState(), TrainerControl())


def test_running_accuracy_goes_on_over_logs():
    progress, window = turn_progress()
    assert progress.summary() == ["the first rollouts are being made"]
    end_step(progress, window, (1, 2), 4)
    end_step(progress, window, (1, 3), 4)
    assert progress.summary()[0] == "turn 1 25.0%, turn 2 62.5% (+37.5%), reward 0.500 -> 1.250"
    progress.on_log(None, TrainerState(max_steps=9), TrainerControl(), logs=window.take_means())
    end_step(progress, window, (6, 8), 8, stage=2)  # 8 of 16 and 13 of 16
    assert progress.summary()[0] == "turn 1 50.0%, turn 2 81.2% (+31.2%), reward 1.000 -> 1.625"
    phases = "turn 1 0.50, turn 2 0.50, rewards 0.50, reference 0.50, log-probs 0.50, update 0.50, optimizer 0.50"
    assert progress.summary()[1] == f"4.00 s a step: {phases}"
    assert progress.name_of_stage() == "Stage II"  # of the last rollouts, and not a mean of both
    # The log of an evaluation empties another window.
    progress.on_log(None, TrainerState(max_steps=9), TrainerControl(), logs={"eval_score/accuracy_t1": 0.0})
    end_step(progress, window, (0, 0), 16, stage=2)
    assert progress.summary()[0].startswith("turn 1 25.0%, turn 2 40.6%")  # 8 and 13 of 32


def test_steps_without_rollouts_leave_the_accuracy_as_it_is():
    progress, window = turn_progress()
    end_step(progress, window, (1, 2), 4)
    progress.on_step_end(None, TrainerState(), TrainerControl())  # the second step of a window of rollouts
    assert progress.summary()[0].startswith("turn 1 25.0%, turn 2 50.0% (+25.0%)")
    assert progress.name_of_stage() == "Stage I"


@pytest.mark.parametrize("key", SCORE_LOG_KEYS)
def test_values_that_could_not_be_counted_are_shown_as_such(key, capsys):
    progress, _ = turn_progress()
    progress.on_log(None, TrainerState(max_steps=4), TrainerControl(), logs={**LOGGED, key: None})
    shown = ("accuracy_t1", "accuracy_t2", "delta_t1_t2", "reward_t1", "reward_t2")
    # The time that is left is not known either.
    assert capsys.readouterr().out.count("?") == 1 + (key.removeprefix("score/") in shown)


@pytest.mark.parametrize("trainer", ["score", "cloud"])
def test_nothing_is_written_by_other_processes_and_of_other_logs(trainer, capsys):
    progress = turn_progress()[0] if trainer == "score" else CritiqueProgress()
    logs = LOGGED if trainer == "score" else {"loss": 1.0, **dict.fromkeys(CLOUD_LOG_KEYS, 0.5)}
    other = TrainerState(max_steps=4, is_world_process_zero=False)
    progress.on_log(None, other, TrainerControl(), logs=logs)
    for entry in ({"train_runtime": 1.0}, {}, None):
        progress.on_log(None, TrainerState(max_steps=4), TrainerControl(), logs=entry)
    assert capsys.readouterr().out == ""
    progress.on_log(None, TrainerState(max_steps=4), TrainerControl(), logs=logs)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_critics_lines():
    progress = CritiqueProgress()
    values = {"cloud/accuracy": 0.75, "cloud/margin": 0.5, "cloud/reward_loss": 0.25, "cloud/critique_loss": 2.0}
    expected = "loss 2.2500, reward loss 0.2500, critique loss 2.0000, accuracy 75.0%, margin +0.500"
    assert progress.log_line({"loss": 2.25, **values}) == expected
    evaluation = {f"eval_quiz_{key}": value for key, value in {"loss": 2.25, **values}.items()}
    assert progress.log_line(evaluation) == f"eval_quiz: {expected}"
    assert progress.log_line({"loss": 2.0, "cloud/critique_loss": 2.0}) == "loss 2.0000, critique loss 2.0000"


# Real training


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    yield terminal
    terminal.close()


def score_trainer(local_model: Callable[[str], Any], folder: Any, **options: Any) -> SCoReTrainer:
    options = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "disable_tqdm": False, **options}
    dataset = addition_dataset()
    return SCoReTrainer(
        model=str(local_model("qwen2")),
        reward_funcs=options.pop("reward_funcs", odd_length),
        args=short_config(folder, **options),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(2)),
    )


def test_training_in_a_terminal(terminal, local_model, tmp_path):
    trainer = score_trainer(local_model, tmp_path, stage_1_steps=1)
    with contextlib.redirect_stdout(terminal.stream), contextlib.redirect_stderr(terminal.stream):
        trainer.train()
        assert sys.stdout is sys.stderr is terminal.stream
    lines = terminal.lines()
    text = "\n".join(lines)
    for part in ("step 1/2, Stage I: turn 1 ", "step 1/2, eval: turn 1 ", "step 2/2, Stage II: ", "step 2/2, eval: "):
        assert text.count(part) == 1
    bar, turns, phases = lines[-3:]
    assert bar.startswith("Stage II ") and "2/2 steps" in bar and bar.endswith("so far, 0:00:00 left")
    log = [entry for entry in trainer.state.log_history if "score/accuracy_t1" in entry]
    mean = sum(entry["score/accuracy_t1"] for entry in log) / 2
    assert turns.startswith(f"turn 1 {mean:.1%}, turn 2 ")
    assert " s a step: turn 1 " in phases and "update" in phases
    assert "it/s]" not in text  # neither transformers' bar nor what is left of the evaluation's


def test_evaluation_by_itself_in_a_terminal(terminal, local_model, tmp_path):
    trainer = score_trainer(local_model, tmp_path)
    with contextlib.redirect_stdout(terminal.stream), contextlib.redirect_stderr(terminal.stream):
        trainer.evaluate()
    line, bar = terminal.lines()
    assert line.startswith("step 0/0, eval: turn 1 ")
    assert bar.startswith("100%")


def test_terminal_is_given_back_when_training_fails(terminal, local_model, tmp_path):
    def fails(completions, **columns):
        raise OSError("the judge is away")

    trainer = score_trainer(local_model, tmp_path, reward_funcs=fails)
    with contextlib.redirect_stdout(terminal.stream), contextlib.redirect_stderr(terminal.stream):
        with pytest.raises(OSError, match="the judge is away"):
            trainer.train()
        assert sys.stdout is sys.stderr is terminal.stream
    assert terminal.lines()[-1] == "the first rollouts are being made"


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_training_into_a_file_writes_a_plain_line_a_log(disable_tqdm, capsys, local_model, tmp_path):
    trainer = score_trainer(local_model, tmp_path, disable_tqdm=disable_tqdm)
    capsys.readouterr()
    trainer.train()
    written = capsys.readouterr()
    assert [line.split(":")[0] for line in written.out.splitlines()] == [
        "step 1/2, Stage I",
        "step 1/2, eval",
        "step 2/2, Stage II",
        "step 2/2, eval",
    ]
    for output in (written.out, written.err):
        assert "\x1b" not in output and "\r" not in output.replace("\rWriting model shards", "")


def test_progress_can_be_taken_away_and_a_users_own_stays(capsys, local_model, tmp_path):
    class Own(ProgressCallback):
        pass

    trainer = score_trainer(local_model, tmp_path)
    shown = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, ProgressCallback)]
    assert [type(callback) for callback in shown] == [TurnProgress]
    assert not any(isinstance(callback, PrinterCallback) for callback in trainer.callback_handler.callbacks)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Own())
    assert not any(isinstance(callback, TurnProgress) for callback in trainer.callback_handler.callbacks)


def test_critic_in_a_terminal(terminal, local_model, tmp_path):
    args = cloud_config(tmp_path, disable_tqdm=False)
    trainer = CLoudRewardTrainer(model=str(local_model("qwen2")), args=args, train_dataset=preference_dataset())
    with contextlib.redirect_stdout(terminal.stream), contextlib.redirect_stderr(terminal.stream):
        trainer.train()
    bar, logged = terminal.lines()[-2:]
    assert bar.startswith("training ") and f"{trainer.state.max_steps}/{trainer.state.max_steps} steps" in bar
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert logged.startswith(f"loss {last['loss']:.4f}, reward loss ")
    assert f"accuracy {last['cloud/accuracy']:.1%}" in logged
