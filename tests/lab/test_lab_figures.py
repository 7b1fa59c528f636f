"""The laboratory's figures: what their points are, and which are drawn."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lab_figures import draw_figures, figures_of, plot_changes, scaling_curves, turn_curve
from lab_runs import record_line
from lab_summary import summarise

from trl_score.plots import TurnRecord

RIGHT, FIXED, BROKEN, WRONG = (1, 1), (0, 1), (1, 0), (0, 0)


def record(problem: str, answers: str, rewards: tuple[float, ...]) -> TurnRecord:
    return TurnRecord(problem, tuple(answers), rewards, tuple(answers), problem)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def test_accuracy_by_turn_is_a_mean_over_seeds() -> None:
    first = [record("p", "xy", (0.0, 1.0)), record("q", "yy", (1.0, 1.0))]  # 1/2, 1
    second = [record("p", "xx", (0.0, 0.0)), record("q", "xy", (0.0, 1.0))]  # 0, 1/2
    assert [interval.value for interval in turn_curve([first, second])] == [0.25, 0.75]


def test_scaling_is_a_mean_over_seeds() -> None:
    right = [record("p", "xy", (0.0, 1.0))] * 2  # first turns wrong, second turns right
    wrong = [record("p", "xx", (0.0, 0.0))] * 2
    curves = scaling_curves([right, wrong])
    values = {way: {budget: point.value for budget, point in curve.items()} for way, curve in curves.items()}
    assert values == {"2K in parallel": {2: 0.0}, "K in parallel, each corrected once": {2: 0.5}}


def test_changes_are_drawn_in_points_with_their_intervals(laboratory: Callable) -> None:
    runs = {"base": [[RIGHT, BROKEN], [RIGHT, RIGHT]], "score": [[RIGHT, FIXED], [RIGHT, FIXED]]}
    _, axes = plot_changes(summarise(laboratory(runs), ["base", "score"], [0, 1]))
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["base", "SCoRe"]
    drawn = [list(container.lines[0].get_xdata()) for container in axes[0].containers]
    assert drawn == [[-25.0, 50.0], [0.0, 50.0], [25.0, 0.0]]  # delta, i->c, c->i


def test_each_figure_is_drawn_where_its_files_are(laboratory: Callable) -> None:
    runs = {name: [[RIGHT, WRONG], [RIGHT, FIXED]] for name in ("base", "pair_sft", "multi_turn_rl", "score")}
    folder: Path = laboratory(runs)
    summary = summarise(folder, list(runs), [0, 1])
    assert set(figures_of(folder, summary)) == {"changes", "training_curves", "answer_change_rate", "edit_distance"}
    for seed in (0, 1):
        more = folder / "score" / f"seed{seed}_more"
        more.mkdir()
        (more / "records_turns.jsonl").write_text(record_line(0, "abc", (0, 1, 1)))
        (more / "records_scaling.jsonl").write_text(record_line(0, "ab", (0, 1)) * 4)
        for step in (0, 15):
            checkpoint = folder / "pair_sft" / f"seed{seed}_more" / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            lines = [record_line(0, "ab", (0, 1), is_turn_1_offline=is_given) for is_given in (True, False)]
            (checkpoint / "records.jsonl").write_text("".join(lines))
    written = draw_figures(folder, summary)
    assert {file.stem for file in written} == {
        "changes",
        "training_curves",
        "answer_change_rate",
        "edit_distance",
        "accuracy_by_turn",
        "inference_scaling",
        "first_turns",
    }
    assert all(file.stat().st_size > 5_000 and file.with_suffix(".svg").is_file() for file in written)


def test_first_turns_tell_given_from_own(laboratory: Callable) -> None:
    folder: Path = laboratory({"pair_sft": [[RIGHT, WRONG]]})
    checkpoint = folder / "pair_sft" / "seed0_more" / "checkpoint-15"
    checkpoint.mkdir(parents=True)
    given = [record_line(number, "ab", (0, 1), is_turn_1_offline=True) for number in range(2)]
    own = [record_line(number, "ab", (0, number), is_turn_1_offline=False) for number in range(2)]
    (checkpoint / "records.jsonl").write_text("".join(given + own))
    _, ax = figures_of(folder, summarise(folder, ["pair_sft"], [0]))["first_turns"]()
    drawn = {container.get_label(): list(container.lines[0].get_ydata()) for container in ax.containers}
    assert drawn == {"the base's first turns": [1.0], "its own first turns": [0.5]}


def test_summary_is_json_without_nan(laboratory: Callable) -> None:
    json.dumps(summarise(laboratory({"score": [[RIGHT]]}), ["score"], [0]), allow_nan=False)
