"""
The whole way: training, push, download into an empty cache, use, further training. In processes of their own that take
a small Hub on this machine for the Hub, as a user's would: by `HF_ENDPOINT`.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer, metadata_problems

WORKER = Path(__file__).with_name("hub_worker.py")
NAMES = ("score-adapter", "score-full", "cloud-adapter", "cloud-full")
SAID_ON_CARDS = {
    "score-adapter": [
        "ann/sums",
        "`odd_length`",
        "LoRA, rank 4, alpha 64, on `q_proj`, `v_proj`",
        "Look at your answer",
    ],
    "score-full": ["Stage I, then Stage II", "`learning_rate`"],
    "cloud-adapter": ["- own", "Now judge that answer"],
    "cloud-full": ["| `cloud/accuracy` |", "critique_accuracy"],
}

pytestmark = pytest.mark.slow


def run_python(*arguments, env, cwd):
    result = subprocess.run([sys.executable, *map(str, arguments)], env=env, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("journey")


@pytest.fixture(scope="module")
def hub(local_model):
    with HubServer() as server:
        server.add("ann/base", local_model("qwen2"))
        yield server


@pytest.fixture(scope="module")
def trained(hub, folder):
    """What training and the pushes gave; the last model is pushed by the command that the failed push named."""
    environment = hub.environment(folder / "cache")
    run_python(WORKER, "train", folder, env=environment, cwd=folder)
    found = json.loads((folder / "train.json").read_text())
    found["before"] = sorted(hub.repositories)
    words = shlex.split(found["failure"].partition("Repeat the push with: ")[2])
    found["printed"] = run_python("-m", "trl_score", *words[1:], env=environment, cwd=folder)
    return found


@pytest.fixture(scope="module")
def loaded(hub, folder, trained):
    run_python(WORKER, "load", folder, env=hub.environment(folder / "empty cache"), cwd=folder)
    return json.loads((folder / "load.json").read_text())


def test_a_failed_push_is_repeated_by_the_command_that_it_names(trained, hub):
    assert "401" in trained["failure"] and "Nothing is lost" in trained["failure"]
    assert "ann/cloud-full" not in trained["before"] and "ann/cloud-full" in hub.repositories
    assert hub.repositories["ann/cloud-full"].private  # as the push that failed wanted it
    assert trained["printed"].startswith(f"{hub.url}/ann/cloud-full/commit/")


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("score-adapter", ["adapter_config.json", "adapter_model.safetensors", "score_config.json"]),
        ("score-full", ["config.json", "model.safetensors", "score_config.json"]),
        ("cloud-adapter", ["adapter_config.json", "adapter_model.safetensors", "config.json"]),
        ("cloud-full", ["config.json", "model.safetensors"]),
    ],
)
def test_published_are_the_model_what_it_needs_and_its_card(hub, name, own):
    shared = ["README.md", "chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    figures = ["figures/training_curves.png"] if name.startswith("score") else []
    found = [path for path in hub.files(f"ann/{name}") if not path.startswith("last-checkpoint/")]
    assert sorted(found) == sorted([*own, *shared, *figures, "training_config.json"])


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_this_machine_is_published(hub, folder, name):
    for path, content in hub.files(f"ann/{name}").items():
        assert TOKEN.encode() not in content, path
        assert str(folder).encode() not in content, path


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_valid_and_says_what_was_trained_on_what(hub, name):
    card = hub.files(f"ann/{name}")["README.md"].decode()
    assert metadata_problems(card) == []
    assert "base_model: ann/base" in card
    assert re.search(r"\n## Deviations from the paper\n\n1\. .*\n2\. ", card)
    assert "| Steps | 2 of 2 |" in card
    assert [text for text in SAID_ON_CARDS[name] if text not in card] == []


@pytest.mark.usefixtures("trained")
def test_checkpoints_are_pushed_as_hub_strategy_says(hub):
    messages = [message for message, _ in hub.repositories["ann/score-adapter"].commits]
    expected = [f"Training in progress, step {step}{what}" for step in (1, 2) for what in ("", ", checkpoint")]
    assert messages == ["Initial commit", *expected, "End of training"]
    found = hub.files("ann/score-adapter")
    assert "last-checkpoint/optimizer.pt" in found and "last-checkpoint/training_args.bin" not in found


@pytest.mark.usefixtures("trained")
def test_what_failed_to_be_pushed_lies_in_the_folder(folder):
    found = {path.name for path in (folder / "cloud-full").iterdir()}
    assert {"model.safetensors", "config.json", "training_config.json", "README.md"} <= found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_from_the_hub_answers_like_what_was_trained(trained, loaded, name):
    assert loaded["outputs"][name] == pytest.approx(trained["outputs"][name], abs=1e-6)


def test_an_adapter_on_the_hub_is_merged_by_its_name(trained, loaded):
    assert loaded["merged"] == pytest.approx(trained["outputs"]["score-adapter"], rel=1e-5, abs=1e-5)


def test_training_goes_on_from_the_checkpoint_on_the_hub(loaded):
    assert loaded["resumed"] == [1, 2, 3]  # the first two were logged before the push


@pytest.mark.usefixtures("loaded")
def test_the_example_takes_the_name_of_an_adapter(folder, loaded):
    assert loaded["example"] == ["example", "ref"]
    record = json.loads((folder / "example" / "training_config.json").read_text())
    assert record["earlier"] == [{"repo_id": "ann/score-adapter"}]


def test_the_pipeline_takes_the_adapter_with_its_prompt_and_budgets(trained, loaded):
    assert loaded["pipeline"]["outputs"] == pytest.approx(trained["outputs"]["score-adapter"], abs=1e-6)
    assert loaded["pipeline"]["budgets"] == [6, 6]
    assert len(loaded["pipeline"]["turns"]) == 2


def test_the_usage_on_the_cards_runs(loaded):
    score, cloud = loaded["printed"]["score-adapter"], loaded["printed"]["cloud-adapter"]
    assert len(score.splitlines()) >= 3
    rewards = re.findall(r"^-?\d+\.\d+$", cloud, re.MULTILINE)
    assert len(rewards) == 2


def test_a_pushed_adapter_is_the_next_runs_start_and_by_default_its_reference(loaded):
    # At its first step the policy is the adapter: no KL to the adapter, some to the base.
    assert loaded["kl"]["None"] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert max(map(abs, loaded["kl"]["base"])) > 1e-3


@pytest.mark.usefixtures("loaded")
def test_the_next_run_says_what_it_began_from(folder):
    record = json.loads((folder / "next-None" / "training_config.json").read_text())
    assert (record["base_model"], record["earlier"]) == ("ann/base", [{"repo_id": "ann/score-adapter"}])
    assert (
        "[ann/score-adapter](https://huggingface.co/ann/score-adapter)"
        in (folder / "next-None" / "README.md").read_text()
    )
