"""Each benchmark's script runs, at sizes that take seconds, and writes rows that `measure.py` reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from measure import load

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = {"score_step": 1, "score_vs_grpo": 2, "score_vs_two_pass": 3, "logprob_memory": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_script(name: str, tmp_path: Path) -> None:
    output = tmp_path / "rows.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--output", str(output)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    rows = load(output)
    assert len(rows) == ROWS[name]
    for row in rows:
        assert row.ours > 0 and row.other > 0 and row.ratio > 0
        assert row.command == f"python benchmarks/{name}.py --device cpu"
        assert row.target is None and row.name in done.stdout
