"""Evaluation: a model and a dataset in, every turn of every problem and the paper's metrics out. Needs no trainer.

settings -> respondent (all turns of a batch) -> rewards of each turn -> records -> metrics -> table
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score.evaluation_records import EvaluationRecord, make_records
from trl_score.evaluation_respondents import AnsweredTurn, LocalRespondent, stop_ids
from trl_score.evaluation_settings import EvaluationSettings, Rows
from trl_score.metrics import Interval, accuracy_by_turn, self_correction_metrics
from trl_score.records import BUDGET_COLUMNS, Completion, RewardFunc
from trl_score.score.prompts import DEFAULT_CORRECTION_PROMPT, is_conversational_prompt
from trl_score.score.turn_rewards import TurnContext, TurnReward

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_score.records import Message

__all__ = [
    "Evaluation",
    "EvaluationRecord",
    "EvaluationSettings",
    "evaluate_self_correction",
    "load_model",
    "load_tokenizer",
    "stop_ids",
]


@dataclass(frozen=True)
class Evaluation:
    """
    What an evaluation gives.

    Args:
        records (`list[EvaluationRecord]`):
            One per problem and sample: all problems in order, then all of them again.
        metrics (`dict[str, Interval]`):
            The paper's metrics of the first and the last turn, with 95% bootstrap intervals over problems, see
            docs/metrics.md. Of a single turn its accuracy.
    """

    records: list[EvaluationRecord]
    metrics: dict[str, Interval]


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
            A progress bar's label; no bar by default.
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template, as in training.

    Returns:
        `Evaluation`: records and metrics.

    Raises:
        `ValueError`: If the dataset is empty or lacks a column, an option is out of range, or the chat template cannot
            be continued.
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
    _check_dataset(dataset, settings)
    respondent = LocalRespondent(model, tokenizer, settings, dataset)
    records: list[EvaluationRecord] = []
    for batch in tqdm(_batches(dataset, settings), desc=progress, disable=progress is None, unit="batch", leave=False):
        records += _answer_batch(batch, dataset, respondent, reward_func)
    return Evaluation(records, _metrics(records, settings))


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
    if (Path(path) / "adapter_config.json").is_file():
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(path, **kwargs)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, **kwargs)
    return model.to(torch.accelerator.current_accelerator() if has_accelerator else "cpu").eval()


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
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        found = "a folder without one" if Path(path).is_dir() else "no such folder and nothing within reach on the Hub"
        raise ValueError(
            f"Expected a model with a tokenizer that can be read in {path!r}, got {found}. Check the name, or save the "
            "tokenizer beside the model."
        ) from error


@dataclass(frozen=True)
class _Batch:
    """Rows `start` to `stop` of the dataset, for the so-manieth time, with the seed of all that is drawn for them."""

    start: int
    stop: int
    sample: int
    seed: int


def _batches(dataset: "Dataset", settings: EvaluationSettings) -> list[_Batch]:
    num_rows, size = len(dataset), settings.batch_size
    return [
        _Batch(start, min(start + size, num_rows), sample, settings.batch_seed(sample, start // size))
        for sample in range(settings.num_samples)
        for start in range(0, num_rows, size)
    ]


def _check_dataset(dataset: "Dataset", settings: EvaluationSettings) -> None:
    column = settings.offline_turn_1_column
    missing = [name for name in ("prompt", column) if name is not None and name not in dataset.column_names]
    if len(dataset) == 0 or missing:
        needed = "a `prompt`" if column is None else f"a `prompt` and the column {column!r}"
        raise ValueError(
            f"An evaluation needs rows with {needed}, got {len(dataset)} rows with the columns {dataset.column_names}."
        )
    # What is wrong with a row is said before anything is answered.
    rows = dataset.select_columns(
        [name for name in ("prompt", column, *BUDGET_COLUMNS) if name in dataset.column_names]
    )
    settings.row_budgets(rows[:])
    settings.given_first_turns(rows[:], sample=0)


def _answer_batch(
    batch: _Batch, dataset: "Dataset", respondent: LocalRespondent, reward_func: RewardFunc
) -> list[EvaluationRecord]:
    rows: Rows = dataset[batch.start : batch.stop]
    turns = respondent.answer(rows, sample=batch.sample, seed=batch.seed)
    given = respondent.settings.given_first_turns(rows, batch.sample)
    return make_records(
        rows,
        [turn.texts for turn in turns],
        _score_turns(reward_func, rows, turns),
        [turn.truncated for turn in turns],
        is_turn_1_offline=[text is not None for text in given],
        sample=batch.sample,
    )


def _score_turns(reward_func: RewardFunc, rows: Rows, turns: Sequence[AnsweredTurn]) -> list[list[float | None]]:
    """Scores the turns of a batch as the trainer does: each as an ordinary completion of the prompt."""
    is_chat = is_conversational_prompt(rows["prompt"][0])
    completions_of_turns: list[list[Completion]] = [
        [[{"role": "assistant", "content": text}] if is_chat else text for text in turn.texts] for turn in turns
    ]
    columns = {name: values for name, values in rows.items() if name not in ("prompt", "completion", "completion_ids")}
    name = reward_func.__name__ if inspect.isfunction(reward_func) else type(reward_func).__name__
    rewards = []
    for number, (completions, turn) in enumerate(zip(completions_of_turns, turns, strict=True), start=1):
        score = TurnReward(reward_func, name, TurnContext(number, completions_of_turns[0]))
        rewards.append(score(prompts=rows["prompt"], completions=completions, completion_ids=turn.token_ids, **columns))
    return rewards


def _metrics(records: Sequence[EvaluationRecord], settings: EvaluationSettings) -> dict[str, Interval]:
    correct = [record.correct for record in records]
    groups = [record.problem for record in records] if settings.num_samples > 1 else None
    if settings.num_turns == 1:
        return {"accuracy_t1": accuracy_by_turn(correct, groups=groups, seed=settings.seed)[0]}
    return self_correction_metrics(
        correct,
        [record.answers for record in records],
        [record.turns for record in records],
        turns=(1, settings.num_turns),
        groups=groups,
        seed=settings.seed,
    )
