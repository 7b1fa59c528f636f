"""SCoReConfig: its fields, their documentation, and what it refuses."""

import ast
import dataclasses
import inspect
import json
import re

import pytest
from trl import GRPOConfig, TrlParser

from trl_score.score.prompts import DEFAULT_CORRECTION_PROMPT
from trl_score.score.score_config import SCoReConfig

INHERITED = {field.name: field for field in dataclasses.fields(GRPOConfig)}
FIELDS = {field.name: field for field in dataclasses.fields(SCoReConfig)}
# What SCoReConfig writes in its own body: fields of its own, and inherited ones with another default.
DECLARED = [name for name in FIELDS if name in SCoReConfig.__annotations__]
OWN = [name for name in DECLARED if name not in INHERITED]

# `name (`type`, *optional*, defaults to `value`):` of TRL's docstrings
DOCUMENTED = {
    match["name"]: match
    for match in re.finditer(
        r"^\s*(?P<name>\w+) \((?P<type>`.*?`), \*optional\*(, defaults to `(?P<default>.*?)`)?\):$",
        inspect.getdoc(SCoReConfig),
        re.MULTILINE,
    )
}


@pytest.fixture
def config(tmp_path):
    """Makes a configuration that writes to a folder of the test."""

    def make(**kwargs):
        return SCoReConfig(**{"output_dir": str(tmp_path), "report_to": "none", **kwargs})

    return make


# Documentation


@pytest.mark.parametrize("name", DECLARED)
def test_field_has_help_and_stands_in_the_docstring(name):
    help_text = FIELDS[name].metadata["help"]
    assert help_text[0].isupper() or help_text.startswith("'")
    assert help_text.endswith(".")
    assert name in DOCUMENTED


@pytest.mark.parametrize("name", DECLARED)
def test_default_in_the_docstring_is_the_default(name):
    default, documented = FIELDS[name].default, DOCUMENTED[name]["default"]
    if name == "correction_prompt":  # a sentence of its own, not repeated there
        assert (default, documented) == (DEFAULT_CORRECTION_PROMPT, None)
    elif default is None:
        assert documented is None
    else:
        assert ast.literal_eval(documented) == default


def test_docstring_holds_no_field_that_does_not_exist():
    assert set(DOCUMENTED) - set(DECLARED) <= {"beta"}  # set in __post_init__, and said why
    assert set(DOCUMENTED) <= set(FIELDS)


@pytest.mark.parametrize("name", OWN)
def test_choices_are_named_in_the_help(name):
    for choice in FIELDS[name].metadata.get("choices", []):
        assert repr(choice) in FIELDS[name].metadata["help"]


def test_own_fields_are_few():
    # 17 of the method, those of long runs (steps to skip, seconds of a reward, memory of phases), and one of speed.
    assert len(OWN) <= 21


def test_defaults_are_the_papers(config):
    # SCoRe, table of hyper-parameters, MATH: lr 5e-6, alpha 10, beta_1 0.01, beta_2 0.1, temperature 1; appendix A.4:
    # no discounting between the turns; RLOO.
    args = config()
    assert (args.learning_rate, args.alpha, args.beta_1, args.beta_2) == (5e-6, 10.0, 0.01, 0.1)
    assert (args.temperature, args.turn_discount, args.baseline) == (1.0, 0.0, "leave_one_out")
    assert (args.loss_type, args.scale_rewards, args.num_iterations) == ("rloo", "none", 1)
    assert (args.stage, args.kl_estimator, args.eval_do_sample) == ("both", "k1", False)
    assert str(args.lr_scheduler_type.value) == "linear"
    assert "adamw" in str(args.optim.value)


# What is derived


def test_reference_is_needed_where_a_kl_is_paid(config):
    assert config().needs_reference
    assert config(beta_1=0.5, beta_2=0.0).needs_reference
    assert not config(beta_1=0.0, beta_2=0.0).needs_reference


def test_fp32_on_a_cpu_unless_asked_otherwise(config):
    assert config(use_cpu=True).bf16 is False
    assert config(use_cpu=True, bf16=True).bf16 is True


