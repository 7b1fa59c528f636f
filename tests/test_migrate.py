"""docs/migrate.md against TRL and against the code: its scripts are run as they stand there, its tables compared."""

import ast
import dataclasses
import inspect
import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any, get_type_hints
from unittest.mock import patch

import cloud_runs
import pytest
import score_runs
import trl.scripts
from cloud_runs import preference_dataset
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from score_runs import addition_dataset, odd_length
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from trl_score import CLoudRewardConfig, CLoudRewardTrainer, SCoReConfig, SCoReTrainer

PAGE = (Path(__file__).parents[1] / "docs" / "migrate.md").read_text()
NAMES = {
    "GRPOTrainer": "SCoReTrainer",
    "GRPOConfig": "SCoReConfig",
    "RewardTrainer": "CLoudRewardTrainer",
    "RewardConfig": "CLoudRewardConfig",
}
CONFIGS = [(GRPOConfig, SCoReConfig), (RewardConfig, CLoudRewardConfig)]

# Where TRL's scripts say nothing, loaders pin memory.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")


# Reading the page


def blocks(language: str) -> list[tuple[str, str]]:
    """The code blocks of a language, each with the file name in its first line."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [(text.splitlines()[0].lstrip(" #"), text) for text in found]


def table(*header: str) -> list[list[str]]:
    """The cells of the table with these column names."""
    lines = PAGE.split(f"| {' | '.join(header)} |\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names_in(text: str) -> list[str]:
    return re.findall(r"`([\w/]+)`", text)


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def apply(diff: str, before: str) -> str:
    """Makes of a script what a diff says; each line of the diff must stand in the script, in that order."""
    lines, made, position = before.splitlines(), [], 0
    for line in diff.splitlines():
        kind, text = line[:1], line[1:]
        if kind == "+":
            made.append(text)
        elif kind in " -":
            index = lines.index(text, position)
            made += lines[position:index] + ([text] if kind == " " else [])
            position = index + 1
    return "\n".join([*made, *lines[position:], ""])


SCRIPTS = dict(blocks("python"))
SETTINGS = dict(blocks("yaml"))
DIFFS = blocks("diff")


# Scripts


@pytest.fixture(scope="module")
def folder(local_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where scripts run: with a model under the name that they ask for, and each dataset as a file and as a folder."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "Qwen").mkdir()
    (folder / "Qwen" / "Qwen2.5-0.5B-Instruct").symlink_to(local_model("qwen2"))
    pairs = preference_dataset(is_chat=True)
    for name, dataset in {
        "problems": addition_dataset(),
        "critiques": pairs,
        "pairs": pairs.remove_columns(["chosen_critique", "rejected_critique"]),
    }.items():
        dataset.to_json(folder / f"{name}.jsonl")
        (folder / name).mkdir()
        dataset.to_json(folder / name / "train.jsonl")
        dataset.select(range(4)).to_json(folder / name / "test.jsonl")
    return folder


def run_file(folder: Path, name: str, text: str, *flags: str) -> dict[str, Any]:
    """Runs a script as a user does, but in this process; gives its names."""
    (folder / name).write_text(text)
    # A script of TRL's without `use_cpu` is for a machine that has bf16.
    has_bf16 = patch("transformers.training_args.is_torch_bf16_gpu_available", return_value=True)
    with chdir(folder), patch.object(sys, "argv", [name, *flags]), has_bf16:
        return runpy.run_path(name, run_name="__main__")


@pytest.fixture(scope="module")
def run_script(folder: Path) -> Callable[..., Any]:
    """Runs a script of the page, with its YAML file where it has one, and gives its trainer."""

    def run(name: str, text: str, settings: str | None = None) -> Any:
        (folder / "settings.yaml").write_text(settings or "")
        flags = [] if settings is None else ["--config", "settings.yaml"]
        return run_file(folder, name, text, *flags)["trainer"]

    return run


def logs_of(trainer: Any, key: str) -> list[dict[str, Any]]:
    return [entry for entry in trainer.state.log_history if key in entry]


def test_the_diffs_change_the_names_and_what_the_page_says():
    assert {name for name, _ in DIFFS} == set(SCRIPTS)
    for name, diff in DIFFS:
        removed, added = (
            [line[1:] for line in diff.splitlines() if line.startswith(sign) and "import" not in line] for sign in "-+"
        )
        renamed = [re.sub(r"\w+", lambda word: NAMES.get(word[0], word[0]), line) for line in removed]
        further = [line.strip() for line in added if line not in renamed]
        if name == "reward.py":
            assert further == ['stage="classic",'] or (len(further) == 1 and "critiques.jsonl" in further[0])
        else:
            assert further == []
        assert not set(re.findall(r"\w+", apply(diff, SCRIPTS[name]))) & set(NAMES)


def test_the_grpo_script(run_script):
    """Before and after; and the keys that the page names for each of TRL's."""
    before = run_script("grpo.py", SCRIPTS["grpo.py"])
    assert type(before) is GRPOTrainer
    after = run_script("grpo.py", apply(DIFFS[0][1], SCRIPTS["grpo.py"]))
    assert type(after) is SCoReTrainer
    assert len(logs_of(before, "loss")) == 4
    steps = logs_of(after, "loss")
    assert [entry["score/stage"] for entry in steps] == [1, 1, 2, 2]
    assert steps[0]["completions/max_length"] > 32  # each turn may have as many
    for of_trl, ours in table("GRPOTrainer", "SCoReTrainer"):
        names = names_in(of_trl)
        expected = names_in(ours) + (names if ours.startswith("the same") else [])
        assert [name for name in expected if name not in steps[0]] == []
        needs_kl = {"kl"}
        assert [name for name in names if name not in logs_of(before, "loss")[0]] == [n for n in names if n in needs_kl]


