"""The laboratory's numbers: means over seeds, and each method against SCoRe, on runs whose numbers are known."""

import io
import json
from collections.abc import Callable

import pytest
from lab_statistics import t_quantile
from lab_summary import METHODS, compare_records, markdown_tables, over_seeds, print_tables, summarise
from rich.console import Console

from trl_score.baselines.methods import METHODS as TRAINABLE
from trl_score.plots import TurnRecord

RIGHT, FIXED, BROKEN, WRONG = (1, 1), (0, 1), (1, 0), (0, 0)
# Accuracy of turn 2 is 1/2 and 1/4 for the base, 1 and 3/4 for SCoRe; delta is 0 and -1/4, and 1/2 and 1/4.
RUNS = {
    "base": [[RIGHT, RIGHT, WRONG, WRONG], [RIGHT, BROKEN, WRONG, WRONG]],
    "score": [[RIGHT, RIGHT, FIXED, FIXED], [RIGHT, RIGHT, FIXED, WRONG]],
}


def make_record(question: str, rewards: tuple[float | None, float | None]) -> TurnRecord:
    return TurnRecord(question, ("a", "b"), rewards, ("a", "b"), question)


def test_methods_are_known_to_the_training_script() -> None:
    assert set(METHODS) <= set(TRAINABLE)


def test_mean_and_interval_over_seeds() -> None:
    # Values 0.2 and 0.4: mean 0.3, s = 0.1 sqrt(2), s / sqrt(2) = 0.1, and t of one degree is 12.706.
    metric = over_seeds([{"accuracy_t2": {"value": 0.2}}, {"accuracy_t2": {"value": 0.4}}])["accuracy_t2"]
    assert metric["seeds"] == [0.2, 0.4]
    assert metric["value"] == pytest.approx(0.3)
    assert metric["low"] == pytest.approx(0.3 - 1.2706, abs=1e-4)
    assert metric["high"] == pytest.approx(0.3 + 0.1 * t_quantile(0.95, 1))


def test_summary_of_all_runs(laboratory: Callable) -> None:
    summary = json.loads(json.dumps(summarise(laboratory(RUNS), ["base", "score"], [0, 1]), allow_nan=False))
    assert (summary["seeds"], summary["num_problems"]) == ([0, 1], 4)
    base, score = summary["base"], summary["score"]
    for decoding in ("greedy", "sampled"):
        assert base[decoding]["accuracy_t2"]["seeds"] == [0.5, 0.25]
        assert score[decoding]["delta_t1_t2"]["seeds"] == [0.5, 0.25]
        assert score[decoding]["delta_i_to_c"]["value"] == pytest.approx(0.375)
    assert (score["samples"], score["updates"], score["seconds"], score["commits"]) == (
        [200, 200],
        [90, 90],
        [7.0, 7.0],
        ["abc"],
    )
    assert "against_score" not in score
    compared = base["against_score"]["greedy"]
    # By seed: 1 - 0.5 and 0.75 - 0.25, twice a half, without spread.
    assert compared["accuracy_t2"]["seeds"] == {"difference": {"value": 0.5, "low": 0.5, "high": 0.5}, "p_value": 0.0}
    # By problem, over both seeds: differences of turn 2 are 0+0, 0+1, 1+1, 1+0; of delta 0+0, 0+1, 1+1, 1+0 too.
    assert compared["accuracy_t2"]["problems"]["difference"]["value"] == pytest.approx(0.5)
    assert compared["delta_t1_t2"]["problems"]["difference"]["value"] == pytest.approx(0.5)
    # Three problems differ, all to one side: of their 8 signs 2 are as far from 0.
    assert compared["accuracy_t2"]["problems"]["p_value"] == pytest.approx(0.25, abs=0.02)
    assert compared["accuracy_t1"]["problems"]["difference"]["value"] == 0


def test_single_seed_has_no_p_value_over_seeds(laboratory: Callable) -> None:
    summary = summarise(laboratory(RUNS), ["base", "score"], [0])
    compared = summary["base"]["against_score"]["greedy"]["accuracy_t2"]["seeds"]
    assert compared == {"difference": {"value": 0.5, "low": None, "high": None}, "p_value": None}
    print_tables(Console(file=io.StringIO()), summary)


def test_unlike_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="same problems in the same order, got 1 and 1 that differ"):
        compare_records([make_record("a", (1.0, 1.0))], [make_record("b", (1.0, 1.0))], "accuracy_t2")


def test_unscorable_turns_are_left_out() -> None:
    records = [make_record(name, (0.0, reward)) for name, reward in (("a", 0.0), ("b", None), ("c", 0.0))]
    better = [make_record(name, (0.0, 1.0)) for name in "abc"]
    for metric in ("accuracy_t2", "delta_t1_t2"):
        assert compare_records(records, better, metric)["difference"]["value"] == 1.0


def test_tables_name_each_method_and_each_difference(laboratory: Callable) -> None:
    shown = io.StringIO()
    print_tables(Console(file=shown, width=100), summarise(laboratory(RUNS), ["base", "score"], [0, 1]))
    text = shown.getvalue()
    assert "intervals over seeds" in text and "4 problems" in text
    assert "+50.0" in text  # SCoRe less the base
    assert text.count("SCoRe less the method") == 2


def test_markdown_has_means_and_half_widths(laboratory: Callable) -> None:
    lines = markdown_tables(summarise(laboratory(RUNS), ["base", "score"], [0, 1])).splitlines()
    # Turn 2 of the base: 50 and 25, mean 37.5, s / sqrt(2) = 12.5, and t of one degree is 12.706.
    assert lines[2] == "| base | 50.0 ± 0.0 | 37.5 ± 158.8 | -12.5 ± 158.8 | 0.0 ± 0.0 | 12.5 ± 158.8 |"
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][:4] == [
        "greedy",
        "---",
        "base",
        "SCoRe",
    ]
    assert next(line for line in lines if line.startswith("| SCoRe less ..., sampled"))
    assert "| base | +50.0 | < 0.001 | 0.2" in lines[-1]
