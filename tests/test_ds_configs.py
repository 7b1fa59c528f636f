"""
Every file of `ds_configs/` is read as it will be read: by accelerate's launcher and plugins, by Transformers and by
DeepSpeed. What a `.json` says for `--deepspeed` is what the accelerate file of that name says.
"""

import argparse
import json
import os
import shlex
from pathlib import Path

import pytest
import torch
from accelerate.commands import launch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.zero.offload_config import OffloadDeviceEnum
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from trl_score import SCoReConfig

FOLDER = Path(__file__).parents[1] / "trl_score" / "ds_configs"
ACCELERATE = {path.stem.removeprefix("accelerate_"): path for path in sorted(FOLDER.glob("accelerate_*.yaml"))}
DEEPSPEED = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
SHARDED = {
    "zero1": (1, None, None),
    "zero2": (2, None, None),
    "zero3": (3, None, None),
    "zero3_offload": (3, "cpu", "cpu"),
    "zero3_offload_lora": (3, None, "cpu"),
}


def launch_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """
    Gives this process the environment in which the processes start that the command in a file's first line launches.

    Returns:
        `argparse.Namespace`: The launcher's options, with those of the file.
    """
    command = ACCELERATE[name].read_text().splitlines()[0].removeprefix("# ")
    program, subcommand, *options = shlex.split(command)
    assert (program, subcommand) == ("accelerate", "launch")
    started = []
    for launcher in ("deepspeed_launcher", "multi_gpu_launcher"):
        monkeypatch.setattr(launch, launcher, started.append)
    monkeypatch.chdir(FOLDER.parents[1])
    for variable in [key for key in os.environ if key.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(variable)
    launch.launch_command(launch.launch_command_parser().parse_args(["--main_process_port", "0", *options]))
    (arguments,) = started
    environment = (
        prepare_deepspeed_cmd_env(arguments)[1] if arguments.use_deepspeed else prepare_multi_gpu_env(arguments)
    )
    for variable in environment.keys() - os.environ.keys():
        monkeypatch.setenv(variable, environment[variable])
    return arguments


def numbers_filled_in(settings: dict) -> dict:
    """A DeepSpeed configuration with numbers for the batch sizes, which Transformers fills in later."""
    sizes = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "train_batch_size": 8}
    return {**settings, **sizes, "gradient_clipping": 1.0}


@pytest.fixture
def training_arguments(tmp_path):
    return SCoReConfig(
        str(tmp_path), use_cpu=True, bf16=True, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )


def test_the_folder_holds_what_is_tested():
    assert set(DEEPSPEED) == set(SHARDED)
    assert set(ACCELERATE) == {*SHARDED, "zero1_cpu", "zero2_cpu", "zero3_cpu", "fsdp2", "multi_gpu"}
    assert sorted([*DEEPSPEED.values(), *ACCELERATE.values()]) == sorted(FOLDER.iterdir())


@pytest.mark.parametrize("name", ACCELERATE)
def test_the_command_of_the_first_line_launches_with_that_file(name, monkeypatch):
    arguments = launch_environment(name, monkeypatch)
    assert Path(arguments.config_file).resolve() == ACCELERATE[name]
    assert arguments.training_script == "SCRIPT"
    on_cpu = name.endswith("_cpu")
    assert (arguments.use_cpu, arguments.num_processes) == ((True, 2) if on_cpu else (False, 8))
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == ("no" if on_cpu else "bf16")
    # The launcher of DeepSpeed does not hand `use_cpu` on, so the script is told.
    assert arguments.training_script_args == (["--use_cpu", "true"] if on_cpu else [])


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_knows_every_key(name):
    config = load_config_from_file(str(ACCELERATE[name]))
    assert isinstance(config, ClusterConfig)
    kinds = {"fsdp2": DistributedType.FSDP, "multi_gpu": DistributedType.MULTI_GPU}
    assert config.distributed_type == kinds.get(name, DistributedType.DEEPSPEED)
    # Keys of the sections become options of the launcher: one that it does not know would be lost without a word.
    known = {action.dest for action in launch.launch_command_parser()._actions}
    assert {*config.deepspeed_config, *config.fsdp_config} <= known


@pytest.mark.parametrize("name", [name for name in ACCELERATE if name.startswith("zero")])
def test_deepspeed_is_given_what_the_name_says(name, monkeypatch):
    stage, optimizer, weights = SHARDED[name.removesuffix("_cpu")]
    launch_environment(name, monkeypatch)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    assert plugin.zero3_init_flag == (stage == 3)  # else every process would first hold the whole model
    zero = DeepSpeedConfig(numbers_filled_in(plugin.deepspeed_config)).zero_config
    assert zero.stage == stage
    assert offload_devices(zero) == (optimizer or "none", weights or "none")
    # Without it ZeRO-3 saves no model that `from_pretrained` could load.
    assert zero.gather_16bit_weights_on_model_save == (stage == 3)


def offload_devices(zero) -> tuple[str, str]:
    """Where optimizer and weights are kept, of DeepSpeed's own configuration."""
    parts = (zero.offload_optimizer, zero.offload_param)
    return tuple("none" if part is None else OffloadDeviceEnum(part.device).value for part in parts)


@pytest.mark.parametrize("name", DEEPSPEED)
def test_a_json_says_the_same_as_the_accelerate_file(name, monkeypatch, training_arguments):
    config = HfTrainerDeepSpeedConfig(str(DEEPSPEED[name]))
    config.trainer_config_process(training_arguments)
    config.trainer_config_finalize(training_arguments, torch.nn.Linear(1, 1), 10)
    assert "auto" not in json.dumps(config.config)
    from_json = DeepSpeedConfig(config.config | {"train_batch_size": 8})
    assert config.dtype() == torch.bfloat16
    assert from_json.bfloat16_config.enabled

    launch_environment(name, monkeypatch)
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision(os.environ["ACCELERATE_MIXED_PRECISION"])
    from_yaml = DeepSpeedConfig(numbers_filled_in(plugin.deepspeed_config))
    unlike = ("offload_param", "offload_optimizer")  # accelerate writes "none" where the other is left out
    zero_json, zero_yaml = (each.zero_config for each in (from_json, from_yaml))
    assert zero_json.model_dump(exclude=unlike) == zero_yaml.model_dump(exclude=unlike)
    assert offload_devices(zero_json) == offload_devices(zero_yaml)
    for attribute in ("bfloat16_config", "float16_config", "gradient_clipping", "gradient_accumulation_steps"):
        assert vars(from_json)[attribute] == vars(from_yaml)[attribute]


@pytest.mark.parametrize("name", DEEPSPEED)
def test_a_json_begins_with_the_command_that_uses_it(name, tmp_path):
    key, command = next(iter(json.loads(DEEPSPEED[name].read_text()).items()))
    assert key == "_command"  # a file that Transformers reads can hold no comment
    program, *options = shlex.split(command)
    arguments = options[options.index("SCRIPT") + 1 :]
    assert program == "torchrun"
    assert arguments == ["--deepspeed", f"ds_configs/{name}.json"]


def test_fsdp2_is_given_what_the_file_says(monkeypatch):
    launch_environment("fsdp2", monkeypatch)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.cpu_ram_efficient_loading is True
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)  # `save_model` writes nothing otherwise
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
