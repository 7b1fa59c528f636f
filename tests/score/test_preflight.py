"""Bad input, found before training starts: each a sentence that says what to do."""

import logging
from types import SimpleNamespace

import pytest
from accelerate.utils import DeepSpeedPlugin
from datasets import Dataset, IterableDataset
from local_models import CONTEXT_LENGTH, build_tokenizer
from transformers import LlamaConfig

from trl_score.records import SCORE_CONFIG_FILE
from trl_score.score.preflight import (
    check_context,
    check_dataset,
    check_engine,
    context_length,
    first_rows,
    is_chat_dataset,
    read_correction,
    warn_without_stage_1,
)
from trl_score.score.prompts import Correction
from trl_score.score.row_settings import RowSetting
from trl_score.score.score_config import SCoReConfig

CHAT = [{"role": "user", "content": "What is 17 + 25?"}]
STAGE_1_LOGGER = "trl_score.score.preflight"


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: build_tokenizer(kind) for kind in ("qwen2", "plain")}


@pytest.fixture
def config(tmp_path):
    """Four prompts a rollout batch: 16 rollouts, 4 of each prompt."""

    def make(**kwargs):
        sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_generations": 4}
        return SCoReConfig(**{"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, **sizes, **kwargs})

    return make


def rows(count):
    return Dataset.from_dict({"prompt": ["2 + 2 ="] * count, "solution": ["4"] * count})


# The dataset


def test_good_datasets_pass(config):
    check_dataset(rows(4), config())
    check_dataset(IterableDataset.from_generator(lambda: iter([{"prompt": "2 + 2 ="}])), config())
    check_dataset(rows(1), config(), name="eval_dataset")  # evaluation pads its last batch


def test_missing_prompts_are_refused(config):
    dataset = rows(4).rename_column("prompt", "question")
    with pytest.raises(
        ValueError, match=r"`train_dataset` must have a column 'prompt', got the columns \['question', 'solution'\]"
    ):
        check_dataset(dataset, config())


def test_missing_prompts_of_a_streamed_dataset_are_refused_where_its_columns_are_known(config):
    dataset = rows(4).rename_column("prompt", "question").to_iterable_dataset()
    with pytest.raises(ValueError, match="`eval_math` must have a column 'prompt'"):
        check_dataset(dataset, config(), name="eval_math")


def test_missing_offline_turns_are_refused(config):
    with pytest.raises(ValueError, match="must have a column 'first_turn', got the columns"):
        check_dataset(rows(4), config(offline_turn_1_column="first_turn"))
    check_dataset(rows(4), config(offline_turn_1_column="solution"))


def test_offline_turns_are_for_training_only(config):
    check_dataset(rows(4), config(offline_turn_1_column="solution"), name="eval_dataset")
    check_dataset(rows(4).remove_columns("solution"), config(offline_turn_1_column="solution"), name="eval_dataset")


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_empty_dataset_is_refused(config, name):
    with pytest.raises(ValueError, match=rf"`{name}` is empty\. Check the split"):
        check_dataset(rows(4).select([]), config(), name=name)


def test_dataset_smaller_than_a_rollout_batch_is_refused(config):
    with pytest.raises(
        ValueError,
        match=r"at least one rollout batch, 4 prompts \(generation_batch_size 16 / num_generations 4\), got 3",
    ):
        check_dataset(rows(3), config())


# Prompts


def test_first_rows_of_both_kinds_of_dataset():
    assert first_rows(rows(3)) == [{"prompt": "2 + 2 ="}] * 3
    assert first_rows(rows(3).to_iterable_dataset()) == [{"prompt": "2 + 2 =", "solution": "4"}]


def test_first_rows_have_what_they_set_for_themselves():
    dataset = rows(2).add_column("max_completion_length_t2", [5, None])
    assert first_rows(dataset) == [
        {"prompt": "2 + 2 =", "max_completion_length_t2": 5},
        {"prompt": "2 + 2 =", "max_completion_length_t2": None},
    ]


def test_settings_of_rows_must_not_be_removed(config):
    dataset = rows(4).add_column("correction_prompt", ["Check it."] * 4)
    check_dataset(dataset, config())
    with pytest.raises(ValueError, match=r"would remove \['correction_prompt'\] of `train_dataset`, which rows set"):
        check_dataset(dataset, config(remove_unused_columns=True))


def test_first_row_without_a_prompt_is_refused():
    dataset = IterableDataset.from_generator(lambda: iter([{"question": "2 + 2 ="}]))
    with pytest.raises(ValueError, match=r"must have a column 'prompt', got the columns \['question'\]"):
        first_rows(dataset)


def test_empty_stream_is_refused():
    with pytest.raises(ValueError, match="`eval_dataset` is empty"):
        first_rows(IterableDataset.from_generator(lambda: iter([])), "eval_dataset")


def test_chat_and_plain_datasets_are_told_apart():
    assert is_chat_dataset([CHAT])
    assert not is_chat_dataset(["2 + 2 ="])


@pytest.mark.parametrize("prompt", [None, 7, [], ["2 + 2 ="], {"role": "user", "content": "2 + 2 ="}, [{"text": "a"}]])
def test_other_prompts_are_refused(prompt):
    with pytest.raises(TypeError, match=r"must be a text or a list of chat messages .*, got .* of type \w+\. Bring"):
        is_chat_dataset([prompt])


# The correction


def test_correction_is_read_for_chat_and_for_plain_prompts(config, tokenizers):
    chat = read_correction("Check it.", True, config(), tokenizers["qwen2"])
    plain = read_correction("Check it.", False, config(), tokenizers["plain"])
    assert "<|im_start|>user\nCheck it." in tokenizers["qwen2"].decode(chat.request_ids)
    assert tokenizers["plain"].decode(plain.request_ids) == "\n\nCheck it.\n\n"


def test_chat_prompts_without_a_template_are_refused(config, tokenizers):
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        read_correction("Check it.", True, config(), tokenizers["plain"])


# The context


CORRECTION = Correction([9], [7, 8])


def check_lengths(args, tokenizer, prompts, context=CONTEXT_LENGTH, settings=None):
    model_config = LlamaConfig(max_position_embeddings=context)
    settings = settings or [RowSetting(args.turn_budgets, CORRECTION)] * len(prompts)
    check_context(prompts, settings, args, tokenizer, model_config)


def test_rollout_that_just_fits_passes_and_one_token_more_is_refused(config, tokenizers):
    # "<s>2 + 2 =" and the correction (3): with budgets of 30 and 20 tokens.
    tokenizer = tokenizers["plain"]
    num_prompt = len(tokenizer("2 + 2 =")["input_ids"])
    args = config(max_completion_length_t1=30, max_completion_length_t2=20)
    check_lengths(args, tokenizer, ["2 + 2 ="], context=num_prompt + 53)
    with pytest.raises(
        ValueError,
        match=rf"context of {num_prompt + 52} tokens, got up to {num_prompt + 53}: prompt {num_prompt} \+ turn 1 30 "
        r"\+ correction prompt 3 \+ turn 2 20\. Lower `max_completion_length`",
    ):
        check_lengths(args, tokenizer, ["2 + 2 ="], context=num_prompt + 52)


def test_longest_prompt_counts(config, tokenizers):
    args = config(max_completion_length=10)
    long_prompt = "What is 17 + 25? " * 200
    with pytest.raises(ValueError, match="A rollout must fit"):
        check_lengths(args, tokenizers["plain"], ["2 + 2 =", long_prompt, *["3 ="] * 200])
    with pytest.raises(ValueError, match="A rollout must fit"):
        check_lengths(args, tokenizers["qwen2"], [CHAT, [{"role": "user", "content": long_prompt}]])


def test_each_prompt_is_checked_with_its_own_budgets(config, tokenizers):
    # The long prompt has little room and just fits; the short one has much and just does not.
    tokenizer = tokenizers["plain"]
    prompts = ["What is 17 + 25? " * 5, "2 + 2 ="]
    num_long, num_short = (len(ids) for ids in tokenizer(prompts)["input_ids"])
    fitting = [RowSetting((5, 2), CORRECTION), RowSetting((num_long - num_short, 7), CORRECTION)]
    check_lengths(config(), tokenizer, prompts, context=num_long + 10, settings=fitting)
    too_long = [fitting[0], RowSetting((num_long - num_short, 8), CORRECTION)]
    with pytest.raises(ValueError, match=rf"got up to {num_long + 11}: prompt {num_short} .* \+ turn 2 8"):
        check_lengths(config(), tokenizer, prompts, context=num_long + 10, settings=too_long)


def test_model_that_does_not_say_its_context_is_not_checked(config, tokenizers):
    model_config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(to_dict=dict))
    assert context_length(model_config) is None
    check_context(["2 + 2 ="], [RowSetting((10, 10), CORRECTION)], config(), tokenizers["plain"], model_config)


def test_context_of_a_model():
    assert context_length(LlamaConfig(max_position_embeddings=512)) == 512


# Stage II without Stage I


@pytest.mark.parametrize("stage", ["1", "both"])
def test_runs_with_stage_1_are_silent(stage, caplog, tmp_path):
    warn_without_stage_1(stage, str(tmp_path))
    assert caplog.messages == []


@pytest.mark.parametrize("has_path", [True, False])
def test_stage_2_from_elsewhere_warns(has_path, caplog, tmp_path):
    path = str(tmp_path) if has_path else None
    with caplog.at_level(logging.WARNING, logger=STAGE_1_LOGGER):
        warn_without_stage_1("2", path)
    (message,) = caplog.messages
    assert f"starts from {path or 'a model in memory'!r}, which is no checkpoint of Stage I" in message


def test_stage_2_from_a_checkpoint_of_ours_is_silent(caplog, tmp_path):
    (tmp_path / SCORE_CONFIG_FILE).write_text("{}")
    warn_without_stage_1("2", str(tmp_path))
    assert caplog.messages == []


# Engines


def test_continuous_batching_is_refused_where_each_forward_gathers_weights(config, monkeypatch):
    args = config(use_transformers_continuous_batching=True)
    check_engine(args, "MODEL")
    args.deepspeed_plugin = DeepSpeedPlugin(zero_stage=3)
    check_engine(args, "MODEL")  # gathered before both turns
    args.ds3_gather_for_generation = False
    with pytest.raises(ValueError, match=r"^ZeRO-3 with `ds3_gather_for_generation=False` gathers weights in each"):
        check_engine(args, "MODEL")
    args.deepspeed_plugin.zero_stage = 2
    check_engine(args, "MODEL")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"^FSDP gathers weights in each forward"):
        check_engine(args, "MODEL")
    args.use_transformers_continuous_batching = False
    check_engine(args, "MODEL")
