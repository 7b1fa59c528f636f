"""The table of methods: its names, what each changes, and what it says of a name that it does not know."""

from pathlib import Path

import pytest

from trl_score.baselines.methods import METHODS, find_method
from trl_score.score.score_config import SCoReConfig


def test_the_names_that_the_laboratory_asks_for():
    assert list(METHODS) == [
        "base",
        "self_refine",
        "star",
        "star_plus",
        "pair_sft",
        "pair_sft_plus",
        "single_turn_rl",
        "multi_turn_rl",
        "score_no_stage_1",
        "score_no_shaping",
        "score_star_stage_2",
        "score",
    ]
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize(
    ("name", "stage", "alpha"),
    [
        ("score", "both", 10.0),
        ("score_no_stage_1", "2", 10.0),
        ("score_no_shaping", "both", 0.0),
        ("multi_turn_rl", "2", 0.0),
    ],
)
def test_what_an_ablation_changes_of_the_configuration(name: str, stage: str, alpha: float, tmp_path: Path):
    args = SCoReConfig(output_dir=str(tmp_path), use_cpu=True, **METHODS[name].changes)
    assert (args.stage, args.alpha) == (stage, alpha)


def test_only_methods_of_traces_have_a_trace_set():
    for method in METHODS.values():
        assert (method.trace_set is not None) == (method.kind == "traces")
        assert (method.iterations > 0) == (method.kind == "traces")
        assert not method.changes or method.kind == "score"
    sets = {name: (METHODS[name].trace_set, METHODS[name].iterations) for name in METHODS if METHODS[name].trace_set}
    assert sets == {
        "star": ("D_STaR", 3),
        "star_plus": ("D+_STaR", 3),
        "pair_sft": ("D_SFT", 1),
        "pair_sft_plus": ("D+_SFT", 1),
        "score_star_stage_2": ("D+_STaR", 3),
    }


def test_an_unknown_method_is_answered_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"got 'score_no_stage1'. Did you mean 'score_no_stage_1'"):
        find_method("score_no_stage1")
    with pytest.raises(ValueError, match=r"got 'xyz'. There are base, self_refine, .*, score."):
        find_method("xyz")
    with pytest.raises(ValueError, match=r"got None. There are base"):
        find_method(None)


def test_the_page_has_the_table_of_methods():
    page = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text()
    section = page.split("## Methods\n")[1].split("\n## ")[0]
    lines = [
        line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `") and "--" not in line
    ]
    assert lines == [[f"`{method.name}`", method.summary, method.source] for method in METHODS.values()]
