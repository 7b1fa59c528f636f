"""Tests of what `trl_score.metrics` exports, imports and documents."""

import subprocess
import sys
from pathlib import Path

import pytest

from trl_score import metrics
from trl_score.metrics import self_correction_metrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_all_is_sorted_and_complete():
    assert metrics.__all__ == sorted(metrics.__all__)
    public = {name for name, value in vars(metrics).items() if callable(value) and not name.startswith("_")}
    assert public == set(metrics.__all__)


@pytest.mark.parametrize("package", ["trl_score.metrics", "trl_score.plots"])
def test_import_loads_nothing_heavy(package):
    program = (
        f"import {package}, sys\n"
        "print([name for name in ('torch', 'transformers', 'trl', 'datasets', 'evaluate', 'matplotlib', 'scipy') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", metrics.__all__)
def test_docs_name_every_export(name):
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8") or f"`{name}(" in DOCS.read_text(encoding="utf-8")


def test_docs_table_has_exactly_the_keys_that_the_code_returns():
    returned = self_correction_metrics([[0, 1]], [["1", "2"]], [["a", "b"]], bootstrap=0)
    section = DOCS.read_text(encoding="utf-8").split("## The table of a pair of turns")[1].split("\n## ")[0]
    documented = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert documented == list(returned)
