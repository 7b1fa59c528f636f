"""`trl-score push`: the options; what a push does is tested in tests/publishing/test_push.py."""

import pytest
from run_folders import PUBLISHED, WEIGHTS, adapter_run

from trl_score.cli import main


def test_a_dry_run_lists_what_would_be_pushed(tmp_path, capsys):
    assert main(["push", str(adapter_run(tmp_path / "run")), "--dry_run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [path for _, path in lines] == PUBLISHED
    assert ["adapter_model.safetensors", str(len(WEIGHTS))] in [[path, size] for size, path in lines]


def test_a_folder_without_a_model_is_a_users_mistake(tmp_path, capsys):
    assert main(["push", str(tmp_path), "--repo_id", "ann/x"]) == 2
    assert "Expected a model or an adapter" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["run", "--repo_idd", "ann/x"]])
def test_a_wrong_command_line_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["push", *arguments])
    assert caught.value.code == 2


def test_offline_the_error_says_what_to_do(tmp_path, capsys):
    folder = adapter_run(tmp_path / "run")
    assert main(["push", str(folder), "--repo_id", "ann/x"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Unset HF_HUB_OFFLINE" in error
    assert f"trl-score push {folder} --repo_id ann/x" in error
