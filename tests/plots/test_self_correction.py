"""Tests of the figures of what turn 2 does: points, intervals, histograms, and bad input."""

from itertools import pairwise

import numpy as np
import pytest

from trl_score.metrics import Interval
from trl_score.plots import plot_accuracy_by_turn, plot_edit_distance_histogram, plot_stage_summary


def metric(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


GREEDY = {
    "base": {
        "accuracy_t1": metric(0.5, 0.45, 0.55),
        "accuracy_t2": metric(0.4, 0.35, 0.45),
        "delta_t1_t2": metric(-0.1, -0.13, -0.07),
    },
    "stage2": {
        "accuracy_t1": metric(0.6, 0.55, 0.66),
        "accuracy_t2": metric(0.7, 0.65, 0.75),
        "delta_t1_t2": metric(0.1, 0.08, 0.12),
    },
}
SUMMARY = {
    "base": {"greedy": GREEDY["base"], "sampled": GREEDY["base"]},
    "stage2": {"greedy": GREEDY["stage2"]},
    "seed": 0,
}


def error_bars(ax):
    """Label of each set of points -> its x, y, and the ends of its bars."""
    drawn = {}
    for container in ax.containers:
        points, _, (bars,) = container
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        drawn[container.get_label()] = (points.get_xdata(), points.get_ydata(), ends)
    return drawn


def test_stage_summary_draws_values_and_intervals():
    _, (greedy, sampled) = plot_stage_summary(SUMMARY)
    x, y, ends = error_bars(greedy)["turn 1"]
    assert x == pytest.approx([-0.12, 0.88], abs=1e-12)
    assert list(y) == [0.5, 0.6]
    assert ends[0] == pytest.approx([0.45, 0.55], abs=1e-12)
    assert ends[1] == pytest.approx([0.55, 0.66], abs=1e-12)
    x, y, ends = error_bars(greedy)["turn 2"]
    assert x == pytest.approx([0.12, 1.12], abs=1e-12)
    assert list(y) == [0.4, 0.7]
    assert ends[1] == pytest.approx([0.65, 0.75], abs=1e-12)
    assert [ax.get_title() for ax in (greedy, sampled)] == ["greedy", "sampled"]
    assert [label.get_text() for label in greedy.get_xticklabels()] == ["base", "after Stage II"]
    assert [label.get_text() for label in sampled.get_xticklabels()] == ["base"]
    assert greedy.get_ylabel() == "accuracy"


def test_stage_summary_writes_delta_above_the_higher_interval():
    _, (greedy, _) = plot_stage_summary(SUMMARY)
    texts = [(text.get_text(), text.xy) for text in greedy.texts]
    assert [text for text, _ in texts] == ["Δ −10.0\n[−13.0, −7.0]", "Δ +10.0\n[+8.0, +12.0]"]
    assert texts[0][1] == pytest.approx((0, 0.55), abs=1e-12)
    assert texts[1][1] == pytest.approx((1, 0.75), abs=1e-12)


def test_stage_summary_texts_lie_within_the_panel_and_apart():
    stages = {stage: {"greedy": GREEDY["stage2"], "sampled": GREEDY["base"]} for stage in ("base", "stage1", "stage2")}
    fig, axes = plot_stage_summary(stages)
    fig.canvas.draw()
    for ax in axes:
        frame = ax.get_window_extent()
        boxes = [text.get_window_extent() for text in ax.texts]
        assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1 for box in boxes)
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_stage_summary_without_intervals_or_delta():
    bare = {"base": {"sampled": {"accuracy_t1": metric(0.5), "accuracy_t2": metric(0.4)}}}
    _, (sampled,) = plot_stage_summary(bare)
    assert error_bars(sampled)["turn 1"][2] == [[0.5, 0.5]]
    assert not sampled.texts
    bare["base"]["sampled"]["delta_t1_t2"] = metric(-0.1)
    assert plot_stage_summary(bare)[1][0].texts[0].get_text() == "Δ −10.0"