def test_bf16_stays_trls_default_on_an_accelerator(config, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    assert config(use_cpu=False).bf16 is True


def test_greedy_evaluation_makes_one_rollout_per_prompt(config):
    assert config().num_generations_eval == 1
    assert config(num_generations_eval=2).num_generations_eval == 2
    assert config(eval_do_sample=True, num_generations=8).num_generations_eval in (None, 8)


@pytest.mark.parametrize(
    ("kwargs", "budgets"),
    [
        ({"max_completion_length": 100}, (100, 100)),
        ({"max_completion_length": 100, "max_completion_length_t1": 60}, (60, 100)),
        ({"max_completion_length": 100, "max_completion_length_t2": 60}, (100, 60)),
        ({"max_completion_length": None, "max_completion_length_t1": 60, "max_completion_length_t2": 70}, (60, 70)),
    ],
)
def test_budgets_of_the_turns(config, kwargs, budgets):
    assert config(**kwargs).turn_budgets == budgets


@pytest.mark.parametrize(
    ("stage", "stage_1_steps", "max_steps", "expected"),
    [
        ("1", 0.5, 100, 100),
        ("2", 0.5, 100, 0),
        ("both", 0.5, 100, 50),
        ("both", 0.25, 10, 2),
        ("both", 0.0, 100, 0),
        ("both", 30, 100, 30),
        ("both", 1, 100, 1),  # from 1 on steps, below it a share, as transformers counts `warmup_steps`
        ("both", 0.999, 10, 10),
    ],
)
def test_steps_of_stage_1(config, stage, stage_1_steps, max_steps, expected):
    assert config(stage=stage, stage_1_steps=stage_1_steps).num_stage_1_steps(max_steps) == expected


@pytest.mark.parametrize("stage", [1, 2])
def test_stage_may_be_a_number_as_yaml_reads_it(config, stage):
    assert config(stage=stage).stage == str(stage)


# The correction prompt


def test_correction_prompt_may_be_messages(config):
    messages = [{"role": "system", "content": "Be strict."}, {"role": "user", "content": "Look again."}]
    assert config(correction_prompt=messages).correction_prompt == messages
    assert config(correction_prompt=json.dumps(messages)).correction_prompt == messages


def test_correction_prompt_that_only_begins_like_json_is_a_text(config):
    assert config(correction_prompt="[1] Look again.").correction_prompt == "[1] Look again."


@pytest.mark.parametrize(
    ("correction_prompt", "message"),
    [
        ("", "must not be empty"),
        ("  ", "must not be empty"),
        ([], "at least one message"),
        ('[{"role": "assistant", "content": "Hm."}]', "may be the assistant's"),
        ('[{"role": "user"}]', "must not be empty"),
        ('[{"role": "user", "content": "Look agai', "`correction_prompt` begins like a JSON list"),
    ],
)
def test_bad_correction_prompt_is_refused(config, correction_prompt, message):
    with pytest.raises(ValueError, match=message):
        config(correction_prompt=correction_prompt)


# What is refused


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"stage": "3"}, r"`stage` must be one of '1', '2', 'both', got '3'"),
        ({"stage": 3}, r"`stage` must be one of .*, got '3'"),
        ({"baseline": "critic"}, r"`baseline` must be one of 'leave_one_out', 'group_mean', 'none', got 'critic'"),
        ({"kl_estimator": "full"}, r"`kl_estimator` must be one of 'k1', 'k2', 'k3', got 'full'"),
        ({"loss_type": "grpo"}, r"`loss_type` must be one of 'rloo', 'dapo', 'dr_grpo', got 'grpo'"),
        ({"alpha": -1.0}, r"`alpha` must not be negative, got -1.0"),
        ({"beta_1": -0.1}, r"`beta_1` must not be negative"),
        ({"beta_2": -0.1}, r"`beta_2` must not be negative"),
        ({"stage_1_steps": -1}, r"`stage_1_steps` must not be negative"),
        ({"turn_discount": 1.5}, r"`turn_discount` must lie between 0 and 1, got 1.5"),
        ({"turn_discount": -0.1}, r"`turn_discount` must lie between 0 and 1"),
        ({"offline_turn_1_share": 2}, r"`offline_turn_1_share` must lie between 0 and 1, got 2"),
        ({"max_completion_length": 0}, r"`max_completion_length` must be at least 1 token, got 0"),
        ({"max_completion_length_t1": 0}, r"`max_completion_length_t1` must be at least 1 token, got 0"),
        ({"max_completion_length_t2": -3}, r"`max_completion_length_t2` must be at least 1 token, got -3"),
        ({"max_completion_length": None}, r"Each turn needs a length budget"),
        ({"max_completion_length": None, "max_completion_length_t1": 5}, r"Each turn needs a length budget"),
        ({"beta_2_target_kl": 0.0}, r"`beta_2_target_kl` must be positive"),
        ({"beta_2_target_kl": 1.0, "beta_2": 0.0}, r"needs a `beta_2` above 0"),
        ({"beta": 0.04}, r"`beta` is one coefficient for a whole completion, got 0.04.*Set `beta_1`"),
        ({"num_generations": 1}, r"'leave_one_out' baseline compares .* `num_generations` must be at least 2, got 1"),
        ({"num_generations": 1, "baseline": "group_mean"}, r"'group_mean' baseline compares"),
    ],
)
def test_values_that_make_no_sense_are_refused(config, kwargs, message):
    with pytest.raises(ValueError, match=message):
        config(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"scale_rewards": "group"}, "cancels alpha"),
        ({"scale_rewards": "batch"}, "cancels alpha"),
        ({"scale_rewards": True}, "cancels alpha"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "cancels alpha"),
        ({"sync_ref_model": True}, "one frozen model"),
        ({"delta": 2.0}, "two-sided clipping"),
        ({"top_entropy_quantile": 0.2}, "token sum"),
        ({"entropy_coef": 0.01}, "no entropy bonus"),
        ({"off_policy_mask_threshold": 0.5}, "masks whole sequences"),
    ],
)
def test_options_of_grpo_that_score_cannot_honour_are_refused(config, kwargs, reason):
    (name,) = kwargs
    with pytest.raises(ValueError, match=rf"`{name}=.*` is not supported by SCoRe: .*{reason}.* Leave it at"):
        config(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"vllm_mode": "local"}, "`vllm_mode` must be one of 'colocate', 'server', got 'local'"),
        ({"vllm_importance_sampling_mode": "token"}, "must be one of 'token_truncate', .* got 'token'"),
        ({"use_transformers_continuous_batching": True}, "One engine generates, got both"),
        ({"vllm_mode": "server", "vllm_enable_sleep_mode": True}, "Start the server with it, and leave it at False"),
        ({"vllm_mode": "server", "vllm_tensor_parallel_size": 2}, "Start the server with it, and leave it at 1"),
        ({"generation_kwargs": {"seed": 1}}, "must not set 'seed' with vLLM, got 1: all rollouts .* the same"),
        ({"generation_kwargs": {"stop": ["."]}}, "must not set 'stop' with vLLM"),
        ({"generation_kwargs": {"max_tokens": 5}}, "must not set 'max_tokens' with vLLM, got 5: each turn has its own"),
        ({"generation_kwargs": {"temperature": 0.5}}, "set `temperature` itself"),
    ],
)
def test_what_cannot_be_had_of_vllm_is_refused(config, kwargs, message):
    with pytest.raises(ValueError, match=message):
        config(use_vllm=True, **kwargs)
    if "generation_kwargs" in kwargs or "vllm_mode" in kwargs:
        config(**kwargs)  # without vLLM nobody reads them


