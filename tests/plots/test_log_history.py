"""Tests of reading log histories: files, missing values, stages, smoothing."""

import json

import numpy as np
import pytest

from trl_score.plots import join_log_histories, read_log_history
from trl_score.plots.log_history import Series, StageSpan, check_logged, get_series, is_number, smooth, stage_spans


def test_reads_a_folder_or_a_file(tmp_path):
    history = [{"step": 1, "loss": 0.5}]
    file = tmp_path / "trainer_state.json"
    file.write_text(json.dumps({"log_history": history}))
    assert read_log_history(tmp_path) == history
    assert read_log_history(str(file)) == history


def test_missing_and_empty_files_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a `trainer_state\.json` or a folder .* got '.*nowhere'"):
        read_log_history(tmp_path / "nowhere")
    for content in ("[]", "{}", '{"log_history": []}'):
        (tmp_path / "trainer_state.json").write_text(content)
        with pytest.raises(ValueError, match="Expected a `log_history` with entries"):
            read_log_history(tmp_path)


def test_reads_the_last_checkpoint_where_training_was_ended(tmp_path):
    for step in (20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = {"log_history": [{"step": step}]}
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    assert read_log_history(tmp_path) == [{"step": 100}]  # the last as a number, not as a word
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 120}]}))
    assert read_log_history(tmp_path) == [{"step": 120}]


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path):
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = json.dumps({"log_history": [{"step": step, "loss": 0.5}]})
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state if step == 5 else state[:20])
    assert read_log_history(tmp_path) == [{"step": 5, "loss": 0.5}]


def test_where_all_are_cut_off_the_last_one_is_named(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text('{"log_his')
    with pytest.raises(ValueError, match=r"checkpoint-5.*cut off"):
        read_log_history(tmp_path)


def test_a_file_that_was_cut_off_is_named(tmp_path):
    (tmp_path / "trainer_state.json").write_text('{"log_history": [{"st')
    with pytest.raises(ValueError, match=r"Expected JSON in '.*trainer_state\.json', got .* cut off: .*line 1"):
        read_log_history(tmp_path)


def test_series_leaves_out_what_was_not_logged():
    history = [
        {"step": 1, "reward": 0.5},
        {"step": 2, "reward": None},
        {"step": 2, "eval_reward": 0.9},
        {"step": 3, "reward": float("nan")},
        {"step": 4, "reward": 1},
    ]
    steps, values = get_series(history, "reward")
    assert steps.tolist() == [1, 4]
    assert values.tolist() == [0.5, 1.0]
    assert get_series(history, "loss").steps.shape == (0,)


def test_steps_that_go_backwards_are_an_error():
    with pytest.raises(ValueError, match=r"steps of 'loss' to ascend, got step 5 after step 10.*`join_log_histories`"):
        get_series([{"step": 10, "loss": 1.0}, {"step": 5, "loss": 1.0}], "loss")


def test_join_counts_steps_on():
    stage1, stage2 = [{"step": 10, "a": 1}, {"step": 20, "a": 2}], [{"step": 10, "a": 3}]
    assert join_log_histories([stage1, stage2]) == [*stage1, {"step": 30, "a": 3}]
    assert stage2 == [{"step": 10, "a": 3}]  # the caller's log is left as it is


def test_check_logged_takes_training_or_evaluation():
    check_logged([{"step": 1, "eval_reward": 1.0}], ["loss", "reward"])
    with pytest.raises(ValueError, match=r"one of \['loss'\], got none\. Logged were \['reward'\]"):
        check_logged([{"step": 1, "reward": 1.0, "loss": None}], ["loss"])


def test_stage_spans_meet_midway():
    history = [{"step": step, "score/stage": stage} for step, stage in [(5, 1), (10, 1), (20, 2), (30, 2)]]
    assert stage_spans(history) == [StageSpan(1, 0.0, 15.0), StageSpan(2, 15.0, 30.0)]
    assert stage_spans(history[:2]) == [StageSpan(1, 0.0, 10.0)]
    assert stage_spans([{"step": 1, "loss": 1.0}]) == []


def test_smoothing_by_hand():
    # Windows of 3: (0+3)/2, (0+3+9)/3, (3+9+0)/3, (9+0)/2.
    series = Series(np.arange(4.0), np.array([0.0, 3.0, 9.0, 0.0]))
    assert smooth(series, [], 3).values.tolist() == [1.5, 4.0, 4.0, 4.5]
    # An even window reaches one further ahead: (0+3)/2, (3+9)/2, (9+0)/2, 0.
    assert smooth(series, [], 2).values.tolist() == [1.5, 6.0, 4.5, 0.0]
    assert smooth(series, [], 1).values.tolist() == series.values.tolist()


def test_smoothing_stops_at_the_stage_boundary():
    series = Series(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    spans = [StageSpan(1, 0.0, 2.5), StageSpan(2, 2.5, 4.0)]
    assert smooth(series, spans, 99).values.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert smooth(series, [], 99).values.tolist() == [0.5] * 4


def test_smoothing_window_must_hold_a_point():
    with pytest.raises(ValueError, match="`window` to be at least 1 point, got 0"):
        smooth(Series(np.zeros(1), np.zeros(1)), [], 0)


@pytest.mark.parametrize(("value", "expected"), [(1, True), (0.5, True), (None, False), ("1", False)])
def test_is_number(value, expected):
    assert is_number(value) is expected