def test_the_grpo_script_with_trls_parser(run_script):
    name = "grpo_parser.py"
    settings = SETTINGS["grpo_parser.yaml"]
    assert type(run_script(name, SCRIPTS[name], settings)) is GRPOTrainer
    trainer = run_script(name, apply(DIFFS[1][1], SCRIPTS[name]), settings + "alpha: 3.0\n")
    assert type(trainer) is SCoReTrainer
    assert (trainer.args.temperature, trainer.args.alpha) == (0.9, 3.0)
    assert any("lora_" in name for name, _ in trainer.model.named_parameters())
    assert [entry["score/stage"] for entry in logs_of(trainer, "loss")] == [1, 2]


def test_the_grpo_script_with_more(run_script, capsys):
    name = "grpo_more.py"
    before = run_script(name, SCRIPTS[name])
    assert isinstance(before, GRPOTrainer) and not isinstance(before, SCoReTrainer)
    printed = capsys.readouterr().out
    trainer = run_script(name, apply(DIFFS[2][1], SCRIPTS[name]))
    assert isinstance(trainer, SCoReTrainer)
    for output in (printed, capsys.readouterr().out):
        assert len(re.findall(r"^step \d: reward ", output, re.MULTILINE)) == 2
    steps = logs_of(trainer, "loss")
    for entry in steps:
        # The weights of the page: 1 and 0.1.
        expected = entry["rewards/right_answer/mean"] + 0.1 * entry["rewards/brevity/mean"]
        assert entry["reward"] == pytest.approx(expected, abs=2e-3)  # what is logged is rounded to three places
        assert entry["characters_t1"] > 0 and entry["characters_t2"] > 0
    assert round(steps[0]["loss"], 3) == steps[0]["loss"]
    for of in ("first", "last"):
        evaluations = logs_of(trainer, f"eval_{of}_score/accuracy_t2")
        assert [entry["step"] for entry in evaluations] == [1, 2]  # at the end of Stage I too
    assert len(logs_of(before, "eval_reward")) == 2


