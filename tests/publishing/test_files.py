"""Which files of a run's folder are published, and what is taken out of them."""

import json

import pytest
from run_folders import LEFT_BEHIND, PUBLISHED, adapter_run, write_json

from trl_score import checkpoints
from trl_score.publishing.files import checkpoint_files, is_local, published_files, without_places


def contents(files):
    return {file.path: file.content or file.file.read_bytes() for file in files}


def test_published_are_those_that_others_need_and_no_other(tmp_path):
    files = published_files(adapter_run(tmp_path / "run"))
    assert [file.path for file in files] == PUBLISHED


def test_card_figures_and_licence_are_published_where_they_are_there(tmp_path):
    folder = adapter_run(tmp_path / "run")
    more = ["README.md", "LICENSE.txt", "training_curves.png", "figures/a.png", "summary.json", "metrics.json"]
    for name in more:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    assert [file.path for file in published_files(folder)] == sorted([*PUBLISHED, *more])


def test_places_on_this_machine_are_not_published(tmp_path):
    folder = adapter_run(tmp_path / "run", base=str(tmp_path / "base"))
    found = contents(published_files(folder))
    configurations = {path: content.decode() for path, content in found.items() if path.endswith("config.json")}
    assert len(configurations) == 5
    assert [path for path, content in configurations.items() if str(tmp_path) in content] == []
    assert json.loads(configurations["adapter_config.json"])["base_model_name_or_path"] == "base"
    # What a configuration says besides is left alone, and the vocabulary as it is: any text may be a token.
    assert json.loads(configurations["tokenizer_config.json"])["eos_token"] == "/s"
    assert found["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()


def test_a_local_base_gets_the_name_that_it_has_on_the_hub(tmp_path):
    folder = adapter_run(tmp_path / "run", base=str(tmp_path / "base"))
    found = contents(published_files(folder, "ann/base"))
    assert json.loads(found["adapter_config.json"])["base_model_name_or_path"] == "ann/base"


def test_a_base_on_the_hub_keeps_its_name(tmp_path):
    found = contents(published_files(adapter_run(tmp_path / "run", base="bob/base"), "ann/base"))
    assert json.loads(found["adapter_config.json"])["base_model_name_or_path"] == "bob/base"


@pytest.mark.parametrize("name", ["score_config.json", "README.md", "chat_template.jinja"])
def test_a_file_with_an_access_token_is_refused(tmp_path, name):
    folder = adapter_run(tmp_path / "run")
    (folder / name).write_text('"hf_' + "aB3" * 12 + '"')
    with pytest.raises(ValueError, match=rf"no access token in what is published.*{name}.*Take it out"):
        published_files(folder)


def test_code_is_published_only_if_the_configuration_names_it(tmp_path):
    folder = adapter_run(tmp_path / "run")
    assert "modeling_own.py" in LEFT_BEHIND
    write_json(folder / "config.json", {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}})
    assert {"modeling_own.py", "config.json"} <= {file.path for file in published_files(folder)}


@pytest.mark.parametrize("name", ["score_config.json", "optimizer.pt", "pytorch_model.bin"])
def test_a_folder_without_a_model_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"Expected a model or an adapter in .*\*\.safetensors"):
        published_files(tmp_path)


def test_a_checkpoint_goes_whole_but_for_the_pickled_arguments(tmp_path):
    found = contents(checkpoint_files(adapter_run(tmp_path / "run")))
    assert {"optimizer.pt", "rng_state.pth", "ref/adapter_model.safetensors", "trainer_state.json"} <= set(found)
    assert "training_args.bin" not in found
    assert json.loads(found["trainer_state.json"])["best_model_checkpoint"] == "run"


def test_a_pushed_checkpoint_is_whole_where_it_was(tmp_path):
    folder = adapter_run(tmp_path / "run")
    checkpoints.mark_whole(folder)
    copy = tmp_path / "copy"
    for path, content in contents(checkpoint_files(folder)).items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(content)
    assert checkpoints.what_is_missing(copy) is None
    (copy / "optimizer.pt").unlink()
    assert checkpoints.what_is_missing(copy) == "optimizer.pt is missing"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B", False),
        ("gpt2", False),
        ("/a/b", True),
        ("./out", True),
        ("../out", True),
        ("runs/a/b", True),
    ],
)
def test_a_local_name_is_told_from_one_on_the_hub(name, expected):
    assert is_local(name) is expected


def test_a_folder_that_is_there_is_local(tmp_path, monkeypatch):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_local("runs/a") and not is_local("runs/b")


def test_results_are_published_without_places_and_texts_stay(tmp_path):
    folder = adapter_run(tmp_path / "run")
    prompt = "/no_think Look again."
    evaluation = {"model": str(folder), "correction_prompt": prompt, "tasks": {str(tmp_path / "sums.jsonl"): "eval"}}
    write_json(folder / "metrics.json", {"evaluation": evaluation, "num_problems": 3})
    found = json.loads(contents(published_files(folder))["metrics.json"])
    expected = {"model": "run", "correction_prompt": prompt, "tasks": {"sums.jsonl": "eval"}}
    assert found == {"evaluation": expected, "num_problems": 3}


def test_places_are_found_within_lists_and_mappings():
    nested = {"text_config": [{"_name_or_path": "/home/ann/base"}], "note": "/home/ann/base"}
    assert without_places(nested) == {"text_config": [{"_name_or_path": "base"}], "note": "/home/ann/base"}
