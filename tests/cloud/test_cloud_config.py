"""The configuration: the paper's defaults, what is refused, and the stages made of it."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from trl_score.cloud.cloud_config import _REFUSED, CLoudRewardConfig
from trl_score.cloud.prompts import CRITIQUE_PROMPT
from trl_score.log_keys import CLOUD_LOG_KEYS

OWN = [field for field in fields(CLoudRewardConfig) if field.name in CLoudRewardConfig.__annotations__]


def config(tmp_path, **options):
    return CLoudRewardConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)


def test_defaults_are_the_papers(tmp_path):
    args = config(tmp_path)
    assert (args.stage, args.critique_weight, args.critique_normalization) == ("joint", 1.25, "token_mean")
    assert (args.learning_rate, args.num_train_epochs, args.max_length) == (1e-6, 1.0, 2048)
    assert (args.lr_scheduler_kwargs, args.adam_beta2) == ({"min_lr_rate": 0.01}, 0.95)
    assert (args.critique_temperature, args.num_self_critiques, args.max_critique_length) == (0.0, 1, 1024)
    assert args.critique_prompt == CRITIQUE_PROMPT
    assert not args.bf16  # on a CPU


def test_every_field_is_documented_in_the_same_order():
    documented = re.findall(r"^ {8}(\w+) \(", CLoudRewardConfig.__doc__, flags=re.MULTILINE)
    inherited = documented.index("learning_rate")
    own = list(CLoudRewardConfig.__annotations__)
    assert documented[inherited:] + documented[:inherited] == own
    assert all(field.metadata.get("help") for field in OWN)


def test_a_classic_model_is_one_setting_away(tmp_path):
    args = config(tmp_path, stage="classic")
    assert args.is_classic and args.learns_rewards and args.critique_prompt is None
    assert not config(tmp_path, stage="sft").learns_rewards


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "1"}, "`stage` must be one of 'sft', 'joint', 'both', 'classic', got '1'"),
        ({"critique_normalization": "mean"}, "`critique_normalization` must be one of .* got 'mean'"),
        ({"critique_weight_schedule": "step"}, "`critique_weight_schedule` must be one of"),
        ({"critiques_per_response": "all"}, "`critiques_per_response` must be one of"),
        ({"overlong": "cut"}, "`overlong` must be one of 'shorten', 'drop', got 'cut'"),
        ({"critique_weight": -1.0}, r"`critique_weight` must not be negative, got -1\.0"),
        ({"critique_temperature": -0.1}, "`critique_temperature` must not be negative"),
        ({"max_length": 0}, "`max_length` must be at least 1, got 0"),
        ({"max_skipped_steps": 0}, "`max_skipped_steps` must be at least 1 step, got 0"),
        ({"max_critique_length": 0}, "`max_critique_length` must be at least 1"),
        ({"num_self_critiques": 2}, "`num_self_critiques=2` greedy critiques would all be alike"),
        ({"final_critique_weight": 0.5}, r"goes with a `critique_weight_schedule` .* got 0\.5 and 'constant'"),
        ({"critique_weight_schedule": "linear"}, "got None and 'linear'"),
        ({"critique_prompt": None}, r"Stage 'joint' needs a `critique_prompt`.* set `stage='classic'`"),
        ({"sft_options": {"max_steps": 3}}, "`sft_options` is for `stage='both'`, got it with 'joint'"),
        ({"use_liger_kernel": True}, "`use_liger_kernel=True` is not supported by CLoud"),
        ({"chat_template_path": "here"}, r"`chat_template_path='here'` is not supported .* `tokenizer.chat_template`"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)


def test_refused_options_are_fields_of_trl():
    names = {field.name for field in fields(CLoudRewardConfig)}
    assert {name for name, _, _ in _REFUSED} <= names


def test_stages_of_both(tmp_path):
    args = config(tmp_path / "run", stage="both", sft_options={"num_train_epochs": 2.0}, push_to_hub=True)
    sft = args.sft_stage("a")
    # The learning rate is the paper's, in its proportion to the joint stage's.
    assert (sft.stage, sft.output_dir, sft.num_train_epochs) == ("sft", "a", 2.0)
    assert sft.learning_rate == pytest.approx(5e-6)
    assert sft.sft_options is None and not sft.push_to_hub
    joint = args.joint_stage("b")
    assert (joint.stage, joint.output_dir, joint.learning_rate, joint.num_train_epochs) == ("joint", "b", 1e-6, 1.0)
    assert (joint.push_to_hub, joint.hub_model_id) == (True, "run")
    assert config(tmp_path, stage="both", sft_options={"learning_rate": 0.1}).sft_stage("a").learning_rate == 0.1


def test_command_line(tmp_path):
    words = ["--output_dir", str(tmp_path), "--stage", "both", "--critique_weight", "0.75", "--use_cpu"]
    words += ["--sft_options", '{"max_steps": 3}', "--critique_weight_schedule", "linear"]
    words += ["--final_critique_weight", "0.1", "--report_to", "none"]
    (args,) = HfArgumentParser(CLoudRewardConfig).parse_args_into_dataclasses(words)
    assert (args.critique_weight, args.final_critique_weight, args.sft_options) == (0.75, 0.1, {"max_steps": 3})
    assert "5%" in HfArgumentParser(CLoudRewardConfig).format_help()


# The page in docs/

PAGE = (Path(__file__).parents[2] / "docs" / "cloud_options.md").read_text()


def table(heading):
    """Returns the cells of the table under a heading, without its header."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_page_has_every_option():
    expected = {
        f"`{field.name}`": (
            "our own wording" if field.name == "critique_prompt" else f"`{field.default!r}`",
            field.metadata["help"].replace("%%", "%"),
        )
        for field in OWN
    }
    assert {name: (default, text) for name, default, text in table("Options")} == expected
    refused = PAGE.split("## Refused\n")[1].split("\n## ")[0]
    assert all(f"`{name}`" in refused for name, _, _ in _REFUSED)


def test_page_has_every_logged_key():
    assert {key.strip("`"): text for key, text in table("Logged keys")} == CLOUD_LOG_KEYS
