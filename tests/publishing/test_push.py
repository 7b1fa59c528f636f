"""
Pushes against a small Hub on this machine: what arrives, what a second push does, what a failed one says and leaves.

`test_hub_journey.py` pushes what was really trained, in processes of their own.
"""

import shlex

import huggingface_hub
import pytest
from hub_server import TOKEN, address_of_nobody, metadata_problems
from run_folders import PUBLISHED, RECORD, WEIGHTS, adapter_run, summary, write_json

from trl_score.cli import main
from trl_score.publishing.push import PAUSES_S, PushError, push_checkpoint, push_run

# huggingface_hub's own way of sending a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def run(tmp_path):
    """A run of which nothing was logged: there is nothing to draw."""
    folder = adapter_run(tmp_path / "run")
    write_json(folder / "trainer_state.json", {"log_history": []})
    return folder


def state_of(folder):
    return {place.relative_to(folder).as_posix(): place.read_bytes() for place in folder.rglob("*") if place.is_file()}


EXPECTED = sorted([*PUBLISHED, "README.md"])


def test_what_arrives_is_what_others_need(hub, tmp_path):
    run = adapter_run(tmp_path / "run")
    write_json(run / "summary.json", summary())
    results = ["summary.json", "stage_summary.png", "training_curves.png"]
    for name in results[1:]:  # what is there is not drawn again
        write_json(run / name, {})
    push_run(run, "ann/corrector")
    files = dict(hub.files("ann/corrector"))
    assert sorted(files) == sorted([*EXPECTED, *results])
    assert files["adapter_model.safetensors"] == WEIGHTS
    assert metadata_problems(files["README.md"].decode()) == []
    assert [
        path for path, content in files.items() if str(run.parent).encode() in content and path != "tokenizer.json"
    ] == []
    assert [path for path, content in files.items() if TOKEN.encode() in content] == []


def test_a_second_push_makes_no_second_commit(hub, run):
    first = push_run(run, "ann/corrector")
    assert push_run(run, "ann/corrector").oid == first.oid
    assert len(hub.repositories["ann/corrector"].commits) == 2  # the empty one, and ours


def test_what_changed_is_pushed_alone(hub, run):
    push_run(run, "ann/corrector")
    write_json(run / "score_config.json", {"correction_prompt": "Again.", "max_completion_length": [8, 8]})
    hub.requests.clear()
    push_run(run, "ann/corrector")
    assert b"Again." in hub.files("ann/corrector")["score_config.json"]
    assert not [path for method, path in hub.requests if method == "PUT"]


def test_weights_of_an_earlier_push_are_removed_and_nothing_else(hub, run):
    push_run(run, "ann/corrector")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (run / name).unlink()
    (run / "model.safetensors").write_bytes(b"merged")
    of_the_owner = {"notes.md", "other/adapter_model.safetensors"}
    hub.files("ann/corrector").update(dict.fromkeys(of_the_owner, b"mine"))
    push_run(run, "ann/corrector")
    files = hub.files("ann/corrector")
    assert {"model.safetensors"} | of_the_owner <= set(files)
    assert not {"adapter_model.safetensors", "adapter_config.json"} & set(files)


