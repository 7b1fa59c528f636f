"""The Hub side of the trainers: what lies beside a saved model, and what becomes of training when a push fails."""

import json
import logging
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import address_of_nobody
from peft import LoraConfig
from score_runs import addition_dataset, odd_length, short_config
from transformers import AutoTokenizer

from trl_score import SCoReTrainer
from trl_score.publishing.card import is_edited
from trl_score.publishing.push import PushError
from trl_score.publishing.record import RECORD_KEYS

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Cannot enable progress bars:UserWarning"),  # conftest.py has switched them off
]


@pytest.fixture
def make(local_model, tmp_path):
    """Makes a trainer of one step, in the folder `run`."""

    def make_trainer(model=None, **options):
        peft_config = options.pop("peft_config", None)
        args = short_config(tmp_path / "run", stage="1", max_steps=1, **options)
        path = str(local_model("qwen2"))
        tokenizer = AutoTokenizer.from_pretrained(path)
        return SCoReTrainer(
            model or path, odd_length, args, addition_dataset(), processing_class=tokenizer, peft_config=peft_config
        )

    return make_trainer


def test_beside_a_saved_adapter_lies_all_that_is_published(make, tmp_path):
    trainer = make(peft_config=LoraConfig(r=2, target_modules=["q_proj"]), save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1"):
        names = {place.name for place in folder.iterdir()}
        assert {"generation_config.json", "score_config.json", "training_config.json", "README.md"} <= names
        assert not is_edited(folder)
        record = json.loads((folder / "training_config.json").read_text())
        assert list(record) == list(RECORD_KEYS)
        assert (record["step"], record["reward_funcs"], record["stage"]) == (1, ["odd_length"], "1")
        assert record["base_model"] is None  # the tests' models lie in a folder
    settings = json.loads((tmp_path / "run" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == trainer.model.get_base_model().generation_config.eos_token_id


def test_the_card_of_trl_gives_its_tags_and_the_name_of_the_dataset(make, tmp_path):
    trainer = make()
    trainer.create_model_card(dataset_name="/home/ann/sums.jsonl", tags="own")
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert {"own", "score", "trl", "generated_from_trainer"} <= set(record["tags"])
    assert record["dataset"] == "sums.jsonl"
    assert "/home/ann" not in (tmp_path / "run" / "README.md").read_text()


def test_a_run_from_the_folder_of_another_tells_of_it_and_not_of_itself(make, tmp_path):
    first = make()
    first.train()
    first.save_model()
    second = make(model=str(tmp_path / "run"))
    for _ in range(2):  # into the folder that it began from
        second.save_model()
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert [step["step"] for step in record["earlier"]] == [1]


def test_a_record_that_breaks_off_is_told_before_training(make, tmp_path):
    trainer = make()
    trainer.save_model()
    (tmp_path / "run" / "training_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"Expected JSON in .*training_config\.json"):
        make(model=str(tmp_path / "run"))


def test_a_push_that_fails_at_the_end_leaves_the_model_and_says_how_to_repeat(make, hub, pauses, tmp_path):
    trainer = make(hub_model_id="ann/corrector", hub_private_repo=True)
    trainer.train()
    hub.commits_to_refuse, hub.refusal = 1, 403
    with pytest.raises(PushError, match=r"403.*Nothing is lost.*trl-score push .* --repo_id ann/corrector --private"):
        trainer.push_to_hub()
    assert (tmp_path / "run" / "model.safetensors").is_file()
    commit = trainer.push_to_hub(blocking=False).result()
    assert commit.oid == hub.repositories["ann/corrector"].commit_id
    assert "model.safetensors" in hub.files("ann/corrector")


def test_a_push_in_the_background_that_fails_ends_no_training(make, hub, pauses, caplog, tmp_path):
    trainer = make(
        push_to_hub=True, hub_model_id="ann/corrector", hub_strategy="every_save", save_strategy="steps", save_steps=1
    )
    hub.commits_to_refuse, hub.refusal = 1, 400
    with caplog.at_level(logging.ERROR):
        trainer.train()
    assert "A push in the background failed." in caplog.text and "Repeat the push with: trl-score push" in caplog.text
    assert hub.files("ann/corrector") == {}
    assert (tmp_path / "run" / "model.safetensors").is_file()
    trainer.push_to_hub()
    assert "model.safetensors" in hub.files("ann/corrector")


def test_a_checkpoint_that_cannot_be_published_ends_no_training(make, hub, caplog, tmp_path):
    trainer = make(push_to_hub=True, hub_model_id="ann/corrector", hub_strategy="every_save")
    (tmp_path / "checkpoint-1").mkdir()
    with caplog.at_level(logging.ERROR):
        trainer.push_from_checkpoint(tmp_path / "checkpoint-1")
    assert "checkpoint-1 is not pushed. Expected a model or an adapter" in caplog.text
    assert trainer.push_in_progress is None


def test_a_hub_that_is_down_is_told_before_training(make, hub, pauses, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address_of_nobody())
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # which has kept the other address
    with pytest.raises(PushError, match=r"Making the repository failed: .*Nothing was trained yet.*trl-score push"):
        make(push_to_hub=True, hub_model_id="ann/corrector")
    assert pauses == sorted(pauses) and len(pauses) == 3


def test_another_process_than_the_first_pushes_nothing(make, hub, monkeypatch):
    trainer = make(hub_model_id="ann/corrector")
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    assert trainer.push_to_hub() is None
    assert hub.repositories == {}


def test_saving_with_push_to_hub_pushes(make, hub, tmp_path):
    trainer = make(push_to_hub=True, hub_model_id="ann/corrector")
    trainer.save_model()
    assert [message for message, _ in hub.repositories["ann/corrector"].commits] == ["Initial commit", "Model save"]
    assert Path(tmp_path / "run" / "README.md").read_bytes() == hub.files("ann/corrector")["README.md"]
