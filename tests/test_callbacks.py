"""Callbacks: adaptive beta_2, the boundary of the stages, SIGTERM, collapse detectors, and the table of both turns."""

import contextlib
import inspect
import logging
import os
import signal
import threading

import pandas as pd
import pytest
from transformers import TrainerControl, TrainerState

from trl_score.callbacks import (
    AdaptiveBeta2,
    CopyDetector,
    KLBudgetDetector,
    SandbaggingDetector,
    SaveOnSigterm,
    StageBoundary,
    TruncationDetector,
    print_turns_table,
    save_turns_table,
)
from trl_score.log_keys import SCORE_LOG_KEYS
from trl_score.score.score_config import SCoReConfig

# A log in which nothing is wrong: every key, as the trainer writes it.
HEALTHY = {
    **dict.fromkeys(SCORE_LOG_KEYS, 0.1),
    "score/accuracy_t1": 0.5,
    "score/accuracy_t2": 0.6,
    "score/answers_changed": 0.3,
    "score/edit_distance_ratio": 0.2,
    "score/truncated_t1": 0.0,
    "score/truncated_t2": 0.0,
    "score/stage": 1.0,
}
COPYING = {"score/answers_changed": 0.01, "score/edit_distance_ratio": 0.0}
FAR_FROM_REFERENCE = {"score/kl_t1": 6.0}
CUT_OFF = {"score/truncated_t2": 0.5}

DETECTORS = {
    "copy": (CopyDetector, COPYING, "turn 2 copies turn 1: 1.0% of the answers change, edit-distance ratio 0.000"),
    "sandbagging": (
        SandbaggingDetector,
        {"score/accuracy_t1": 0.3, "score/delta_t1_t2": 0.3},
        "accuracy 30.0%, best 50.0%; delta(t1,t2) +30.0%, +10.0% then",
    ),
    "kl": (KLBudgetDetector, FAR_FROM_REFERENCE, "score/kl_t1 is 6.00 nats per sequence, budget 5.00"),
    "truncation": (TruncationDetector, CUT_OFF, "50.0% of turn 2 is cut off by its budget"),
}


