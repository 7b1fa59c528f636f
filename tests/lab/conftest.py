"""The laboratory is a folder of scripts, which import each other by name."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from lab_runs import Correct, write_run

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "lab"))


@pytest.fixture
def laboratory(tmp_path: Path) -> Callable[[dict[str, Sequence[Correct]]], Path]:
    """Makes a laboratory's folder: for each method the correctness of both turns, for seed 0, 1 and so on."""

    def make(runs: dict[str, Sequence[Correct]]) -> Path:
        for method, of_seeds in runs.items():
            for seed, correct in enumerate(of_seeds):
                write_run(tmp_path / method / f"seed{seed}", correct, steps=4 if method != "pair_sft" else 0)
        return tmp_path

    return make