def test_the_reward_script(run_script):
    """Before, as a classic model and as a CLoud model; and the keys that the page names for each of TRL's."""
    (_, classic), (_, cloud) = [entry for entry in DIFFS if entry[0] == "reward.py"]
    script = SCRIPTS["reward.py"]
    before, *after = (run_script("reward.py", text) for text in (script, apply(classic, script), apply(cloud, script)))
    assert type(before) is RewardTrainer
    assert [type(trainer) for trainer in after] == [CLoudRewardTrainer] * 2
    assert [trainer.args.stage for trainer in after] == ["classic", "joint"]
    (first, _), (of_classic, _), (of_cloud, _) = (logs_of(trainer, "loss") for trainer in (before, *after))
    assert of_classic["loss"] == pytest.approx(of_classic["cloud/reward_loss"])
    assert of_cloud["loss"] > of_cloud["cloud/reward_loss"]
    for of_trl, ours in table("RewardTrainer", "CLoudRewardTrainer"):
        assert [name for name in names_in(of_trl) if name not in first] == []
        keys = [name for name in names_in(ours) if not name.startswith("eval_")]
        assert [key for key in keys if key not in of_cloud] == []
        if "lacks" not in of_trl:
            assert [key for key in keys if key not in of_classic] == []
        else:
            assert [key for key in keys if key in of_classic] == []


def test_the_reward_script_with_trls_parser(run_script):
    name = "reward_more.py"
    settings = SETTINGS["reward_more.yaml"]
    before = run_script(name, SCRIPTS[name], settings)
    assert type(before) is RewardTrainer
    diff = dict(DIFFS)[name]
    classic = run_script(name, apply(diff, SCRIPTS[name]), settings + "stage: classic\n")
    cloud = run_script(name, apply(diff, SCRIPTS[name]), settings.replace("pairs.jsonl", "critiques.jsonl"))
    adapted = {name.split(".")[-4] for name, _ in before.model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "v_proj"}
    for trainer in (classic, cloud):
        assert type(trainer) is CLoudRewardTrainer
        trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
        assert {name.split(".")[-4] for name in trained if "lora_A" in name} == adapted
        assert any("reward_head" in name for name in trained)
        for of in ("first", "last"):
            assert len(logs_of(trainer, f"eval_{of}_spread")) == 1
            assert len(logs_of(trainer, f"eval_{of}_cloud/accuracy")) == 1


def with_our_names(script: str) -> str:
    """Changes the two names of a script, and where they are imported from."""
    script = re.sub(r"\w+", lambda word: NAMES.get(word[0], word[0]), script)

    def imports(found: re.Match[str]) -> str:
        names = found[2].split(", ")
        ours = [name for name in names if name in NAMES.values()]
        rest = [name for name in names if name not in ours]
        modules = (("trl", rest), ("trl_score", ours))
        return "\n".join(f"{found[1]}from {module} import {', '.join(some)}" for module, some in modules if some)

    return re.sub(r"^( *)from trl import ([^(\n]+)$", imports, script, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        (
            "grpo",
            "--dataset_name problems --reward_funcs accuracy_reward think_format_reward --num_generations 2 "
            "--max_completion_length 16",
        ),
        ("reward", "--dataset_name pairs --max_length 256 --stage classic --lora_task_type SEQ_CLS"),
        (
            "reward",
            "--dataset_name critiques --max_length 256 --lora_modules_to_save score --lora_target_modules all-linear",
        ),
    ],
    ids=["grpo", "classic", "cloud"],
)
def test_trls_own_scripts(folder, tmp_path, name, flags):
    flags += (
        f" --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --output_dir {tmp_path} --dtype float32 --use_peft "
        "--max_steps 2 --per_device_train_batch_size 4 --per_device_eval_batch_size 4 --eval_strategy steps "
        "--eval_steps 2 --logging_steps 1 --use_cpu"
    )
    script = (Path(trl.scripts.__file__).parent / f"{name}.py").read_text()
    run_file(folder, f"{name}.py", with_our_names(script), *flags.split())
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert saved["modules_to_save"] == (None if name == "grpo" else ["reward_head"])


# TRL's surface


@pytest.mark.parametrize(("theirs", "ours"), [(GRPOTrainer, SCoReTrainer), (RewardTrainer, CLoudRewardTrainer)])
def test_constructors_have_the_same_parameters(theirs, ours):
    expected, found = (
        [(name, parameter.kind, parameter.default) for name, parameter in inspect.signature(of).parameters.items()]
        for of in (theirs, ours)
    )
    assert found == expected


