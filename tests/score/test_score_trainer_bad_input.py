"""
Bad input: one clear error each, before training starts; a wrong reward when it is first seen.

"Before the model is loaded" is tested by naming a folder that has a configuration and a tokenizer but no weights: any
attempt to load them would be another error.
"""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from score_runs import addition_dataset, odd_length, short_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score import trl_compat
from trl_score.score.score_trainer import SCoReTrainer


@pytest.fixture
def weightless(local_model: Any, tmp_path: Path) -> Path:
    """A folder with all of a model but its weights."""
    folder = tmp_path / "weightless"
    shutil.copytree(local_model("qwen2"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def build(model: Any, folder: Path, **options: Any) -> SCoReTrainer:
    own = (
        "reward_funcs",
        "train_dataset",
        "eval_dataset",
        "processing_class",
        "tools",
        "rollout_func",
        "environment_factory",
        "peft_config",
    )
    given = {name: options.pop(name) for name in own if name in options}
    defaults = {"reward_funcs": odd_length, "train_dataset": addition_dataset()}
    return SCoReTrainer(model=str(model), args=short_config(folder, **options), **{**defaults, **given})


def test_the_folder_without_weights_is_else_fine(weightless, tmp_path):
    with pytest.raises(OSError, match="safetensors"):
        build(weightless, tmp_path)


def without_prompts() -> Dataset:
    return addition_dataset().rename_column("prompt", "question")


def with_prompts(*prompts: Any) -> Dataset:
    return Dataset.from_dict({"prompt": list(prompts)})


BAD_CALLS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "images": (
        {"train_dataset": addition_dataset().map(lambda row: {"images": []})},
        ValueError,
        r"`train_dataset` must hold text only, got the columns \['images', 'prompt', 'solution'\]",
    ),
    "generation_kwargs": (
        {"generation_kwargs": {"max_new_tokens": 9}},
        ValueError,
        "`generation_kwargs` must not set 'max_new_tokens', got 9: SCoRe sets it for each turn",
    ),
    "importance_sampling_level": (
        {"importance_sampling_level": "turn"},
        ValueError,
        "`importance_sampling_level` must be one of 'token', 'sequence', got 'turn'",
    ),
    "tools": ({"tools": [print]}, ValueError, "`tools` is not supported: SCoRe makes its own rollouts"),
    "rollout_func": ({"rollout_func": print}, ValueError, "`rollout_func` is not supported"),
    "environment_factory": ({"environment_factory": dict}, ValueError, "`environment_factory` is not supported"),
    "no dataset": ({"train_dataset": None}, ValueError, "`train_dataset` is required, got None"),
    "no prompt column": (
        {"train_dataset": without_prompts()},
        ValueError,
        r"`train_dataset` must have a column 'prompt', got the columns \['question', 'solution'\]",
    ),
    "no prompt column, iterable": (
        {"train_dataset": without_prompts().to_iterable_dataset()},
        ValueError,
        "`train_dataset` must have a column 'prompt'",
    ),
    "no prompt column in evaluation": (
        {"eval_dataset": without_prompts()},
        ValueError,
        "`eval_dataset` must have a column 'prompt'",
    ),
    "no prompt column in one of several": (
        {"eval_dataset": {"good": addition_dataset(), "bad": without_prompts()}},
        ValueError,
        "`bad` must have a column 'prompt'",
    ),
    "no column of offline turns": (
        {"offline_turn_1_column": "draft"},
        ValueError,
        r"`train_dataset` must have a column 'draft', got the columns \['prompt', 'solution'\]",
    ),
    "empty dataset": ({"train_dataset": addition_dataset().select([])}, ValueError, "`train_dataset` is empty"),
    "evaluation prompts of another kind": (
        {"eval_dataset": {"plain": addition_dataset("plain")}},
        ValueError,
        "got chat messages in `train_dataset` and plain text in 'plain'",
    ),
    "empty evaluation": ({"eval_dataset": addition_dataset().select([])}, ValueError, "`eval_dataset` is empty"),
    "dataset smaller than a batch": (
        {"train_dataset": addition_dataset(num_rows=1)},
        ValueError,
        r"at least one rollout batch, 2 prompts \(generation_batch_size 8 / num_generations 4\), got 1",
    ),
    "prompt of no known kind": (
        {"train_dataset": with_prompts(1, 2, 3)},
        TypeError,
        "A prompt must be a text or a list of chat messages .* got '1' of type int",
    ),
    "prompt without messages": (
        {"train_dataset": with_prompts([], [], [])},
        TypeError,
        "A prompt must be a text or a list of chat messages",
    ),
    "messages without a role": (
        {"train_dataset": with_prompts([{"content": "2+2?"}], [{"content": "2+3?"}])},
        TypeError,
        "A prompt must be a text or a list of chat messages with 'role' and 'content'",
    ),
    "budget beyond the context": (
        {"max_completion_length": 300},
        ValueError,
        r"must fit into the model's context of 512 tokens, got up to \d+: prompt \d+ \+ turn 1 300",
    ),
    "budgets of the turns beyond the context": (
        {"max_completion_length_t1": 100, "max_completion_length_t2": 400},
        ValueError,
        r"turn 1 100 \+ correction prompt \d+ \+ turn 2 400",
    ),
    "long prompt": (
        {"train_dataset": with_prompts(*[[{"role": "user", "content": "What? " * n}] for n in (1, 2, 500, 3)])},
        ValueError,
        "Lower `max_completion_length` .* or shorten the prompts",
    ),
    "correction by the assistant": (
        {"correction_prompt": [{"role": "assistant", "content": "Hm."}]},
        ValueError,
        "no message of it may be the assistant's",
    ),
    "empty correction": ({"correction_prompt": " "}, ValueError, "`correction_prompt` must not be empty, got ' '"),
    "no correction": ({"correction_prompt": []}, ValueError, "`correction_prompt` must hold at least one message"),
    "processor": ({"processing_class": "qwen2"}, TypeError, "`processing_class` must be a tokenizer, got str"),
    "no rewards": ({"reward_funcs": None}, ValueError, "`reward_funcs` must hold at least one reward function"),
    "empty rewards": ({"reward_funcs": []}, ValueError, "`reward_funcs` must hold at least one reward function"),
    "reward of a wrong kind": ({"reward_funcs": [3.5]}, TypeError, "A reward function must be callable, .* got 3.5"),
    "one rollout with a baseline": (
        {"num_generations": 1},
        ValueError,
        "'leave_one_out' baseline compares the rollouts of one prompt, so `num_generations` must be at least 2, got 1",
    ),
    "base without PEFT": (
        {"ref_model_name_or_path": "base"},
        ValueError,
        "`ref_model_name_or_path='base'` is for PEFT",
    ),
    "standard deviation": ({"scale_rewards": "group"}, ValueError, "`scale_rewards='group'` is not supported by SCoRe"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_refused_before_the_model_is_loaded(name, weightless, tmp_path):
    options, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        build(weightless, tmp_path, **options)


def test_a_folder_that_cannot_be_made(weightless, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory") as raised:
        build(weightless, tmp_path / "file" / "run")
    (note,) = raised.value.__notes__
    assert "Expected an `output_dir` that can be written into" in note


def test_fsdp_that_accelerate_would_not_use():
    with pytest.raises(ValueError, match="FSDP was asked for, which accelerate knows on accelerators only"):
        trl_compat.refuse_ddp_for_fsdp({"ACCELERATE_USE_FSDP": "true"})
    trl_compat.refuse_ddp_for_fsdp({"ACCELERATE_USE_FSDP": "false"})
    trl_compat.refuse_ddp_for_fsdp({})


def test_no_chat_template(weightless, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(weightless)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        build(weightless, tmp_path, processing_class=tokenizer)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[-1].content }}", "it writes the first answer 0 times"),
        (
            "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{{ messages[0].content }}",
            "what it writes after an assistant message depends on the conversation",
        ),
        (
            "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content }}",
            "it refuses a conversation with the roles .*one turn only",
        ),
        (
            "{% for m in messages %}{% if loop.index0 < 2 %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}",
            "it does not write the correction prompt",
        ),
    ],
)
def test_template_that_cannot_be_continued(template, message, weightless, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(weightless)
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=f"cannot be continued with a second turn: {message}"):
        build(weightless, tmp_path, processing_class=tokenizer)


def test_role_that_the_template_refuses(local_model, tmp_path):
    correction = [{"role": "system", "content": "Look again."}]
    with pytest.raises(ValueError, match=r"cannot be continued .*System role not supported"):
        build(local_model("gemma"), tmp_path, correction_prompt=correction)


def test_adapter_where_a_model_is_expected(weightless, tmp_path):
    (weightless / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"is an adapter, a model was expected\. Load it with `AutoPeftModelForCausalLM"
    ):
        build(weightless, tmp_path)


@pytest.mark.parametrize("draft", [None, [], "", ["right", None]])
def test_offline_turn_that_is_none(draft, local_model, tmp_path):
    rows = addition_dataset().to_list()
    dataset = Dataset.from_list([{**row, "draft": draft} for row in rows])
    trainer = build(
        local_model("qwen2"), tmp_path, train_dataset=dataset, offline_turn_1_column="draft", offline_turn_1_share=1.0
    )
    with pytest.raises(ValueError, match="Column 'draft' must hold a first turn, or a list of them, in every row, got"):
        trainer.train()


def test_reward_weights_of_another_number(local_model, tmp_path):
    with pytest.raises(ValueError, match=r"Number of reward weights \(2\) must match number of reward functions \(1\)"):
        build(local_model("qwen2"), tmp_path, reward_weights=[1.0, 2.0])


# Rewards


def at_row_3(value: Any) -> Any:
    return lambda values: [*values[:3], value, *values[4:]]


BAD_REWARDS: dict[str, tuple[Any, type[Exception], str]] = {
    "too few": (lambda values: values[:-1], ValueError, "returned 7 rewards for the 8 completions of turn {turn}"),
    "too many": (lambda values: [*values, 1.0], ValueError, "returned 9 rewards for the 8 completions of turn {turn}"),
    "one number": (
        lambda values: 1.0,
        TypeError,
        "must return one number or None per completion, got float for turn {turn}",
    ),
    "nothing": (
        lambda values: None,
        TypeError,
        "must return one number or None per completion, got NoneType for turn {turn}",
    ),
    "text": (at_row_3("good"), TypeError, "returned 'good' of type str for row 3 of turn {turn}"),
    "list": (at_row_3([1.0]), TypeError, r"returned \[1.0\] of type list for row 3 of turn {turn}"),
    "NaN": (
        at_row_3(float("nan")),
        ValueError,
        "returned nan for row 3 of turn {turn}; expected a finite number, or None",
    ),
    "infinity": (at_row_3(float("inf")), ValueError, "returned inf for row 3 of turn {turn}"),
}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("name", BAD_REWARDS)
def test_wrong_reward_names_the_function_and_the_row(name, turn, is_async, local_model, tmp_path):
    spoil, error, message = BAD_REWARDS[name]
    bad_turn = turn

    def grade(completions: list[Any], turn: int, **kwargs: Any) -> Any:
        rewards = odd_length(completions)
        return spoil(rewards) if turn == bad_turn else rewards

    async def grade_async(completions: list[Any], turn: int, **kwargs: Any) -> Any:
        return grade(completions, turn)

    trainer = build(local_model("qwen2"), tmp_path, reward_funcs=grade_async if is_async else grade)
    function = "grade_async" if is_async else "grade"
    with pytest.raises(error, match=f"^Reward function '{function}' {message.format(turn=turn)}"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_reward_that_crashes_is_an_error_with_its_name(local_model, tmp_path):
    def grade(completions: list[Any], turn: int, **kwargs: Any) -> Any:
        raise KeyError("answer")

    with pytest.raises(KeyError, match="answer") as caught:
        build(local_model("qwen2"), tmp_path, reward_funcs=grade).train()
    assert caught.value.__notes__ == ["Raised by reward function 'grade' while it scored turn 1."]


# While training


def test_prompt_of_an_iterable_dataset_beyond_the_context(local_model, tmp_path):
    # Only the first prompt of an iterable dataset can be looked at before training.
    dataset = with_prompts(*[[{"role": "user", "content": "What? " * n}] for n in (1, 500, 500, 500)])
    trainer = build(local_model("qwen2"), tmp_path, train_dataset=dataset.to_iterable_dataset())
    with pytest.raises(ValueError, match=r"A prompt of .* tokens leaves no room for both turns"):
        trainer.train()


def test_prompts_of_two_kinds(local_model, tmp_path):
    def rows() -> Iterator[dict[str, Any]]:
        yield {"prompt": [{"role": "user", "content": "2+2?"}]}
        yield {"prompt": "2+3?"}

    trainer = build(local_model("qwen2"), tmp_path, train_dataset=IterableDataset.from_generator(rows))
    with pytest.raises(ValueError, match="All prompts of a batch must be of one kind"):
        trainer.train()


# Warnings


@pytest.mark.parametrize("stage", ["1", "2", "both"])
def test_stage_2_without_stage_1_is_a_warning(stage, local_model, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="trl_score"):
        build(local_model("qwen2"), tmp_path, stage=stage)
    warned = [record.getMessage() for record in caplog.records if "checkpoint of Stage I" in record.getMessage()]
    assert len(warned) == (stage == "2")


def test_stage_2_from_a_stage_1_checkpoint_is_silent(local_model, tmp_path, caplog):
    trainer = build(local_model("qwen2"), tmp_path, stage="1", max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "stage1"))
    models = [str(tmp_path / "stage1"), AutoModelForCausalLM.from_pretrained(tmp_path / "stage1")]
    with caplog.at_level(logging.WARNING, logger="trl_score"):
        for model in models:
            SCoReTrainer(
                model=model,
                reward_funcs=odd_length,
                args=short_config(tmp_path, stage="2"),
                train_dataset=addition_dataset(),
            )
    assert [record for record in caplog.records if "checkpoint of Stage I" in record.getMessage()] == []
