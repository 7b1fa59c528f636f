"""A checkpoint is whole or it is passed over."""

import json
import logging

import pytest

from trl_score import checkpoints
from trl_score.checkpoints import (
    WHOLE_FILE,
    check_whole,
    forget_replaced,
    has_whole_checkpoint,
    last_whole_checkpoint,
    make_room,
    mark_whole,
    remove_half_written,
    what_is_missing,
)


@pytest.fixture
def save(tmp_path):
    """Writes a checkpoint, and marks it unless told not to."""

    def make(step, is_marked=True, text="weights"):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "shards").mkdir(parents=True)
        (folder / "model.safetensors").write_text(text)
        (folder / "shards" / "rank_0.pt").write_text("state")
        if is_marked:
            mark_whole(folder)
        return folder

    return make


def test_marked_checkpoint_is_whole(save):
    folder = save(3)
    assert what_is_missing(folder) is None
    check_whole(folder)
    files = json.loads((folder / WHOLE_FILE).read_text())["files"]
    assert files == {"model.safetensors": 7, "shards/rank_0.pt": 5}


def test_mark_is_written_after_everything_lies_on_the_disk(save, monkeypatch):
    folder = save(3, is_marked=False)
    flushed = []

    def flush(path):
        flushed.append((path.relative_to(folder.parent).as_posix(), (folder / WHOLE_FILE).exists()))

    monkeypatch.setattr(checkpoints, "_flush", flush)
    mark_whole(folder)
    before = {name for name, is_marked in flushed if not is_marked}
    after = {name for name, is_marked in flushed if is_marked}
    assert before >= {"checkpoint-3/model.safetensors", "checkpoint-3/shards/rank_0.pt"}
    assert after == {".", "checkpoint-3", "checkpoint-3/shards"}


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (lambda folder: (folder / WHOLE_FILE).unlink(), f"it has no {WHOLE_FILE}, which is written last"),
        (lambda folder: (folder / "shards" / "rank_0.pt").unlink(), "shards/rank_0.pt is missing"),
        (lambda folder: (folder / "model.safetensors").write_text("wei"), "model.safetensors has 3 bytes of 7"),
        (lambda folder: folder.rename(folder.with_name("elsewhere")), "there is no such folder"),
    ],
)
def test_what_is_missing_is_said(damage, missing, save):
    folder = save(3)
    damage(folder)
    assert what_is_missing(folder) == missing
    with pytest.raises(
        ValueError, match=rf"Expected a whole checkpoint to resume from, got '.*checkpoint-3': {missing}"
    ):
        check_whole(folder)


def test_last_whole_one_is_found_by_its_number(save, tmp_path, caplog):
    save(9)
    expected = save(10)
    save(11, is_marked=False)
    (save(12) / "model.safetensors").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    with caplog.at_level(logging.WARNING):
        assert last_whole_checkpoint(tmp_path) == expected
    assert caplog.messages == [
        "Resuming from checkpoint-10. Passed over: checkpoint-12 (model.safetensors is missing); checkpoint-11 (it has "
        f"no {WHOLE_FILE}, which is written last)."
    ]


def test_nothing_is_said_where_nothing_is_passed_over(save, tmp_path, caplog):
    save(9)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-9"
    assert caplog.messages == []


def test_no_whole_checkpoint(save, tmp_path):
    with pytest.raises(ValueError, match=r"to resume from, got no checkpoint\. Start without"):
        last_whole_checkpoint(tmp_path)
    save(1, is_marked=False)
    with pytest.raises(ValueError, match=r"to resume from, got checkpoint-1 \(it has no"):
        last_whole_checkpoint(tmp_path)


def test_whether_there_is_anything_to_resume_from(save, tmp_path):
    assert not has_whole_checkpoint(tmp_path / "nowhere")
    save(1, is_marked=False)
    assert not has_whole_checkpoint(tmp_path)
    make_room(save(2))  # kept aside
    assert has_whole_checkpoint(tmp_path)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-2"


def test_only_what_is_half_written_is_removed(save, tmp_path):
    save(1)
    save(2, is_marked=False)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "completions").mkdir()
    remove_half_written(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-best", "completions"}


def test_checkpoint_that_could_not_be_saved_is_removed_and_the_last_whole_one_named(save, tmp_path):
    said = checkpoints.give_up(save(1, is_marked=False))
    assert "checkpoint-1 could not be saved, when " in said
    assert said.endswith("None was saved before; start anew when the reason is gone.")
    for step in (9, 10):
        save(step)
    said = checkpoints.give_up(save(11, is_marked=False))
    assert "The last whole one is checkpoint-10; `resume_from_checkpoint=True` goes on" in said
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10"}


def test_step_that_could_not_be_saved_again_keeps_its_first_checkpoint(save, tmp_path):
    make_room(save(3, text="first"))
    said = checkpoints.give_up(save(3, is_marked=False, text="second"))
    assert "The last whole one is checkpoint-3;" in said
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    assert (last_whole_checkpoint(tmp_path) / "model.safetensors").read_text() == "first"


def test_folder_that_can_be_written_into_is_left_as_it_was(tmp_path):
    checkpoints.check_writable(tmp_path / "run" / "inner")
    assert list((tmp_path / "run" / "inner").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as found:
        checkpoints.check_writable(tmp_path / "file" / "run")
    assert "Nothing was trained yet." in found.value.__notes__[0]


# A step that is saved for the second time


def test_whole_checkpoint_is_kept_until_its_successor_is_whole(save, tmp_path):
    make_room(save(3, text="first"))
    folder = save(3, is_marked=False, text="second")  # killed here
    assert last_whole_checkpoint(tmp_path) == folder
    assert (folder / "model.safetensors").read_text() == "first"

    make_room(folder)
    save(3, text="second")
    forget_replaced(folder)
    assert (last_whole_checkpoint(tmp_path) / "model.safetensors").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_successor_is_taken_where_only_forgetting_was_left(save, tmp_path):
    make_room(save(3, text="first"))
    save(3, text="second")
    assert (last_whole_checkpoint(tmp_path) / "model.safetensors").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_half_written_checkpoint_makes_room_without_a_trace(save, tmp_path):
    make_room(save(3, is_marked=False))
    make_room(tmp_path / "checkpoint-4")
    assert list(tmp_path.iterdir()) == []