def test_stage_summary_of_nothing_is_an_error():
    with pytest.raises(
        ValueError, match=r"one of \['base', 'stage1', 'stage2', 'trained'\], .* got the keys \['seed'\]"
    ):
        plot_stage_summary({"seed": 0})


def test_histogram_draws_shares_in_twenty_bins():
    # 0.0 and 0.04 fall into the first bin, 0.51 into the eleventh, 1.0 into the last.
    _, panels = plot_edit_distance_histogram({"base": [0.0, 0.04, 0.51, 1.0], "SCoRe": [0.5]})
    heights = [bar.get_height() for bar in panels[0].patches]
    assert len(heights) == 20
    assert (heights[0], heights[10], heights[19]) == (0.5, 0.25, 0.25)
    assert sum(heights) == pytest.approx(1.0, abs=1e-12)
    assert panels[1].patches[10].get_height() == 1.0
    assert panels[0].patches[0].get_x() == pytest.approx(0.0, abs=1e-12)
    assert panels[0].patches[0].get_width() == pytest.approx(0.05, abs=1e-12)
    assert [ax.get_title(loc="left") for ax in panels] == ["base (n = 4)", "SCoRe (n = 1)"]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert panels[1].get_xlabel() == "edit distance between turns / summed length of both"


@pytest.mark.parametrize(("kind", "name"), [("indel", "insert-and-delete"), ("levenshtein", "Levenshtein")])
def test_histogram_names_its_distance(kind, name):
    _, panels = plot_edit_distance_histogram({"base": [0.5]}, kind=kind)
    assert panels[0].get_xlabel() == f"{name} distance between turns / summed length of both"


def test_histogram_takes_an_array():
    _, panels = plot_edit_distance_histogram({"base": np.array([0.1, 0.2])})
    assert panels[0].get_title(loc="left") == "base (n = 2)"


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({}, "at least one model, got none"),
        ({"base": []}, "problems of 'base', got none"),
        ({"base": [0.5, 1.5]}, "problems of 'base', got 2 ratios from 0.5 to 1.5"),
        ({"base": [float("nan")]}, "problems of 'base', got 1 ratios from nan"),
    ],
)
def test_histogram_bad_input(ratios, message):
    with pytest.raises(ValueError, match=message):
        plot_edit_distance_histogram(ratios)


def test_accuracy_by_turn_draws_values_side_by_side():
    accuracy = {
        "base": [Interval(0.5, 0.4, 0.6), Interval(0.4, 0.35, 0.45)],
        "SCoRe": [Interval(0.6, 0.5, 0.65), Interval(0.7, 0.6, 0.75), (0.72, float("nan"), float("nan"))],
    }
    _, ax = plot_accuracy_by_turn(accuracy)
    drawn = error_bars(ax)
    assert drawn["base"][0] == pytest.approx([0.95, 1.95], abs=1e-12)
    assert drawn["SCoRe"][0] == pytest.approx([1.05, 2.05, 3.05], abs=1e-12)
    assert list(drawn["SCoRe"][1]) == [0.6, 0.7, 0.72]
    assert drawn["base"][2][1] == pytest.approx([0.35, 0.45], abs=1e-12)
    assert drawn["SCoRe"][2][2] == [0.72, 0.72]  # no bounds, no bar
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "3"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["base", "SCoRe"]


@pytest.mark.parametrize(("accuracy", "message"), [({}, "got {}"), ({"base": []}, "got {'base': 0}")])
def test_accuracy_by_turn_bad_input(accuracy, message):
    with pytest.raises(ValueError, match=message):
        plot_accuracy_by_turn(accuracy)


def test_accuracy_of_many_models_stays_within_its_turn():
    accuracy = {str(number): [Interval(0.5, 0.4, 0.6)] * 2 for number in range(13)}
    _, ax = plot_accuracy_by_turn(accuracy)
    drawn = error_bars(ax)
    assert drawn["12"][0][0] < 1.5 < drawn["0"][0][1]
