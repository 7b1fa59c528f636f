"""The evaluation of a model in memory, and how a model is loaded for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score.evaluation.respondents import LocalRespondent
from trl_score.evaluation.run import Evaluation, check_rows, run_evaluation
from trl_score.evaluation.settings import EvaluationSettings
from trl_score.records import RewardFunc
from trl_score.score.prompts import DEFAULT_CORRECTION_PROMPT

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_score.records import Message


def evaluate_self_correction(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dataset: "Dataset",
    reward_func: RewardFunc,
    *,
    max_completion_length: int | Sequence[int],
    num_turns: int = 2,
    num_samples: int = 1,
    correction_prompt: "str | list[Message]" = DEFAULT_CORRECTION_PROMPT,
    offline_turn_1_column: str | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    progress: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """
    Lets a model answer every problem, asks it to look again, and measures how well it corrects itself.

    A row may carry its own `correction_prompt`, and its own budgets `max_completion_length_t1` and
    `max_completion_length_t2` (the second counts for all later turns too), as [`~trl_score.data.mixtures.mix_tasks`]
    sets them.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, on its device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        dataset ([`~datasets.Dataset`]):
            Rows with a `prompt`, and what the reward function needs. `problem_id`, `task` and `level` go into the
            records.
        reward_func (`Callable`):
            A reward function as in training. A turn is right where it gives more than 0.5.
        max_completion_length (`int` or `Sequence[int]`):
            Most tokens of a turn, or of each turn.
        num_turns (`int`, *optional*, defaults to `2`):
            Turns of each problem.
        num_samples (`int`, *optional*, defaults to `1`):
            How often each problem is answered.
        correction_prompt (`str` or `list[dict]`, *optional*):
            What is asked between the turns.
        offline_turn_1_column (`str`, *optional*):
            Dataset column with first turns made beforehand: a text, or a list of which sample k takes number k. In
            rows where it is `None` the model answers itself.
        do_sample (`bool`, *optional*, defaults to `False`):
            Whether to sample; greedy otherwise, as in the paper's tables.
        temperature (`float`, *optional*, defaults to `1.0`):
            Of sampling.
        batch_size (`int`, *optional*, defaults to `64`):
            Problems generated together. Greedy results do not depend on it.
        seed (`int`, *optional*, defaults to `0`):
            Of sampling and of the bootstrap. The global random state is left as it was.
        progress (`str`, *optional*):
            A progress bar's label, with the accuracy so far beside it; no bar by default.
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template, as in training.
        output_dir (`str` or `Path`, *optional*):
            Folder to write `records.jsonl` into, batch by batch, and `metrics.json`, see docs/evaluation.md. What is
            there of the same evaluation is gone on with.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to begin anew there, and lose what is there.

    Returns:
        [`Evaluation`]: records and metrics.

    Raises:
        `ValueError`: If the dataset is empty or lacks a column, an option is out of range, the chat template cannot be
            continued, or the folder holds another evaluation.
    """
    settings = EvaluationSettings(
        max_completion_length=max_completion_length,
        num_turns=num_turns,
        num_samples=num_samples,
        correction_prompt=correction_prompt,
        offline_turn_1_column=offline_turn_1_column,
        do_sample=do_sample,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
        chat_template_kwargs=chat_template_kwargs or {},
    )
    check_rows(dataset, settings)
    respondent = LocalRespondent(model, tokenizer, settings, dataset)
    return run_evaluation(
        respondent, dataset, reward_func, settings, output_dir=output_dir, overwrite=overwrite, progress=progress
    )


def load_model(path: str) -> "PreTrainedModel":
    """
    Loads a model, or an adapter with its base, for evaluation.

    Args:
        path (`str`):
            A folder or a name on the Hub. One with an `adapter_config.json` in it is an adapter.

    Returns:
        [`~transformers.PreTrainedModel`]: in fp32 on a CPU, in the saved type on an accelerator, in evaluation mode.
    """
    has_accelerator = torch.accelerator.is_available()
    kwargs: dict[str, Any] = {"dtype": "auto" if has_accelerator else torch.float32}
    if is_adapter(path):
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(path, **kwargs)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, **kwargs)
    return model.to(torch.accelerator.current_accelerator() if has_accelerator else "cpu").eval()


def is_adapter(path: str) -> bool:
    """
    Tells an adapter from a model.

    Args:
        path (`str`):
            A folder, or a name on the Hub.

    Returns:
        `bool`: whether it is a folder with an adapter in it.
    """
    return (Path(path) / "adapter_config.json").is_file()


def load_tokenizer(path: str) -> "PreTrainedTokenizerBase":
    """
    Loads the tokenizer of a model or an adapter.

    Args:
        path (`str`):
            A folder or a name on the Hub.

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: the tokenizer.

    Raises:
        `ValueError`: If there is none, or it cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise _no_tokenizer(path) from error
    # Of some kinds of model Transformers makes a tokenizer from nothing, which knows no word.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise _no_tokenizer(path)
    return tokenizer


def _no_tokenizer(path: str) -> ValueError:
    found = "a folder without one" if Path(path).is_dir() else "no such folder and nothing within reach on the Hub"
    return ValueError(
        f"Expected a model with a tokenizer that can be read in {path!r}, got {found}. Check the name, or save the "
        "tokenizer beside the model."
    )