def test_the_licence_is_the_base_models(hub, run, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: other\nlicense_name: annes\n---\n")
    hub.add("ann/base", tmp_path / "base")
    push_run(run, "ann/corrector")
    assert "license_name: annes" in hub.files("ann/corrector")["README.md"].decode()


def test_the_repository_is_by_default_that_of_the_run(hub, run):
    push_run(run)
    assert "ann/corrector" in hub.repositories and RECORD["repo_id"] == "ann/corrector"


def test_without_any_repository_it_is_refused_before_anything_is_sent(hub, run):
    write_json(run / "training_config.json", {**RECORD, "repo_id": None})
    with pytest.raises(ValueError, match=r"Expected `repo_id`, got None.*Name the repository"):
        push_run(run)
    assert hub.requests == []


def test_a_private_repository_is_made_private(hub, run):
    push_run(run, "ann/corrector", private=True)
    assert hub.repositories["ann/corrector"].private


def test_an_edited_card_is_pushed_as_it_stands(hub, run, caplog):
    (run / "README.md").write_text("---\ntags:\n- own\n---\nMine.\n")
    push_run(run, "ann/corrector")
    assert hub.files("ann/corrector")["README.md"].endswith(b"Mine.\n")
    assert "was edited and is pushed as it stands" in caplog.text


def test_a_base_on_this_machine_alone_is_warned_of(hub, tmp_path, caplog):
    folder = adapter_run(tmp_path / "run", base=str(tmp_path / "base"))
    write_json(folder / "trainer_state.json", {"log_history": []})
    push_run(folder, "ann/corrector", base_model="ann/base")
    assert caplog.text == ""
    assert b'"ann/base"' in hub.files("ann/corrector")["adapter_config.json"]
    push_run(folder, "ann/corrector")
    assert "which others cannot load" in caplog.text and "--base_model" in caplog.text


def test_who_may_not_write_is_told_how_to_log_in_and_how_to_repeat(hub, run, pauses):
    before = state_of(run)
    with pytest.raises(PushError, match=r"401.*hf auth login.*Nothing is lost: all files lie in") as caught:
        push_run(run, "ann/corrector", token="wrong", private=True)
    assert str(caught.value).endswith(f"trl-score push {run} --repo_id ann/corrector --private")
    assert pauses == []  # it would be refused again
    assert state_of(run) == before


def test_a_hub_that_is_down_is_tried_again_after_growing_pauses(monkeypatch, run, pauses, hub, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address_of_nobody())
    before = state_of(run)
    with pytest.raises(PushError, match=r"ConnectError.*Nothing is lost"):
        push_run(run, "ann/corrector")
    assert pauses == list(PAUSES_S) == sorted(PAUSES_S)
    assert caplog.text.count("It is tried again in") == 3
    assert state_of(run) == before


def test_offline_mode_is_named_and_not_waited_for(monkeypatch, run, pauses):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match=r"offline mode is enabled.*Unset HF_HUB_OFFLINE"):
        push_run(run, "ann/corrector")
    assert pauses == []


@pytest.mark.parametrize(("status", "num_pauses"), [(503, 2), (429, 2)])
def test_a_busy_hub_is_waited_for(hub, run, pauses, status, num_pauses):
    hub.commits_to_refuse, hub.refusal = 2, status
    push_run(run, "ann/corrector")
    assert pauses == list(PAUSES_S)[:num_pauses]
    assert sorted(hub.files("ann/corrector")) == EXPECTED


def test_a_refused_commit_is_not_repeated(hub, run, pauses):
    hub.commits_to_refuse, hub.refusal = 1, 400
    with pytest.raises(PushError, match=r"refused, as the test wants"):
        push_run(run, "ann/corrector")
    assert pauses == []


def test_an_upload_that_breaks_off_leaves_all_and_is_repeated_by_the_command_of_the_error(hub, run, pauses, capsys):
    hub.uploads_to_break = 10**6
    with pytest.raises(PushError) as caught:
        push_run(run, "ann/corrector")
    assert "RuntimeError" not in str(caught.value)  # in which huggingface_hub hides the cause
    assert hub.files("ann/corrector") == {}
    assert (run / "adapter_model.safetensors").read_bytes() == WEIGHTS
    hub.uploads_to_break = 0
    command = shlex.split(str(caught.value).partition("Repeat the push with: ")[2])
    assert command[0] == "trl-score"
    assert main(command[1:]) == 0
    assert capsys.readouterr().out.startswith(f"{hub.url}/ann/corrector/commit/")
    assert sorted(hub.files("ann/corrector")) == EXPECTED


def test_a_checkpoint_is_pushed_whole_into_its_folder(hub, run):
    push_run(run, "ann/corrector")
    checkpoint = run / "checkpoint-30"
    for name in ("optimizer.pt", "training_args.bin"):
        (checkpoint / name).write_bytes(b"state")
    push_checkpoint(checkpoint, "ann/corrector", "last-checkpoint")
    files = ["last-checkpoint/adapter_model.safetensors", "last-checkpoint/optimizer.pt"]
    assert sorted(hub.files("ann/corrector")) == sorted([*EXPECTED, *files])


def test_invalid_metadata_are_told_and_nothing_is_pushed(hub, run):
    (run / "README.md").write_text("---\ntags: 7\n---\nMine.\n")
    with pytest.raises(PushError, match=r"Invalid metadata in README\.md.*tags must be"):
        push_run(run, "ann/corrector")
    assert hub.files("ann/corrector") == {}