@pytest.fixture
def config(tmp_path):
    def make(**kwargs):
        return SCoReConfig(**{"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, **kwargs})

    return make


def log(callback, changes, control=None, step=1):
    """Sends one log entry of training to a callback."""
    control = control or TrainerControl()
    callback.on_log(None, TrainerState(global_step=step), control, logs={**HEALTHY, **changes})
    return control


# Adaptive beta_2


def observed(controller, mean_kl, num_rollouts=10):
    controller.observe(kl_sum=mean_kl * num_rollouts, num_rollouts=num_rollouts)
    controller.update()
    return controller.beta_2


def test_beta_2_follows_the_controller_of_ziegler():
    controller = AdaptiveBeta2(beta_2=0.1, target_kl=0.5)
    assert observed(controller, 0.55) == pytest.approx(0.11)  # excess 0.55 / 0.5 - 1 = 0.1
    assert observed(controller, 5.0) == pytest.approx(0.132)  # excess 9, clipped to 0.2
    assert observed(controller, 0.45) == pytest.approx(0.1188)  # excess -0.1
    assert observed(controller, 0.0) == pytest.approx(0.1)  # -0.2 would give 0.09504, below the first value
    assert observed(controller, -1.0) == pytest.approx(0.1)


def test_beta_2_weighs_rollouts_and_not_batches():
    controller = AdaptiveBeta2(beta_2=0.1, target_kl=1.0)
    controller.observe(kl_sum=3.0, num_rollouts=1)
    controller.observe(kl_sum=0.3, num_rollouts=2)  # 3.3 nats in 3 rollouts: excess 0.1
    controller.update()
    assert controller.beta_2 == pytest.approx(0.11)


def test_beta_2_forgets_what_it_was_moved_by():
    controller = AdaptiveBeta2(beta_2=0.1, target_kl=1.0)
    observed(controller, 1.1)
    controller.update()  # nothing new was observed
    assert controller.beta_2 == pytest.approx(0.11)
    assert observed(controller, 1.0) == pytest.approx(0.11)


def test_beta_2_stays_without_a_target():
    controller = AdaptiveBeta2(beta_2=0.1)
    assert observed(controller, 100.0) == 0.1


def test_beta_2_of_a_resumed_run_moves_as_it_would_have():
    controller = AdaptiveBeta2(beta_2=0.1, target_kl=0.5)
    observed(controller, 0.6)
    controller.observe(kl_sum=1.1, num_rollouts=2)  # of a rollout batch that beta_2 has not been moved by yet
    resumed = AdaptiveBeta2(beta_2=0.1, target_kl=0.5)
    resumed.load(controller.state())
    controller.update()
    resumed.update()
    assert resumed.beta_2 == controller.beta_2 == pytest.approx(0.132)  # 0.12, then excess 0.55 / 0.5 - 1 = 0.1
    assert resumed.least_beta_2 == 0.1


# The boundary between the stages


def boundary_control(args, step, max_steps=10):
    control = TrainerControl()
    StageBoundary(args).on_step_end(args, TrainerState(global_step=step, max_steps=max_steps), control)
    return control.should_save, control.should_evaluate


def test_boundary_saves_and_evaluates_where_the_run_does(config):
    args = config(stage="both", stage_1_steps=0.4, save_strategy="steps", eval_strategy="steps", eval_steps=3)
    assert boundary_control(args, step=4) == (True, True)
    assert boundary_control(args, step=3) == boundary_control(args, step=5) == (False, False)


def test_boundary_neither_saves_nor_evaluates_in_a_run_that_does_not(config):
    args = config(stage="both", stage_1_steps=4, save_strategy="no", eval_strategy="no")
    assert boundary_control(args, step=4) == (False, False)


def test_boundary_takes_nothing_back(config):
    args = config(stage="both", stage_1_steps=4, save_strategy="no", eval_strategy="no")
    control = TrainerControl(should_save=True, should_evaluate=True)
    StageBoundary(args).on_step_end(args, TrainerState(global_step=4, max_steps=10), control)
    assert (control.should_save, control.should_evaluate) == (True, True)


@pytest.mark.parametrize("stage", ["1", "2"])
def test_runs_of_one_stage_have_no_boundary(config, stage):
    args = config(stage=stage, save_strategy="steps", eval_strategy="steps", eval_steps=3)
    for step in range(11):
        assert boundary_control(args, step) == (False, False)


# SIGTERM


@pytest.fixture
def own_handler():
    """A handler of the user's, and the signals that it got."""
    got = []

    def handler(number, frame):
        got.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    yield handler, got
    signal.signal(signal.SIGTERM, before)


def save_on_sigterm():
    return SaveOnSigterm(on_any_process=lambda flag: flag)


def end_of_step(callback):
    control = callback.on_step_end(None, TrainerState(), TrainerControl())
    assert control.should_save == control.should_training_stop
    return control.should_training_stop


def test_sigterm_ends_training_with_a_checkpoint_after_the_step(own_handler):
    callback = save_on_sigterm()
    with callback.listening():
        assert not end_of_step(callback)
        signal.raise_signal(signal.SIGTERM)
        assert end_of_step(callback)
    assert callback.is_received and own_handler[1] == []


def test_sigterm_of_another_process_counts():
    callback = SaveOnSigterm(on_any_process=lambda flag: True)
    assert end_of_step(callback)
    assert callback.is_received


def test_second_sigterm_calls_the_handler_of_before(own_handler):
    callback = save_on_sigterm()
    with callback.listening():
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
    assert own_handler[1] == [signal.SIGTERM] * 2


@pytest.mark.parametrize("sigterms", [0, 1])
@pytest.mark.parametrize("fails", [True, False])
def test_handler_is_in_its_place_again_after_training(fails, sigterms, own_handler):
    handler, got = own_handler
    with contextlib.suppress(OSError), save_on_sigterm().listening():
        assert signal.getsignal(signal.SIGTERM) is not handler
        for _ in range(sigterms):
            signal.raise_signal(signal.SIGTERM)
        if fails:
            raise OSError
    assert signal.getsignal(signal.SIGTERM) is handler
    signal.raise_signal(signal.SIGTERM)
    assert got == [signal.SIGTERM]


def test_outside_the_main_thread_nothing_is_heard_and_nothing_fails(own_handler):
    callback, handlers = save_on_sigterm(), []

    def train():
        with callback.listening():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert handlers == [own_handler[0]]


def status_of_fork(do):
    """Runs something in a forked process, with the default handler, and returns how that ended."""
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        do()
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_second_sigterm_ends_the_process():
    def twice():
        with save_on_sigterm().listening():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    assert status_of_fork(twice) == -signal.SIGTERM


def test_one_sigterm_does_not():
    def once():
        with save_on_sigterm().listening():
            signal.raise_signal(signal.SIGTERM)

    assert status_of_fork(once) == 7


def test_forked_worker_dies_of_its_sigterm_and_ends_no_training():
    def with_worker():
        callback = save_on_sigterm()
        with callback.listening():
            worker = os.fork()
            if worker == 0:
                signal.raise_signal(signal.SIGTERM)
                os._exit(8)
            _, status = os.waitpid(worker, 0)
            is_right = os.waitstatus_to_exitcode(status) == -signal.SIGTERM and not callback.is_received
            os._exit(0 if is_right else 9)

    assert status_of_fork(with_worker) == 0


# Collapse detectors


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_is_silent_while_nothing_is_wrong(name, caplog):
    detector = DETECTORS[name][0](patience=1)
    for _ in range(3):
        log(detector, {})
    assert detector.messages == caplog.messages == []


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_warns_once_after_its_patience(name, caplog):
    detector_class, changes, message = DETECTORS[name]
    detector = detector_class(patience=3)
    log(detector, {})
    with caplog.at_level(logging.WARNING, logger="trl_score.callbacks"):
        for step in range(1, 8):
            control = log(detector, changes, step=step)
            assert len(detector.messages) == (1 if step >= 3 else 0)
            assert not control.should_training_stop
    (warning,) = caplog.messages
    assert warning.startswith(f"Step 3, {detector_class.__name__}: ")
    assert message in warning


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_counts_entries_in_a_row_and_speaks_again_when_it_sets_in_again(name):
    detector_class, changes, _ = DETECTORS[name]
    detector = detector_class(patience=2)
    log(detector, {})
    for changed in (changes, {}, changes, {}):
        log(detector, changed)
    assert detector.messages == []
    for changed in (changes, changes, {}, changes, changes):
        log(detector, changed)
    assert len(detector.messages) == 2


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_stops_the_run_if_asked_to(name):
    detector_class, changes, _ = DETECTORS[name]
    detector = detector_class(patience=2, stop=True)
    assert not log(detector, {}).should_training_stop
    assert not log(detector, changes).should_training_stop
    assert log(detector, changes).should_training_stop


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_never_takes_a_stop_back(name):
    control = TrainerControl(should_training_stop=True)
    assert log(DETECTORS[name][0](), {}, control).should_training_stop


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_looks_at_training_logs_only(name):
    detector_class, changes, _ = DETECTORS[name]
    detector = detector_class(patience=1)
    log(detector, {})
    state, control = TrainerState(), TrainerControl()
    evaluation = {f"eval_{key}": value for key, value in {**HEALTHY, **changes}.items()}
    for logs in (evaluation, {"loss": 1.0}, {"train_runtime": 1.0}, {}, None):
        detector.on_log(None, state, control, logs=logs)
    assert detector.messages == []


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("key", [key for key in SCORE_LOG_KEYS if key not in ("score/stage", "score/beta_2")])
def test_detector_bears_values_that_could_not_be_counted(name, key):
    detector_class, changes, _ = DETECTORS[name]
    detector = detector_class(patience=1)
    log(detector, {key: None})
    log(detector, {**changes, key: None})


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_needs_some_patience(name):
    with pytest.raises(ValueError, match="`patience` must be at least 1 log entry, got 0"):
        DETECTORS[name][0](patience=0)


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_and_its_rule_have_the_same_thresholds(name):
    detector_class = DETECTORS[name][0]
    rule_class = type(detector_class().rule)
    of_detector, of_rule = (
        {name: value.default for name, value in inspect.signature(each).parameters.items()}
        for each in (detector_class, rule_class)
    )
    assert of_detector == {**of_rule, "stop": False}
    assert rule_class.__name__ == detector_class.__name__.replace("Detector", "Rule")


@pytest.mark.parametrize("changes", [{"score/answers_changed": 0.02}, {"score/edit_distance_ratio": 0.02}])
def test_copy_needs_both_the_answer_and_the_text_unchanged(changes):
    detector = CopyDetector(patience=1)
    log(detector, {**COPYING, **changes})
    assert detector.messages == []


def test_sandbagging_is_measured_from_turn_1s_best():
    detector = SandbaggingDetector(most_lost=0.1, patience=1)
    for accuracy, delta in ((0.4, 0.0), (0.6, 0.05), (0.55, 0.2), (0.5, 0.3)):
        log(detector, {"score/accuracy_t1": accuracy, "score/delta_t1_t2": delta})
    assert detector.messages == []  # 0.6 - 0.5 is not more than 0.1
    log(detector, {"score/accuracy_t1": 0.45, "score/delta_t1_t2": 0.05})
    assert detector.messages == []  # turn 1 lost, and the bonus with it: that is forgetting, not sandbagging
    log(detector, {"score/accuracy_t1": 0.45, "score/delta_t1_t2": 0.06})
    assert len(detector.messages) == 1


def test_kl_budget_of_each_turn_and_without_a_reference():
    detector = KLBudgetDetector(budget_t1=1.0, budget_t2=2.0, patience=1)
    without = {key: value for key, value in HEALTHY.items() if "/kl" not in key}
    detector.on_log(None, TrainerState(), TrainerControl(), logs=without)
    log(detector, {"score/kl_t1": 1.0, "score/kl_t2": 2.0})
    assert detector.messages == []
    log(detector, {"score/kl_t2": 2.5})
    assert "score/kl_t2 is 2.50 nats per sequence, budget 2.00" in detector.messages[0]


def test_truncation_of_either_turn():
    for turn in (1, 2):
        detector = TruncationDetector(most_truncated=0.25, patience=1)
        log(detector, {f"score/truncated_t{turn}": 0.25})
        assert detector.messages == []
        log(detector, {f"score/truncated_t{turn}": 0.5})
        assert f"Raise `max_completion_length_t{turn}`" in detector.messages[0]


# The table of both turns

ROWS = [
    {
        "prompt": [{"role": "user", "content": "What is [bold]17 + 25?"}],
        "completion_t1": [{"role": "assistant", "content": "It is 32."}],
        "completion_t2": [{"role": "assistant", "content": "It is 42 [/red]."}],
        "accuracy_t1": 0.0,
        "accuracy_t2": 1.0,
        "parsed_t1": [3, 2],
        "parsed_t2": [],
        "advantage_t1": -0.5,
        "advantage_t2": 10.25,
    },
    {
        "prompt": "2 + 2 =",
        "completion_t1": "4",
        "completion_t2": "5",
        "accuracy_t1": 1.0,
        "accuracy_t2": None,
        "parsed_t1": None,
        "parsed_t2": None,
        "advantage_t1": 0.5,
        "advantage_t2": 0.0,
    },
]


def test_printed_table_has_both_turns_side_by_side(capsys):
    print_turns_table(ROWS, step=12)
    lines = capsys.readouterr().out.splitlines()
    assert any("Step 12: What is [bold]17 + 25?" in line for line in lines)  # not read as markup
    for name, first, second in (
        ("completion", "It is 32.", "It is 42 [/red]."),
        ("accuracy", "0.00", "1.00"),
        ("advantage", "-0.50", "10.25"),
        ("completion", "4", "5"),
        ("accuracy", "1.00", "None"),
    ):
        (line,) = [line for line in lines if name in line and first in line and second in line]
        assert line.index(first) < line.rindex(second)


def test_printed_table_has_as_many_rows_as_asked_for(capsys):
    print_turns_table(ROWS, step=12, num_rows=1)
    printed = capsys.readouterr().out
    assert "It is 32." in printed
    assert "2 + 2 =" not in printed
    print_turns_table(ROWS, step=12, num_rows=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("prefix", ["", "eval_"])
def test_saved_table_has_both_turns(tmp_path, prefix):
    rows = [{**row, "parsed_t1": "32", "parsed_t2": "42"} for row in ROWS[1:]] * 2
    save_turns_table(rows, str(tmp_path), step=12, report_to=[], prefix=prefix)
    frame = pd.read_parquet(tmp_path / "completions" / f"{prefix}completions_00012.parquet")
    assert frame["step"].tolist() == [12, 12]
    assert frame["completion_t1"].tolist() == ["4", "4"]
    assert frame["completion_t2"].tolist() == ["5", "5"]
    assert frame["advantage_t1"].tolist() == [0.5, 0.5]
    assert frame["accuracy_t2"].isna().all()


def test_saved_table_keeps_messages(tmp_path):
    save_turns_table(ROWS[:1], str(tmp_path), step=1, report_to=None)
    frame = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert [dict(message) for message in frame["completion_t2"][0]] == ROWS[0]["completion_t2"]


def test_detector_of_a_resumed_run_has_seen_what_was_logged():
    state = TrainerState(log_history=[{**HEALTHY, **COPYING}, {"eval_score/accuracy_t1": 1.0}, {**HEALTHY, **COPYING}])
    resumed, anew = CopyDetector(patience=3, stop=True), CopyDetector(patience=3, stop=True)
    resumed.on_train_begin(None, state, TrainerControl())
    assert log(resumed, COPYING).should_training_stop
    assert not log(anew, COPYING).should_training_stop
    # What it found before the run was interrupted is not said again, and does not stop it again.
    again = CopyDetector(patience=2, stop=True)
    again.on_train_begin(None, state, TrainerControl())
    assert len(again.messages) == 1
    assert not log(again, COPYING).should_training_stop
