"""The laboratory's command, with a training script that makes its results up."""

import json
from pathlib import Path

import pytest
import run_lab
from lab_jobs import read_result

TESTS = Path(__file__).parents[1]

# Says what it was called with, fails where its method is told to, and else writes a run.
TRAINING_SCRIPT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
flags = dict(zip(sys.argv[1:2], sys.argv[2:3])) | dict(flag.split("=") for flag in sys.argv[3:])
print("called with", sorted(flags))
(Path(__file__).parent / "trace").open("a").write(flags["--method"] + flags["--seed"] + " ")
if flags["--method"] in Path(flags["--config"]).read_text():
    sys.exit("no luck today")
from lab_runs import write_run
write_run(Path(flags["--output_dir"]), [(0, 1), (1, 1)] if flags["--method"] == "score" else [(0, 0), (1, 1)], steps=3)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and the script; further evaluations, which need a model, are off."""
    (tmp_path / "train.py").write_text(TRAINING_SCRIPT)
    (tmp_path / "lab.yaml").write_text("learning_rate: 1.0e-3\n")
    monkeypatch.setattr(run_lab, "TRAINING_SCRIPT", tmp_path / "train.py")
    monkeypatch.setattr(run_lab, "FURTHER_EVALUATIONS", {})
    return tmp_path


def run(folder: Path, *methods: str, seeds: tuple[str, ...] = ("0", "1")) -> int:
    flags = (f"--config={folder / 'lab.yaml'}", f"--output={folder / 'lab'}", "--jobs=2")
    return run_lab.main([*flags, "--methods", *methods, "--seeds", *seeds])


def calls(folder: Path) -> list[str]:
    return sorted((folder / "trace").read_text().split())


def test_everything_is_run_once_and_summarised(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "base", "score") == 0
    assert calls(folder) == ["base0", "base1", "score0", "score1"]
    lab = folder / "lab"
    summary = json.loads((lab / "summary.json").read_text())
    assert summary["score"]["greedy"]["accuracy_t2"]["seeds"] == [1.0, 1.0]
    assert summary["base"]["against_score"]["greedy"]["accuracy_t2"]["seeds"]["difference"]["value"] == 0.5
    assert (lab / "tables.md").read_text().startswith("| greedy |")
    assert (lab / "figures" / "changes.png").is_file()
    flags = "['--config', '--method', '--output_dir', '--seed']"
    assert (lab / "score" / "seed0.log").read_text() == f"called with {flags}\n"
    assert "SCoRe less the method" in capsys.readouterr().out


def test_another_value_is_run_anew_and_another_remark_is_not(folder: Path) -> None:
    assert run(folder, "base") == 0
    (folder / "lab.yaml").write_text("# The same, with a remark\nlearning_rate: 0.001\n")
    assert run(folder, "base") == 0
    assert calls(folder) == ["base0", "base1"]
    (folder / "lab.yaml").write_text("learning_rate: 2.0e-3\n")
    assert run(folder, "base") == 0
    assert calls(folder) == ["base0", "base0", "base1", "base1"]


def test_failed_method_is_reported_and_others_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "lab.yaml").write_text("fails: pair_sft\n")
    assert run(folder, "pair_sft", "score") == 1
    shown = capsys.readouterr().out
    assert "pair_sft, seed 0 ended with code 1" in shown and "no luck today" in shown
    assert "Only seeds [] of [0, 1]" in shown
    assert read_result(folder / "lab" / "score" / "seed1") and not read_result(folder / "lab" / "pair_sft" / "seed1")
    assert not (folder / "lab" / "summary.json").exists()  # nothing to compare
    assert run(folder, "score") == 0
    assert calls(folder).count("score0") == 1


def test_methods_are_compared_on_the_seeds_that_all_have(folder: Path) -> None:
    assert run(folder, "base", seeds=("0", "1", "2")) == 0
    config, output = folder / "lab.yaml", folder / "lab"
    assert run(folder, "score", seeds=("1",)) == 0
    assert run_lab.finished_seeds(["base", "score"], [0, 1, 2], config, output) == [1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--jobs=0",), "Expected `--jobs` to be 1 or more, got 0."),
        (("--config=nowhere.yaml",), "Expected `--config` to be a file, got 'nowhere.yaml', which is none."),
        (("--methods", "scores"), "invalid choice: 'scores'"),
    ],
)
def test_bad_input_is_named(flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_lab.main(flags)
    assert message in capsys.readouterr().err


def test_what_is_named_twice_is_run_once() -> None:
    chosen = run_lab.parse(["--seeds", "1", "0", "1", "--methods", "score", "score"])
    assert (chosen.seeds, chosen.methods) == ([1, 0], ["score"])


def test_configuration_of_the_laboratory_is_read_by_the_training_script() -> None:
    # Not run here: each option has to be one that the parser of examples/train_baseline.py knows.
    import sys

    sys.path.insert(0, str(run_lab.HERE.parent))
    from train_baseline import make_parser

    arguments = ["--config", str(run_lab.CONFIG), "--method=score", "--output_dir=nowhere"]
    script_args, training_args, _ = make_parser().parse_args_and_config(arguments, fail_with_unknown_args=True)
    assert (script_args.method, script_args.final_eval_size) == ("score", 1500)
    assert training_args.max_steps % training_args.save_steps == 0
