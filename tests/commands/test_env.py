"""`trl-score env`: what a bug report needs, and nothing that must not be in one."""

import json
import platform

import torch
import trl

from trl_score import __version__
from trl_score.cli import main
from trl_score.rewards.sandbox import Sandbox


def test_what_a_bug_report_needs(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["env", "--json"]) == 0
    written = capsys.readouterr().out
    found = json.loads(written)
    assert found["machine"]["python"] == platform.python_version()
    assert (found["packages"]["trl_score"], found["packages"]["trl"]) == (__version__, trl.__version__)
    assert found["packages"]["torch"] == torch.__version__
    assert found["optional packages"]["flash-attn"] == "not installed"
    with Sandbox() as sandbox:
        assert found["sandbox"]["tier"] == sandbox.fences.tier
    assert found["environment variables"]["OMP_NUM_THREADS"] == "1"
    assert "hf_secret" not in written
    if not torch.accelerator.is_available():
        assert found["accelerators"] == {"kind": "none"}


def test_the_text_says_the_same_as_the_json(capsys):
    main(["env", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [
        line
        for title, values in found.items()
        for line in (f"{title}:", *(f"  {name}: {value}" for name, value in values.items()))
    ]
    assert lines == expected
