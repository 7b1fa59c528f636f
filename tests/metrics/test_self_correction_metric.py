"""Tests of the module for `evaluate`: it loads by path without a network, and gives the pure functions' numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trl_score import metrics
from trl_score.metrics import compare_deltas, self_correction_metrics
from trl_score.metrics.self_correction_metric.self_correction_metric import SelfCorrectionMetric

FOLDER = Path(metrics.__file__).parent / "self_correction_metric"
ANSWERS = [["3", "4"], ["5", "5 "], ["6", None], ["1", "2"]]
REFERENCES = ["4", "5", "6", "3"]
CORRECT = [[0, 1], [1, 1], [1, 0], [0, 0]]  # white space around an answer does not count


@pytest.fixture
def make_metric(tmp_path):
    """Makes the module as `evaluate.load` does, with its cache in a folder of the test."""

    def make(config_name=None):
        return SelfCorrectionMetric(config_name=config_name, cache_dir=str(tmp_path))

    return make


def test_answers_and_references(make_metric):
    results = make_metric().compute(predictions=ANSWERS, references=REFERENCES)
    expected = self_correction_metrics(CORRECT, ANSWERS)
    for name, interval in expected.items():
        assert results[name] == interval.as_dict()
    assert results["accuracy_t1"]["value"] == 0.5
    # "5" and "5 " are other strings, though both right: 4 of 4 changed.
    assert results["answers_changed"]["value"] == 1.0
    # One fixed, one broken of 4, delta 0: sqrt(0.5 / 4).
    assert results["delta_standard_error"] == pytest.approx(0.353553, abs=1e-6)
    assert (results["num_problems"], results["num_unscorable"]) == (4, 0)


def test_correctness_in_batches_with_options(make_metric):
    metric = make_metric("correctness")
    metric.add_batch(predictions=[[0, 1, 0], [1, 1, 1]])
    metric.add_batch(predictions=[[None, 1, 1]])
    results = metric.compute(turns=[1, 3], bootstrap=0, seed=1)
    assert results["accuracy_t3"] == {"value": 0.5, "low": None, "high": None}
    assert "answers_changed" not in results
    assert (results["num_problems"], results["num_unscorable"]) == (3, 1)


def test_texts_and_accuracy_by_turn(make_metric):
    texts = [["It is 3", "It is 4"], ["5", "5"], ["6", "-"], ["1", "2"]]
    results = make_metric().compute(
        predictions=ANSWERS, references=REFERENCES, texts=texts, edit_distance="indel", bootstrap=0
    )
    expected = self_correction_metrics(CORRECT, ANSWERS, texts, edit_distance="indel", bootstrap=0)
    assert {name: results[name] for name in expected} == {name: one.as_dict() for name, one in expected.items()}
    # One letter of seven is another, 2 / 14; none of two; all of two, twice: (1/7 + 0 + 1 + 1) / 4.
    assert results["edit_distance_ratio"]["value"] == pytest.approx((1 / 7 + 2) / 4)
    assert results["turns_unchanged"]["value"] == 0.25
    by_turn = make_metric("correctness").compute(predictions=[[0, 1, 1], [0, 0, 1]])["accuracy_by_turn"]
    assert [interval["value"] for interval in by_turn] == [0.0, 0.5, 1.0]


def test_several_samples_of_a_problem(make_metric):
    answers = [["1", "2"], ["2", "3"], ["2", "2"], ["5", "4"], ["4", "4"], ["6", "4"]]
    options = {"groups": ["a", "a", "a", "b", "b", "b"], "ks": [1, 3], "bootstrap": 0}
    results = make_metric().compute(predictions=answers, references=["2"] * 3 + ["4"] * 3, **options)
    for name, expected in {
        # Of a two of three samples are right at either turn, of b one and then all.
        "pass_at_k": {"t1": {"1": 0.5, "3": 1.0}, "t2": {"1": (2 / 3 + 1) / 2, "3": 1.0}},
        # The votes on a are 1 2 2 and 2 3 2, on b 5 4 6 (a tie, to the first) and 4 4 4.
        "maj_at_k": {"t1": {"1": 0.0, "3": 0.5}, "t2": {"1": 1.0, "3": 1.0}},
    }.items():
        found = {turn: {k: one["value"] for k, one in curve.items()} for turn, curve in results[name].items()}
        assert found == {turn: pytest.approx(curve) for turn, curve in expected.items()}
    scored = make_metric("correctness").compute(predictions=[[0, 1]] * 6, **options)
    assert "maj_at_k" not in scored and scored["pass_at_k"]["t2"]["3"]["value"] == 1.0
    with pytest.raises(ValueError, match="Expected `groups`, the problem of each row, with `ks`, got None"):
        make_metric("correctness").compute(predictions=[[0, 1]] * 4, ks=[1])


def test_paired_tests_against_another_model(make_metric):
    other = [["4", "4"], ["0", "0"], ["0", "0"], ["0", "0"]]
    compared = make_metric().compute(predictions=ANSWERS, references=REFERENCES, other_predictions=other)["compared"]
    # Right at turn 1: the other 1 0 0 0, this 0 1 1 0; at turn 2: the other 1 0 0 0, this 1 1 0 0.
    assert compared["accuracy_t1"]["difference"]["value"] == 0.25
    assert compared["mcnemar_t1"] == {"only_other": 1, "only_this": 2, "p_value": 1.0, "num_unscorable": 0}
    assert (compared["mcnemar_t2"]["only_other"], compared["mcnemar_t2"]["only_this"]) == (0, 1)
    # Delta of this 1 0 -1 0, of the other 0.
    expected = compare_deltas([[1, 1], [0, 0], [0, 0], [0, 0]], CORRECT)
    assert compared["delta_t1_t2"]["p_value"] == expected.p_value
    assert compared["delta_t1_t2"]["difference"] == expected.difference.as_dict()
    sampled = make_metric("correctness").compute(
        predictions=CORRECT, other_predictions=CORRECT, groups=["a", "a", "b", "b"]
    )["compared"]
    assert "mcnemar_t1" not in sampled and sampled["accuracy_t1"]["difference"]["value"] == 0.0


def test_unknown_configuration(make_metric):
    with pytest.raises(ValueError, match=r"one of \['correctness', 'default'\], got 'rewards'"):
        make_metric("rewards")


def test_loads_by_path_in_a_fresh_process_without_network(tmp_path):
    # Any connection is an error there.
    program = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('reached for the network')\n"
        "socket.socket.connect = refuse\n"
        "import evaluate\n"
        f"metric = evaluate.load({str(FOLDER)!r})\n"
        "print(metric.compute(predictions=[['3', '4']], references=['4'])['delta_t1_t2']['value'])\n"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(Path(metrics.__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1.0"
