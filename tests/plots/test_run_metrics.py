"""The table's rows: the summary's, and of the records what the summary does not have already."""

import json

import pytest

from trl_score.metrics import self_correction_metrics
from trl_score.plots.run_folder import read_run
from trl_score.plots.run_metrics import TABLE_METRICS, evaluated_models

ROWS = [
    {"prompt": "1+2", "turns": ["4", "3"], "rewards": [0.0, 1.0]},
    {"prompt": "3+4", "turns": ["7", "7"], "rewards": [1.0, 1.0]},
]


@pytest.fixture
def write_run(tmp_path):
    def write(rows, num_problems=2):
        (tmp_path / "records.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        metrics = self_correction_metrics(
            [row["rewards"] for row in ROWS], [row["turns"] for row in ROWS], [row["turns"] for row in ROWS]
        )
        greedy = {name: metrics[name].as_dict() for name in TABLE_METRICS}
        (tmp_path / "summary.json").write_text(json.dumps({"stage1": {"greedy": greedy}, "num_problems": num_problems}))
        return [model.label for model in evaluated_models(read_run(tmp_path))]

    return write


def test_records_that_the_summary_was_made_from_stand_once(write_run):
    assert write_run(ROWS) == ["after Stage I, greedy"]


def test_other_records_stand_beside_it(write_run):
    both = ["after Stage I, greedy", "records"]
    assert write_run([ROWS[0], {**ROWS[1], "turns": ["7", "8"]}]) == both  # another answer changed
    assert write_run([*ROWS, ROWS[1]]) == both
    assert write_run(ROWS, num_problems=3) == both


def test_samples_of_a_problem_are_one_problem(tmp_path):
    rows = [{**row, "sample": sample} for sample in (0, 1) for row in ROWS]
    (tmp_path / "records.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert [model.num_problems for model in evaluated_models(read_run(tmp_path))] == [2]


def test_the_summary_of_a_baseline_has_its_result_too(tmp_path, write_run):
    write_run(ROWS)
    saved = json.loads((tmp_path / "summary.json").read_text())
    saved["trained"] = saved.pop("stage1")
    (tmp_path / "summary.json").write_text(json.dumps(saved))
    assert [model.label for model in evaluated_models(read_run(tmp_path))] == ["trained, greedy"]