@pytest.mark.parametrize(("theirs", "ours"), CONFIGS)
def test_configurations_have_all_fields_of_trl_in_order(theirs, ours):
    # Not `field.type`, which transformers' argument parser changes.
    of_trl, own = get_type_hints(theirs), get_type_hints(ours)
    names = [field.name for field in dataclasses.fields(theirs)]
    assert [field.name for field in dataclasses.fields(ours)][: len(names)] == names
    as_plain = {dict[str, Any] | str | None: dict | str | None}
    assert {name: as_plain.get(own[name], own[name]) for name in names} == {
        name: as_plain.get(of_trl[name], of_trl[name]) for name in names
    }


@pytest.mark.parametrize(("theirs", "ours"), CONFIGS)
def test_changed_defaults_are_those_of_the_table(theirs, ours):
    found = {field.name: field for field in dataclasses.fields(ours)}
    changed = {
        field.name: (repr(getattr(field.default, "value", field.default)), repr(found[field.name].default))
        for field in dataclasses.fields(theirs)
        if (field.default, field.default_factory) != (found[field.name].default, found[field.name].default_factory)
    }
    rows = table("field", theirs.__name__, ours.__name__)
    assert {name.strip("`"): (of_trl.strip("`"), own.strip("`")) for name, of_trl, own in rows} == changed


@pytest.mark.parametrize(("theirs", "ours"), CONFIGS)
def test_what_a_configuration_makes_of_its_fields_differs_where_the_page_says(theirs, ours, tmp_path):
    made, own = (vars(of(output_dir=str(tmp_path), use_cpu=True)) for of in (theirs, ours))
    differing = {name for name in made if repr(made[name]) != repr(own[name])}
    assert differing - {"mixed_precision"} <= set(names_in(section(theirs.__name__)))  # the latter follows from bf16


def test_private_methods_that_the_page_names_are_overridden():
    names = re.findall(r"`(_\w+)`", PAGE.split("SCoRe overrides some itself")[1].split("):")[0])
    assert len(names) == 4
    assert [name for name in names if getattr(SCoReTrainer, name).__module__.partition(".")[0] != "trl_score"] == []


def given_fields(cell: str) -> dict[str, Any]:
    """The arguments that a cell such as `a=1, b="x"` gives."""
    call = ast.parse(f"f({cell.strip('`')})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


@pytest.mark.parametrize(("theirs", "ours"), CONFIGS)
def test_every_field_that_trl_adds_has_one_place_on_the_page(theirs, ours):
    said, fields = section(theirs.__name__), theirs.__annotations__
    refused = {name for cell, _ in table(ours.__name__, "what it says") for name in given_fields(cell)}
    missing = [name for name in fields if name not in {*names_in(said), *refused}]
    assert missing == [], f"docs/migrate.md does not say what these fields of {theirs.__name__} are for us"
    elsewhere, rest = said.split("All other fields")
    rest = names_in(rest.split("what TRL says of them:")[1].split("\n\n")[0])
    assert [name for name in rest if name not in fields] == []
    assert [name for name in rest if name in names_in(elsewhere) or rest.count(name) > 1] == []


@pytest.mark.parametrize(
    ("config", "cell", "sentence"),
    [(ours, *row) for ours in (SCoReConfig, CLoudRewardConfig) for row in table(ours.__name__, "what it says")],
)
def test_refused_fields_are_refused_with_the_sentence(config, cell, sentence, tmp_path):
    base = GRPOConfig if config is SCoReConfig else RewardConfig
    fields = given_fields(cell)
    base(output_dir=str(tmp_path), use_cpu=True, **fields)  # what TRL takes
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        config(output_dir=str(tmp_path), use_cpu=True, **fields)


# What a trainer refuses, by the first cell of its row: keyword arguments, less those that are always given.


LORA = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["reward_head"])


def with_column(dataset: Dataset, name: str, value: Any) -> Dataset:
    return dataset.add_column(name, [value] * len(dataset))