def test_adaptive_entropy_is_refused(config):
    with pytest.raises(ValueError, match="entropy"):
        config(use_adaptive_entropy=True)


def test_one_generation_is_refused_by_trl_where_there_is_no_baseline(config):
    with pytest.raises(ValueError, match="at least 2 generations per prompt"):
        config(num_generations=1, baseline="none")


def test_scale_rewards_may_be_false_as_trl_writes_none(config):
    assert config(scale_rewards=False).scale_rewards == "none"


# The same from the command line, from YAML, and back


def parse(tmp_path, *arguments, yaml=None):
    command = ["--output_dir", str(tmp_path), "--report_to", "none", *arguments]
    if yaml is not None:
        path = tmp_path / "config.yaml"
        path.write_text(yaml)
        command += ["--config", str(path)]
    (args,) = TrlParser(SCoReConfig).parse_args_and_config(command)
    return args


def test_command_line(tmp_path):
    messages = [{"role": "user", "content": "Look again."}]
    args = parse(
        tmp_path,
        *("--stage", "1", "--alpha", "5", "--beta_2_target_kl", "0.5", "--eval_do_sample"),
        *("--correction_prompt", json.dumps(messages), "--max_completion_length_t1", "7"),
    )
    assert (args.stage, args.alpha, args.beta_2_target_kl, args.eval_do_sample) == ("1", 5.0, 0.5, True)
    assert args.correction_prompt == messages
    assert args.turn_budgets[0] == 7


def test_yaml(tmp_path):
    yaml = """
stage: 2
beta_1: 0.05
turn_discount: 0.25
baseline: group_mean
correction_prompt:
  - role: user
    content: Look again.
"""
    args = parse(tmp_path, yaml=yaml)
    assert (args.stage, args.beta_1, args.turn_discount, args.baseline) == ("2", 0.05, 0.25, "group_mean")
    assert args.correction_prompt == [{"role": "user", "content": "Look again."}]


def test_unknown_choice_on_the_command_line_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(tmp_path, "--baseline", "critic")
    assert "invalid choice: 'critic'" in capsys.readouterr().err


def test_own_fields_survive_a_dict(config):
    args = config(stage=2, alpha=3.0, kl_estimator="k2", correction_prompt=[{"role": "user", "content": "Again."}])
    saved = json.loads(args.to_json_string())
    assert config(**{name: saved[name] for name in OWN}).to_dict() == args.to_dict()


def test_what_was_derived_survives_a_dict(config):
    # A run that is started again from its own settings, with another beta_2.
    args = config(beta_2=0.3)
    names = [*OWN, "beta", "scale_rewards", "bf16", "num_generations_eval"]
    again = config(**{**{name: args.to_dict()[name] for name in names}, "beta_2": 0.2})
    assert (again.beta_2, again.beta, again.needs_reference) == (0.2, 0.0, True)
