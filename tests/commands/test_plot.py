"""`trl-score plot` as a user meets it: files written, and one sentence for each thing that cannot be drawn."""

import json

import pytest

from trl_score.cli import main


def write_run(folder, reward="sum_reward"):
    folder.mkdir(parents=True)
    history = [{"step": 1, "score/length_t1": 8.0, "score/length_t2": 9.0, f"rewards/{reward}/mean": 0.5}]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder


def write_records(folder, task):
    folder.mkdir(parents=True, exist_ok=True)
    row = {"prompt": "1+2", "turns": ["4", "3"], "rewards": [0.0, 1.0], "task": task}
    (folder / "records.jsonl").write_text(f"{json.dumps(row)}\n" * 2)


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "SCoRe")


def fail(capsys, *arguments):
    """Runs the command, which must end with code 2 and one sentence; gives the sentence."""
    assert main(["plot", *map(str, arguments)]) == 2
    written = capsys.readouterr()
    assert written.out == "" and written.err.startswith("trl-score plot: ") and written.err.count("\n") == 1
    return written.err


def test_figures_are_written_and_named(run_folder, tmp_path, capsys):
    assert main(["plot", str(run_folder), "--output", str(tmp_path / "figures")]) == 0
    names = [tmp_path / "figures" / f"turn_lengths{suffix}" for suffix in (".png", ".svg")]
    assert capsys.readouterr().out.split() == [str(name) for name in names]
    assert all(name.stat().st_size > 1000 for name in names)


def test_several_runs_are_called_after_their_labels(run_folder, tmp_path):
    other = write_run(tmp_path / "other")
    config = tmp_path / "plot.yaml"
    config.write_text(f"runs: ['{run_folder}', '{other}']\nlabels: [full, no Stage I]\noutput: '{tmp_path}/figures'\n")
    assert main(["plot", "--config", str(config)]) == 0
    svg = (tmp_path / "figures" / "turn_lengths.svg").read_text()
    assert "<!-- full -->" in svg and "<!-- no Stage I -->" in svg


def test_each_run_needs_a_label_of_its_own(run_folder, tmp_path, capsys):
    for labels in (["a", "b"], ["a", "a"]):
        message = fail(capsys, run_folder, "--output", tmp_path / "f", "--labels", *labels)
        assert "Expected a label of its own for each of 1 runs" in message


def test_nothing_is_replaced_unless_it_is_said(run_folder, tmp_path, capsys):
    figure = tmp_path / "figures" / "turn_lengths.png"
    figure.parent.mkdir()
    figure.write_text("mine")
    assert "`--overwrite`" in fail(capsys, run_folder, "--output", figure.parent)
    assert [path.read_text() for path in figure.parent.iterdir()] == ["mine"]
    assert main(["plot", str(run_folder), "--output", str(figure.parent), "--overwrite"]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_run(tmp_path, capsys):
    output = tmp_path / "figures"
    assert "folder of a run, got" in fail(capsys, tmp_path / "nowhere", "--output", output)
    (tmp_path / "empty").mkdir()
    assert "Expected logs (`trainer_state.json`) or records" in fail(capsys, tmp_path / "empty", "--output", output)
    assert not output.exists()


def test_runs_of_unlike_tasks(run_folder, tmp_path, capsys):
    other = write_run(tmp_path / "maths", reward="maths_reward")
    assert "runs of like tasks" in fail(capsys, run_folder, other, "--output", tmp_path / "figures")
    write_records(tmp_path / "a", "gsm8k")
    write_records(tmp_path / "b", "math")
    assert "runs of like tasks" in fail(capsys, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("name", ["records.jsonl", "trainer_state.json"])
def test_a_file_cut_in_the_middle_of_a_line(run_folder, tmp_path, capsys, name):
    write_records(run_folder, "sums")
    file = run_folder / name
    file.write_text(file.read_text()[:-10])
    message = fail(capsys, run_folder, "--output", tmp_path / "figures")
    assert name in message and "cut off" in message
    assert not (tmp_path / "figures").exists()


def test_a_folder_that_cannot_be_made(run_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "file" in fail(capsys, run_folder, "--output", tmp_path / "file" / "figures")
