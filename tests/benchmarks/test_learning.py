"""When delta(t1, t2) holds above 0, and what a checkpoint of each kind of run has cost, on folders made by hand."""

import json
import os
from pathlib import Path

import learning
import pytest
from learning import Point, checkpoints_of, compare, holds_from
from measure import parse_options


def points(*deltas: float) -> list[Point]:
    return [Point(100.0 * number, float(number), delta) for number, delta in enumerate(deltas)]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ((-1, 1, 1, 1, 1, 1, -1), 100.0),
        ((-1, 1, 1, 1, 1, -1, 1, 1, 1, 1, 1), 600.0),
        ((-1, 1, 1, 1, 1), None),  # four in a row, and then the run is over
        ((1, 1, 0, 1, 1, 1), None),  # 0 is not above 0
        ((-1,), None),
    ],
)
def test_holds_from(deltas: tuple[float, ...], expected: float | None) -> None:
    found = holds_from(points(*deltas))
    assert (found.rollouts if found else None) == expected


def write_state(folder: Path, written: float) -> None:
    """What a trainer leaves when it has finished writing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text("{}")
    os.utime(folder / "trainer_state.json", (written, written))


def write_run(folder: Path, checkpoints: dict[str, float], samples: int, updates: int) -> None:
    """A run that began at 1,000 and trained for 90 seconds."""
    for name, written in checkpoints.items():
        write_state(folder / name, written)
    write_state(folder, 1090.0)
    summary = {"samples": samples, "updates": updates, "seconds": {"training": 90.0}}
    (folder / "summary.json").write_text(json.dumps(summary))


def costs(folder: Path, method: str) -> list[tuple[str, float, float]]:
    return [(str(path.relative_to(folder)), rollouts, s) for path, rollouts, s in checkpoints_of(folder, method)]


def test_a_run_that_learns_from_its_rollouts_as_it_makes_them(tmp_path: Path) -> None:
    write_run(tmp_path, {"checkpoint-5": 1050.0, "checkpoint-10": 1090.0}, samples=4000, updates=10)
    assert costs(tmp_path, "score") == [("checkpoint-5", 1000.0, 50.0), ("checkpoint-10", 2000.0, 90.0)]


def test_traces_are_paid_before_they_are_learned_from(tmp_path: Path) -> None:
    written = {"iteration_1/checkpoint-2": 1030.0, "iteration_2/checkpoint-2": 1060.0, "checkpoint-2": 1090.0}
    write_run(tmp_path, written, samples=6000, updates=6)
    expected = [("iteration_1/checkpoint-2", 1000.0), ("iteration_2/checkpoint-2", 2000.0), ("checkpoint-2", 3000.0)]
    assert [cost[:2] for cost in costs(tmp_path, "star_plus")] == expected


def test_traces_after_stage_1(tmp_path: Path) -> None:
    written = {"stage_1/checkpoint-3": 1040.0, "iteration_1/checkpoint-1": 1060.0, "checkpoint-2": 1090.0}
    write_run(tmp_path, written, samples=6000, updates=6)
    assert costs(tmp_path, "score_star_stage_2") == [
        ("stage_1/checkpoint-3", 1500.0, 40.0),
        ("iteration_1/checkpoint-1", 2250.0, 60.0),
        ("checkpoint-2", 3000.0, 90.0),
    ]


@pytest.mark.parametrize(
    ("ours", "other", "ratio"),
    [(Point(100, 1, 0.1), Point(250, 2, 0.1), 2.5), (Point(100, 1, 0.1), None, None), (None, None, None)],
)
def test_there_is_no_ratio_to_what_was_never_learned(ours: Point | None, other: Point | None, ratio: float) -> None:
    options = parse_options(None, output="rows.json", arguments=[])
    assert compare("rollouts", ours, other, learning.BASELINES[0], options).ratio == ratio
