"""What can be known to be wrong before training starts, and mostly before a model is loaded.

Each check raises one sentence that says what was expected, what came, and what to do.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from accelerate.utils import is_peft_model
from transformers import PreTrainedTokenizerBase

from trl_score import trl_compat
from trl_score.records import SCORE_CONFIG_FILE, ChecksDataset, Message, Prompt
from trl_score.score.adapters import is_mergeable
from trl_score.score.prompts import (
    Correction,
    audit_template,
    text_correction,
    tokenize_prompts,
)
from trl_score.score.row_settings import SETTING_COLUMNS, RowSetting, RowSettings
from trl_score.score.trainer_inputs import load_model_config

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from peft import PeftConfig, PeftModel
    from transformers import PretrainedConfig, PreTrainedModel

    from trl_score.score.score_config import SCoReConfig

logger = logging.getLogger(__name__)

_LONGEST_PROMPTS_TO_TOKENIZE = 64


def check_run(
    model: "str | PreTrainedModel | PeftModel",
    args: "SCoReConfig",
    train_dataset: "Dataset | IterableDataset",
    eval_dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> RowSettings:
    """
    Checks all that can be checked before a model is loaded: datasets, chat template and lengths.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, or where it comes from; of that its configuration alone is read.
        args ([`SCoReConfig`]):
            The configuration.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The prompts to train on.
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of such, *optional*):
            The prompts to evaluate on.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.

    Returns:
        [`RowSettings`]: The budgets and the correction of each row.

    Raises:
        `TypeError`: If the tokenizer is something else, or a prompt is neither a text nor a list of messages.
        `ValueError`: If anything else is wrong.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"`processing_class` must be a tokenizer, got {type(tokenizer).__name__}: SCoReTrainer trains on text "
            "only. Pass the processor's `tokenizer`."
        )
    check_dataset(train_dataset, args)
    eval_sets = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
    eval_sets = {name: dataset for name, dataset in eval_sets.items() if dataset is not None}
    for name, dataset in eval_sets.items():
        check_dataset(dataset, args, name)
    rows_of = {
        name: first_rows(dataset, name) for name, dataset in {"train_dataset": train_dataset, **eval_sets}.items()
    }
    is_chat_of = {name: is_chat_dataset([rows[0]["prompt"]]) for name, rows in rows_of.items()}
    is_chat = is_chat_of["train_dataset"]
    for name, other in is_chat_of.items():
        if other != is_chat:
            kinds = {True: "chat messages", False: "plain text"}
            raise ValueError(
                f"Expected prompts of one kind, got {kinds[is_chat]} in `train_dataset` and {kinds[other]} in "
                f"{name!r}. What stands between the turns differs; bring the `prompt` columns into one form."
            )
    row_settings = RowSettings(
        args.turn_budgets, args.correction_prompt, lambda prompt: read_correction(prompt, is_chat, args, tokenizer)
    )
    config = load_model_config(model, args)
    for rows in rows_of.values():
        settings = [row_settings.of(row) for row in rows]
        check_context([row["prompt"] for row in rows], settings, args, tokenizer, config)
    if isinstance(model, str) or not is_peft_model(model):  # an adapter does not tell where it came from
        warn_without_stage_1(args.stage, config.name_or_path or None)
    return row_settings


def check_dataset(dataset: "Dataset | IterableDataset", args: "SCoReConfig", name: str = "train_dataset") -> None:
    """
    Checks the columns and the size of a dataset.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The dataset. Of an iterable one only the columns are checked, where they are known.
        args ([`SCoReConfig`]):
            The configuration.
        name (`str`, *optional*, defaults to `"train_dataset"`):
            What to call it in a message.

    Raises:
        `ValueError`: If a needed column is missing, the dataset is empty, or a training set holds fewer prompts than
            one rollout batch.
    """
    columns = dataset.column_names
    # Evaluation lets the model answer both turns, so it needs no first turns from the dataset.
    offline = [args.offline_turn_1_column] if args.offline_turn_1_column and name == "train_dataset" else []
    needed = ["prompt", *offline]
    for column in needed:
        if columns is not None and column not in columns:
            raise ValueError(
                f"`{name}` must have a column {column!r}, got the columns {sorted(columns)}. Rename or add it "
                "(a prompt is a text, or a list of chat messages)."
            )
    if columns is not None and {"image", "images"} & set(columns):
        raise ValueError(
            f"`{name}` must hold text only, got the columns {sorted(columns)}. SCoRe does not train on images."
        )
    own = sorted(set(SETTING_COLUMNS) & set(columns or ()))
    if own and args.remove_unused_columns:
        raise ValueError(
            f"`remove_unused_columns=True` would remove {own} of `{name}`, which rows set for themselves. Leave it at "
            "False, or drop these columns."
        )
    if not hasattr(dataset, "__len__"):
        return
    num_rows = len(dataset)
    # TRL's own __post_init__ has filled both in.
    num_prompts = cast(int, args.generation_batch_size) // cast(int, args.num_generations)
    if num_rows == 0:
        raise ValueError(f"`{name}` is empty. Check the split, and the filters before it.")
    if name == "train_dataset" and num_rows < num_prompts:
        raise ValueError(
            f"`train_dataset` must hold at least one rollout batch, {num_prompts} prompts (generation_batch_size "
            f"{args.generation_batch_size} / num_generations {args.num_generations}), got {num_rows}. With fewer, no "
            "batch would ever be whole and nothing be trained. Lower `per_device_train_batch_size` or "
            "`gradient_accumulation_steps`, or add data."
        )