def refused_by_score(model: Path, adapter: Path) -> dict[str, dict[str, Any]]:
    """Arguments of SCoReTrainer."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{{ messages[-1].content }}<|im_end|>"
    return {
        "`tools`, `rollout_func`, `environment_factory`": {"tools": [len]},
        "a dataset with images": {"train_dataset": with_column(addition_dataset(), "image", None)},
        "a processor as `processing_class`": {"processing_class": object()},
        "an adapter's folder as `model`": {"model": str(adapter)},
        "a PEFT model whose adapter is not called `default`": {
            "model": get_peft_model(AutoModelForCausalLM.from_pretrained(model), LORA, adapter_name="mine")
        },
        "`quantization_config` without `peft_config`": {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
        "both turns longer than the model's context": {"max_completion_length": 400},
        "a chat template that cannot go on after an answer": {"processing_class": tokenizer},
        "fewer rows than one rollout batch": {"train_dataset": addition_dataset(num_rows=1)},
    }


def refused_by_cloud(model: Path, adapter: Path) -> dict[str, dict[str, Any]]:
    """Arguments of CLoudRewardTrainer."""
    pairs = preference_dataset(4)
    ids = Dataset.from_dict({"chosen_ids": [[1]], "rejected_ids": [[2]]})
    alike = pairs.map(lambda row: {"rejected": row["chosen"]})
    return {
        "a dataset without critiques": {"train_dataset": pairs.remove_columns("chosen_critique")},
        "tokenized rows (`chosen_ids`)": {"train_dataset": ids},
        "a model for sequence classification, or its name": {
            "model": AutoModelForSequenceClassification.from_pretrained(model)
        },
        "a PEFT model around a language model": {
            "model": get_peft_model(AutoModelForCausalLM.from_pretrained(model), LORA)
        },
        "an adapter's folder as `model`": {"model": str(adapter)},
        "a processor as `processing_class`": {"processing_class": object()},
        "`quantization_config` without `peft_config`": {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
        "`data_collator=DataCollatorForPreference(...)`": {"data_collator": DataCollatorForPreference(0)},
        "columns `tools`, `chat_template_kwargs`": {"train_dataset": with_column(pairs, "tools", "[]")},
        "`max_length` (2048 by default) above the model's context": {"max_length": 2048},
        "chosen and rejected alike": {"train_dataset": alike},
    }


@pytest.mark.parametrize("trainer", [SCoReTrainer, CLoudRewardTrainer])
def test_refused_arguments_are_refused_with_the_sentence(trainer, local_model, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(local_model("qwen2"), adapter)
    (adapter / "adapter_config.json").write_text("{}")
    make = refused_by_score if trainer is SCoReTrainer else refused_by_cloud
    cases = make(local_model("qwen2"), adapter)
    sentences = dict(table(trainer.__name__, "what it says"))
    assert cases.keys() == sentences.keys()
    if trainer is SCoReTrainer:
        config, given = score_runs.short_config, {"train_dataset": addition_dataset(), "reward_funcs": odd_length}
    else:
        config, given = cloud_runs.short_config, {"train_dataset": preference_dataset(4)}
    for case, changed in cases.items():
        arguments = {"model": str(local_model("qwen2")), **given, **changed}
        options = {name: arguments.pop(name) for name in list(arguments) if name.startswith("max_")}
        with pytest.raises((ValueError, TypeError), match=re.escape(sentences[case])):
            trainer(args=config(tmp_path, **options), **arguments)


@pytest.mark.parametrize("name", ["tools", "rollout_func", "environment_factory"])
def test_what_makes_other_rollouts_is_refused(name, local_model, tmp_path):
    sentence = dict(table("SCoReTrainer", "what it says"))["`tools`, `rollout_func`, `environment_factory`"]
    with pytest.raises(ValueError, match=f"^`{name}` is not supported: {re.escape(sentence)}$"):
        SCoReTrainer(
            str(local_model("qwen2")),
            odd_length,
            score_runs.short_config(tmp_path),
            addition_dataset(),
            **{name: print},
        )
