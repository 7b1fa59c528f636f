"""`training_config.json`: what it holds, and how it is read again."""

import json
import re
from pathlib import Path

import pytest
from run_folders import RECORD, write_json

from trl_score.publishing.record import (
    RECORD_KEYS,
    dataset_name,
    describe_start,
    numbered_deviations,
    published_arguments,
    read_record,
    write_record,
)
from trl_score.score.score_config import SCoReConfig
from trl_score.score.score_trainer import SCoReTrainer


def config(folder, **options):
    return SCoReConfig(output_dir=str(folder), use_cpu=True, report_to="none", **options)


def test_arguments_hold_ours_and_no_place_host_or_token(tmp_path):
    args = config(
        tmp_path / "secret",
        hub_token="the-token",
        run_name="secret run",
        vllm_server_base_url="http://secret:1",
        model_init_kwargs={"token": "the-token"},
        ref_model_name_or_path=str(tmp_path / "secret" / "base"),
        lr_scheduler_type="cosine",
        alpha=3.0,
    )
    arguments = published_arguments(args)
    own = {name for name in SCoReConfig.__annotations__ if name in vars(args)}
    assert own <= set(arguments)
    assert (arguments["alpha"], arguments["lr_scheduler_type"]) == (3.0, "cosine")
    assert arguments["ref_model_name_or_path"] == "base"
    text = json.dumps(arguments)
    assert [word for word in ("secret", "the-token", str(tmp_path)) if word in text] == []


def test_deviations_are_those_of_the_docstring():
    deviations = numbered_deviations(SCoReTrainer)
    starts = re.findall(r"^ +(\d+)\. (.*)$", SCoReTrainer.__doc__, re.MULTILINE)
    assert [int(number) for number, _ in starts] == list(range(1, len(deviations) + 1))
    assert all(text.startswith(first) for text, (_, first) in zip(deviations, starts, strict=True))
    assert not any("Args:" in text or "\n" in text for text in deviations)


def test_deviations_of_a_derived_trainer_are_its_parents():
    class Derived(SCoReTrainer):
        """Trains in another way."""

    assert numbered_deviations(Derived) == numbered_deviations(SCoReTrainer)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["/c/ann___sums/default/0.0.0/1/sums-train.arrow"], "ann/sums"),
        (["/c/json/default-1/0.0.0/2/json-train.arrow"], None),
        ([], None),
    ],
)
def test_name_of_a_dataset_is_read_off_its_files(files, expected):
    assert dataset_name(files) == expected


def test_a_record_is_read_as_it_was_written(tmp_path):
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    assert list(read_record(tmp_path)) == list(RECORD_KEYS)


def test_without_a_record_nothing_is_known(tmp_path):
    assert read_record(tmp_path) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"unknown": 1}'])
def test_a_record_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "training_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"Expected .*training_config\.json"):
        read_record(tmp_path)


def test_a_start_on_the_hub_is_the_base():
    assert describe_start("ann/base") == {"base_model": "ann/base", "earlier": []}
    assert describe_start("") == {"base_model": None, "earlier": []}


def test_a_start_from_a_folder_of_ours_tells_what_was_before(tmp_path):
    write_json(tmp_path / "training_config.json", RECORD)
    start = describe_start(str(tmp_path))
    assert start["base_model"] == "ann/base"
    assert [(step["stage"], step["step"]) for step in start["earlier"]] == [("both", 60), ("1", 30)]
    assert set(start["earlier"][0]) == {"method", "stage", "dataset", "num_rows", "reward_funcs", "step"}


def test_a_start_from_any_other_folder_has_no_base_on_the_hub(tmp_path):
    assert describe_start(str(tmp_path)) == {"base_model": None, "earlier": []}


def test_a_start_from_an_adapter_is_told_too(tmp_path):
    write_json(tmp_path / "training_config.json", RECORD)
    assert describe_start("ann/base", "ann/adapter")["earlier"] == [{"repo_id": "ann/adapter"}]
    assert describe_start("ann/base", str(tmp_path))["earlier"][0]["step"] == 60
    assert describe_start("ann/base", str(Path(tmp_path)))["base_model"] == "ann/base"