def check_rewards(reward_funcs: Any, dataset: "Dataset | IterableDataset") -> None:
    """
    Lets the reward functions that can ([`~trl_score.records.ChecksDataset`]) look at what they will score by.

    Args:
        reward_funcs:
            One reward function, or a list of them.
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The dataset. An iterable one is not read ahead.

    Raises:
        `ValueError`: If a reward finds rows that it cannot score by.
    """
    if not hasattr(dataset, "__len__"):
        return
    for func in reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]:
        if isinstance(func, ChecksDataset):
            func.check_dataset(dataset)


def check_engine(
    args: "SCoReConfig", model: "str | PreTrainedModel | PeftModel", peft_config: "PeftConfig | None" = None
) -> None:
    """
    Checks that the generation engine that a configuration asks for can run here.

    Args:
        args ([`SCoReConfig`]):
            The configuration.
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy.
        peft_config ([`~peft.PeftConfig`], *optional*):
            The adapter to train, where the policy does not have it yet.

    Raises:
        `ImportError`: If it is vLLM, which is not installed.
        `ValueError`: If vLLM could not load the model, or its adapter cannot be merged into the weights; if continuous
            batching is to make forwards in which the training engine gathers weights.
    """
    if args.use_transformers_continuous_batching and (engine := _gathers_in_each_forward(args)):
        raise ValueError(
            f"{engine} gathers weights in each forward, with all processes together, but continuous batching makes as "
            "many forwards as a process's own rows need, so that processes would wait for each other for ever. Set "
            "`use_transformers_continuous_batching=False`, or train with vLLM or with gathered ZeRO-3."
        )
    if not args.use_vllm:
        return
    if not trl_compat.is_vllm_available():
        raise ImportError(
            "`use_vllm=True` needs vLLM, which is not installed in this environment: `pip install 'trl[vllm]'`, or set "
            "`use_vllm=False`."
        )
    if args.vllm_mode == "colocate" and not isinstance(model, str) and not model.name_or_path:
        raise ValueError(
            "vLLM loads the model itself, from a folder or the Hub, got a model in memory with an empty "
            "`name_or_path`. Save it with its tokenizer and pass the folder, or use `vllm_mode='server'`."
        )
    adapters = [] if isinstance(model, str) or not is_peft_model(model) else list(model.peft_config.values())
    for adapter in adapters if peft_config is None else [*adapters, peft_config]:
        if not is_mergeable(adapter):
            raise ValueError(
                f"vLLM is brought the weights with the adapter merged into them, got {type(adapter).__name__}, which "
                "cannot be merged. Use LoRA, or `use_vllm=False`."
            )


def _gathers_in_each_forward(args: "SCoReConfig") -> str | None:
    """The training engine, if it needs all processes for each forward of `generate`."""
    if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return "FSDP"
    is_zero3 = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    return "ZeRO-3 with `ds3_gather_for_generation=False`" if is_zero3 and not args.ds3_gather_for_generation else None


def read_correction(
    correction_prompt: str | list[Message], is_chat: bool, args: "SCoReConfig", tokenizer: PreTrainedTokenizerBase
) -> Correction:
    """
    Reads what stands between the two turns, for chat prompts or for plain ones.

    Args:
        correction_prompt (`str` or `list[dict]`):
            What is asked between the turns.
        is_chat (`bool`):
            Whether prompts are chat messages.
        args ([`SCoReConfig`]):
            The configuration, with further arguments of the chat template.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.

    Returns:
        `Correction`: the tokens between the turns.

    Raises:
        `ValueError`: If the chat template cannot be continued, see `audit_template`.
    """
    if is_chat:
        return audit_template(correction_prompt, tokenizer, _template_kwargs(args))
    return text_correction(correction_prompt, tokenizer)


