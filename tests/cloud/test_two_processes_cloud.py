"""
Two processes, under DDP, ZeRO-2 and ZeRO-3, train, save and reload the reward model that one process trains on the same
batches: losses, rewards, counts and weights. See `two_process_cloud_worker.py` for the runs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trl_score.cloud.modeling import CLoudRewardModel, load_reward_model

WORKER = Path(__file__).parent / "two_process_cloud_worker.py"
CONFIGS = WORKER.parents[2] / "ds_configs"
ACCELERATE = ["-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
LAUNCHERS = {
    "one": [],
    "ddp": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "zero2": [*ACCELERATE, str(CONFIGS / "accelerate_zero2_cpu.yaml")],
    "zero3": [*ACCELERATE, str(CONFIGS / "accelerate_zero3_cpu.yaml")],
}
# All of an engine's runs are one launch. "continued" goes on from what "sum" saved.
SHARDED = ("chunks", "token_mean", "classic", "tied", "adapter", "both")
RUNS = {
    "ddp": ("chunks", "token_mean", "k_critiques", "mean_of_k", "sft", "classic", "adapter", "both", "nan"),
    "zero2": SHARDED,
    "zero3": (*SHARDED, "sft", "sum", "continued", "adapter_both"),
}
RUNS["one"] = tuple(dict.fromkeys(name for names in RUNS.values() for name in names))
PAIRED = [(engine, name) for engine in ("ddp", "zero2", "zero3") for name in RUNS[engine]]

# Dozens of steps of Adam between the first difference in rounding and what is compared.
LOOSE = ("both", "adapter_both")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def language_models(local_model, tmp_path_factory):
    """The folder of the language models, by kind. Gemma's LM head is its embeddings."""
    folder = tmp_path_factory.mktemp("language_models")
    for kind in ("qwen2", "gemma"):
        (folder / kind).symlink_to(local_model(kind), target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def trained(language_models, tmp_path_factory):
    """Gives the folder that an engine wrote, running it when it is first asked for."""
    folders = {}

    def folder_of(engine):
        if engine not in folders:
            folders[engine] = tmp_path_factory.mktemp(engine)
            world_size = "1" if engine == "one" else "2"
            arguments = [str(language_models), str(folders[engine]), world_size, *RUNS[engine]]
            done = subprocess.run(
                [sys.executable, *LAUNCHERS[engine], str(WORKER), *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
                text=True,
                timeout=600,  # DeepSpeed's first start on a machine compiles an operator
            )
            assert done.returncode == 0, done.stderr[-4000:]
        return folders[engine]

    return folder_of


def result(folder, name):
    return torch.load(folder / f"{name}.pt", weights_only=False)


def load(folder, name, language_models):
    """What a run saved, in this one process."""
    base = {"base_model": language_models / "qwen2"} if name.startswith("adapter") else {}
    return load_reward_model(folder / name / "saved", **base)


@pytest.mark.parametrize(("engine", "name"), PAIRED)
def test_two_processes_log_as_one(trained, engine, name):
    one, two = (result(trained(which), name)["logs"] for which in ("one", engine))
    assert len(one) == len(two)
    compared, tolerance = 0, {"rel": 1e-2, "abs": 2e-3} if name in LOOSE else {"rel": 1e-3, "abs": 1e-5}
    for expected, found in zip(one, two, strict=True):
        # transformers leaves a NaN out of the loss that it logs, on each process for itself.
        keys = [key for key in expected if "cloud/" in key or (key == "loss" and name != "nan")]
        # Of an evaluation batch with repeated rows the loss is another, and so are its tokens.
        keys = [key for key in keys if not (key.startswith("eval_") and key.endswith(("_loss", "supervised_tokens")))]
        keys = [key for key in keys if not (key.startswith("eval_") and key.endswith("critique_accuracy"))]
        for key in keys:
            assert found[key] == pytest.approx(expected[key], **tolerance), (key, expected.get("step"))
        compared += len(keys)
    assert compared > 10


def test_loss_of_one_process_that_is_no_number_skips_the_step_of_both(trained):
    logs = result(trained("ddp"), "nan")["logs"]
    assert [entry["cloud/skipped_steps"] for entry in logs if "loss" in entry] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("engine", "name"), PAIRED)
def test_two_processes_save_the_model_of_one(trained, language_models, engine, name):
    one, two = (load(trained(which), name, language_models).state_dict() for which in ("one", engine))
    assert one.keys() == two.keys()
    tolerance = 3e-3 if name in LOOSE else 1e-4
    for key, weight in one.items():
        if "original_module" not in key:  # the head that an adapter's own stands for is never trained or saved
            torch.testing.assert_close(two[key], weight, rtol=1e-4, atol=tolerance, msg=key)


@pytest.mark.parametrize(("engine", "name"), [*(("one", name) for name in RUNS["one"]), *PAIRED])
def test_what_was_saved_gives_the_rewards_of_the_model_in_training(trained, language_models, engine, name):
    in_training = result(trained(engine), name)
    probe = torch.arange(5, 5 + 4 * 12).reshape(4, 12)  # the worker's
    with torch.no_grad():
        output = load(trained(engine), name, language_models).eval()(probe, labels=probe)
    torch.testing.assert_close(output.rewards, in_training["rewards"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.critique_nll, in_training["nll"], rtol=1e-5, atol=1e-4)
    assert len(set(output.rewards.tolist())) == len(probe)


@pytest.mark.parametrize("name", ["sum", "tied", "adapter"])
def test_both_heads_and_the_language_model_were_trained(trained, language_models, name):
    """Else the comparisons above would compare what nobody has touched."""
    kind = "gemma" if name == "tied" else "qwen2"
    torch.manual_seed(42)  # the default of the trainer's seed, with which it draws the head
    start = CLoudRewardModel.from_causal_lm(language_models / kind, dtype=torch.float32)
    end = load(trained("one"), name, language_models)
    if name == "adapter":
        end = end.merge_and_unload()
    before, after = start.state_dict(), end.state_dict()
    query = "reward_base_model.model.layers.0.self_attn.q_proj.weight"
    for key in ("reward_head.dense.weight", "reward_base_model.lm_head.weight", query):
        assert 0 < (after[key] - before[key]).abs().max() < 0.1, key


def test_weights_are_written_once_and_whole_under_zero3(trained):
    for name in ("sum", "tied"):
        one, sharded = (
            load_file(trained(engine) / name / "saved" / "model.safetensors") for engine in ("one", "zero3")
        )
        assert {key: weight.shape for key, weight in sharded.items()} == {k: w.shape for k, w in one.items()}


@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine, name in PAIRED if "both" in name])
def test_two_processes_write_the_critiques_of_one(trained, engine, name):
    """Each its share, none twice, and with text in them: between the stages there is a model that can write."""
    written = []
    for which in ("one", engine):
        files = sorted((trained(which) / name / "critiques" / "train").glob("*.jsonl"))
        assert len(files) == (1 if which == "one" else 2)
        records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        assert len(records) == 32
        written.append({(record["row"], record["side"]): record["critique"] for record in records})
    assert written[0] == written[1]
    assert sum(bool(critique[0].strip()) for critique in written[0].values()) > 16
