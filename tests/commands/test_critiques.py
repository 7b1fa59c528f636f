"""`trl-score critiques`: the same critiques as from Python, resumed, filtered, and refused where they cannot be."""

import json

import pytest
from critics import QUESTIONS, critic
from datasets import load_dataset

from trl_score.cli import main
from trl_score.cloud.critiques import filter_consistent, self_critique_dataset

OPTIONS = ["--num_critiques", "2", "--temperature", "1.0", "--max_new_tokens", "12", "--batch_size", "4", "--seed", "3"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, local_model):
    """A small reward model with its tokenizer, saved."""
    folder = tmp_path_factory.mktemp("critic")
    model, template = critic(local_model("qwen2"))
    model.save_pretrained(folder)
    template.tokenizer.save_pretrained(folder)
    return folder, model, template


@pytest.fixture
def pairs(tmp_path):
    answers = [answer for _, answer in QUESTIONS]
    file = tmp_path / "pairs.jsonl"
    rows = zip([question for question, _ in QUESTIONS], answers, [*answers[1:], answers[0]], strict=True)
    file.write_text(
        "".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), row, strict=True))) + "\n" for row in rows)
    )
    return file


def critiques(saved, pairs, output, *arguments):
    return main(
        ["critiques", "--model", str(saved[0]), "--dataset", str(pairs), "--output", str(output), *OPTIONS, *arguments]
    )


def expected(saved, pairs):
    dataset = load_dataset("json", data_files=str(pairs), split="train")
    options = {"num_critiques": 2, "temperature": 1.0, "max_new_tokens": 12, "batch_size": 4, "seed": 3}
    return self_critique_dataset(saved[1], saved[2], dataset, **options)


@pytest.mark.parametrize(("ending", "builder"), [(".jsonl", "json"), (".parquet", "parquet")])
def test_critiques_are_those_of_python(saved, pairs, tmp_path, capsys, ending, builder):
    output = tmp_path / "new" / f"critiques{ending}"
    assert critiques(saved, pairs, output) == 0
    assert capsys.readouterr().out == f"{output}: 5 rows\n"
    assert load_dataset(builder, data_files=str(output), split="train").to_list() == expected(saved, pairs).to_list()
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name, f"{output.name}.journal"]


def test_only_consistent_ones_are_kept_if_asked_for(saved, pairs, tmp_path, capsys):
    output = tmp_path / "critiques.parquet"
    kept = filter_consistent(expected(saved, pairs))
    assert critiques(saved, pairs, output, "--consistent") == 0
    assert capsys.readouterr().out == (
        f"{output}: {len(kept.dataset)} rows, dropped {kept.num_rows_dropped} rows and {kept.num_critiques_dropped} "
        "critiques\n"
    )
    assert 0 < kept.num_rows_dropped < 5
    assert load_dataset("parquet", data_files=str(output), split="train").to_list() == kept.dataset.to_list()


def test_what_was_written_is_not_written_again(saved, pairs, tmp_path, monkeypatch):
    output = tmp_path / "critiques.jsonl"
    critiques(saved, pairs, output)
    first = output.read_text()
    monkeypatch.setattr("trl_score.cloud.critiques.generate_critiques", None)  # whoever calls it, fails
    assert critiques(saved, pairs, output, "--overwrite") == 0
    assert output.read_text() == first


def test_what_cannot_be_done_is_said(saved, pairs, tmp_path, capsys, local_model):
    output = tmp_path / "critiques.jsonl"
    output.write_text("mine")

    def fail(*arguments):
        assert main(["critiques", *map(str, arguments)]) == 2
        written = capsys.readouterr()
        assert written.out == "" and written.err.count("\n") == 1
        return written.err

    model = ("--model", saved[0])
    assert "`--overwrite`" in fail(*model, "--dataset", pairs, "--output", output)
    assert "ends in one of ['.jsonl', '.parquet']" in fail(*model, "--dataset", pairs, "--output", tmp_path / "a.csv")
    new = ("--output", tmp_path / "new.jsonl")
    assert "nowhere.jsonl does not exist" in fail(*model, "--dataset", "nowhere.jsonl", *new)
    assert "must hold a CLoud reward model" in fail("--model", local_model("qwen2"), "--dataset", pairs, *new)
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"chosen": "a"}\n')
    assert "without ['rejected']" in fail(*model, "--dataset", bare, *new)
    critiques(saved, pairs, tmp_path / "new.jsonl")
    capsys.readouterr()
    assert "other values of ['max_new_tokens'" in fail(*model, "--dataset", pairs, *new, "--overwrite")
    assert output.read_text() == "mine"