def check_context(
    prompts: Sequence[Prompt],
    settings: Sequence[RowSetting],
    args: "SCoReConfig",
    tokenizer: PreTrainedTokenizerBase,
    model_config: "PretrainedConfig",
) -> None:
    """
    Checks that prompt, two turns and the correction prompt fit into the model's context.

    Args:
        prompts (`Sequence`):
            The dataset's prompts. Only the longest ones of those with the same room, by characters, are tokenized.
        settings (`Sequence[RowSetting]`):
            Each prompt's budgets and correction.
        args ([`SCoReConfig`]):
            The configuration, with further arguments of the chat template.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        model_config ([`~transformers.PretrainedConfig`]):
            The model's configuration.

    Raises:
        `ValueError`: If a rollout may be longer than the context.
    """
    context, whose = context_of_run(model_config, args)
    if context is None:
        return
    prompts_with_room: dict[int, list[Prompt]] = {}
    setting_with_room = {setting.num_tokens: setting for setting in settings}
    for prompt, setting in zip(prompts, settings, strict=True):
        prompts_with_room.setdefault(setting.num_tokens, []).append(prompt)
    for room, some_prompts in prompts_with_room.items():
        longest = sorted(some_prompts, key=lambda prompt: len(str(prompt)))[-_LONGEST_PROMPTS_TO_TOKENIZE:]
        prompt_length = max(map(len, tokenize_prompts(longest, tokenizer, _template_kwargs(args))))
        budgets, correction = setting_with_room[room].budgets, setting_with_room[room].correction
        if prompt_length + room > context:
            raise ValueError(
                f"A rollout must fit into {whose} of {context} tokens, got up to {prompt_length + room}: "
                f"prompt {prompt_length} + turn 1 {budgets[0]} + correction prompt {len(correction)} + turn 2 "
                f"{budgets[1]}. Lower `max_completion_length` (or `max_completion_length_t1` and `_t2`, of the run or "
                "of the row), or shorten the prompts."
            )


def context_of_run(model_config: "PretrainedConfig", args: "SCoReConfig") -> tuple[int | None, str]:
    """
    Gives the longest sequence that the model, and vLLM in the trainer's process, can take.

    Args:
        model_config ([`~transformers.PretrainedConfig`]):
            The model's configuration.
        args ([`SCoReConfig`]):
            The configuration.

    Returns:
        `tuple[int | None, str]`: tokens, `None` where neither says, and whose limit it is, for a message.
    """
    of_model = context_length(model_config)
    of_vllm = args.vllm_max_model_length if args.use_vllm and args.vllm_mode == "colocate" else None
    if of_vllm is not None and (of_model is None or of_vllm < of_model):
        return of_vllm, "vLLM's context (`vllm_max_model_length`)"
    return of_model, "the model's context"


def context_length(model_config: "PretrainedConfig") -> int | None:
    """
    Gives the longest sequence that a model was made for.

    Args:
        model_config ([`~transformers.PretrainedConfig`]):
            The model's configuration.

    Returns:
        `int`, *optional*: tokens, or `None` where the configuration does not say.
    """
    length = model_config.get_text_config().to_dict().get("max_position_embeddings")
    return int(length) if length else None


def warn_without_stage_1(stage: str, model_path: str | None) -> None:
    """
    Warns where Stage II does not start from a Stage-I checkpoint.

    The paper's ablation without Stage I loses half of the gain (+2.2 instead of +4.4 on MATH), so this is allowed, but
    said. A checkpoint of ours is known by its `score_config.json`.

    Args:
        stage (`str`):
            The configured stage.
        model_path (`str`, *optional*):
            Where the model was loaded from.
    """
    if stage != "2":
        return
    if model_path is None or not (Path(model_path) / SCORE_CONFIG_FILE).is_file():
        logger.warning(
            "`stage='2'` starts from %r, which is no checkpoint of Stage I (no %s in it). Stage II without Stage I "
            "tends to collapse to a single answer (SCoRe, section 5.1). Train with `stage='1'` or 'both' first.",
            model_path or "a model in memory",
            SCORE_CONFIG_FILE,
        )


def first_rows(dataset: "Dataset | IterableDataset", name: str = "train_dataset") -> list[dict[str, Any]]:
    """
    Gives what can be looked at before training: all rows of a map-style dataset, the first of an iterable one.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The dataset.
        name (`str`, *optional*, defaults to `"train_dataset"`):
            What to call it in a message.

    Returns:
        `list[dict]`: rows, at least one, with their `prompt` and what they set for themselves.

    Raises:
        `ValueError`: If an iterable dataset is empty, or its first row has no prompt.
    """
    if hasattr(dataset, "__len__"):
        columns = [column for column in ("prompt", *SETTING_COLUMNS) if column in dataset.column_names]
        return list(dataset.select_columns(columns))
    row = next(iter(dataset), None)
    if row is None:
        raise ValueError(f"`{name}` is empty. Check the split, and the filters before it.")
    if "prompt" not in row:
        raise ValueError(f"`{name}` must have a column 'prompt', got the columns {sorted(row)}.")
    return [row]


def is_chat_dataset(prompts: list[Prompt]) -> bool:
    """
    Tells whether a dataset's prompts are chat messages.

    Args:
        prompts (`list`):
            Prompts.

    Returns:
        `bool`: whether the first one is.

    Raises:
        `TypeError`: If it is neither a text nor a list of messages.

    Example:

    ```python
    >>> is_chat_dataset(["2+2="])
    False

    ```
    """
    prompt: Any = prompts[0]
    if isinstance(prompt, str):
        return False
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict) and "role" in prompt[0]:
        return True
    raise TypeError(
        f"A prompt must be a text or a list of chat messages with 'role' and 'content', got {str(prompt)[:80]!r} of "
        f"type {type(prompt).__name__}. Bring the `prompt` column into one of the two forms."
    )


def _template_kwargs(args: "SCoReConfig") -> dict[str, Any]:
    return args.chat_template_kwargs if isinstance(args.chat_template_kwargs, dict) else {}
