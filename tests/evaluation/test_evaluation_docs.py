"""docs/evaluation.md says of records and metrics what the code says."""

from pathlib import Path

from trl_score.evaluation.folder import DESCRIPTION, METRICS, RECORDS
from trl_score.evaluation.metrics import summarize_records
from trl_score.evaluation.records import EvaluationRecord

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
RECORD = EvaluationRecord("2+2?", ("5", "4"), (0.0, 1.0), ("5", "4"), "2+2?", task="sums", level=1, truncated=(0, 0))


def first_column(header):
    """The names in the first column of the table that begins with `| header |`."""
    lines = PAGE.split(f"| {header} |")[1].split("\n\n")[0].splitlines()[2:]
    return [name.strip("` ") for line in lines for name in line.split("|")[1].split(",")]


def test_fields_of_a_record():
    assert first_column("field") == list(RECORD.as_dict())


def test_what_a_turn_changed():
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `changes` |")]
    (change,) = RECORD.changes()
    assert all(f"`{name}`" in row for name in change)


def test_keys_of_the_metrics():
    summary = summarize_records([RECORD, EvaluationRecord.from_dict({**RECORD.as_dict(), "sample": 1})])
    assert first_column("key") == ["evaluation", "versions", *summary]
    pair = next(line for line in PAGE.splitlines() if line.startswith("| `pairs` |"))
    beyond = set(summary["pairs"]["t1_t2"]) - {"edit_distance_ratio_indel", "delta_standard_error"}
    metrics_page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert all(f"| `{name}` |" in metrics_page for name in beyond)
    assert "`edit_distance_ratio_indel`" in pair and "`delta_standard_error`" in pair
    level = next(line for line in PAGE.splitlines() if line.startswith("| `by_level` |"))
    assert all(f"`{name}`" in level for name in summary["by_level"]["1"])


def test_files_of_the_folder():
    assert first_column("file")[:3] == [DESCRIPTION, RECORDS, METRICS]
