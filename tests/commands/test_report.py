"""`trl-score report` as a user meets it; what stands in the page is tested in tests/test_report.py."""

import json

import pytest

from trl_score.cli import main


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    row = {"prompt": "1+2", "turns": ["4", "3"], "rewards": [0.0, 1.0]}
    (folder / "records.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    return folder


def fail(capsys, *arguments):
    assert main(["report", *map(str, arguments)]) == 2
    written = capsys.readouterr()
    assert written.out == "" and written.err.startswith("trl-score report: ") and written.err.count("\n") == 1
    return written.err


def test_the_page_is_written_and_named(run_folder, tmp_path, capsys):
    page = tmp_path / "pages" / "run.html"
    assert main(["report", str(run_folder), "--output", str(page), "--num_rollouts", "2"]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_text(encoding="utf-8").count("<article") == 2


def test_what_cannot_be_reported(run_folder, tmp_path, capsys):
    page = tmp_path / "run.html"
    assert "`num_rollouts` to be at least 1, got 0" in fail(capsys, run_folder, "--output", page, "--num_rollouts", "0")
    assert "folder of a run, got" in fail(capsys, tmp_path / "nowhere", "--output", page)
    (tmp_path / "empty").mkdir()
    assert "got neither" in fail(capsys, tmp_path / "empty", "--output", page)
    records = run_folder / "records.jsonl"
    records.write_text(records.read_text()[:-5])
    assert "whole JSON object on line 3" in fail(capsys, run_folder, "--output", page)
    assert not page.exists()


def test_nothing_is_replaced_unless_it_is_said(run_folder, tmp_path, capsys):
    page = tmp_path / "run.html"
    page.write_text("mine")
    assert "`--overwrite`" in fail(capsys, run_folder, "--output", page)
    assert page.read_text() == "mine"
    assert main(["report", str(run_folder), "--output", str(page), "--overwrite"]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
