"""Evaluation: a model and a dataset in, both turns of every problem and the paper's metrics out. Needs no trainer."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM

from trl_score.metrics import Interval, self_correction_metrics
from trl_score.records import Completion, GeneratedTurn, Prompt, RewardFunc
from trl_score.score.answers import extract_answer
from trl_score.score.prompts import (
    DEFAULT_CORRECTION_PROMPT,
    audit_template,
    is_conversational_prompt,
    text_correction,
    tokenize_prompts,
)
from trl_score.score.rollout import TransformersEngine, roll_out_two_turns
from trl_score.score.turn_metrics import RIGHT_ABOVE
from trl_score.score.turn_rewards import TurnContext, TurnReward

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_score.records import Message

# Whatever the model's own generation config says: as in training, the policy itself is what is measured.
_PLAIN_SAMPLING: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class EvaluationRecord:
    """
    One problem with both turns.

    Args:
        prompt (`str` or `list[dict]`):
            What was asked.
        turns (`tuple[str, str]`):
            What the model wrote in turn 1 and turn 2.
        rewards (`tuple`):
            Reward of turn 1 and turn 2; `None` where a turn could not be scored.
        truncated (`tuple[bool, bool]`):
            Whether the length budget ended the turn.
    """

    prompt: Prompt
    turns: tuple[str, str]
    rewards: tuple[float | None, float | None]
    truncated: tuple[bool, bool]

    @property
    def correct(self) -> tuple[float | None, float | None]:
        """`tuple`: 1 or 0 for each turn, `None` where it could not be scored."""
        first, second = (None if reward is None else float(reward > RIGHT_ABOVE) for reward in self.rewards)
        return first, second

    @property
    def outcome(self) -> str:
        """`str`: `"fixed"`, `"broken"`, `"right"`, `"wrong"`, or `"unscorable"`."""
        names = {(0.0, 1.0): "fixed", (1.0, 0.0): "broken", (1.0, 1.0): "right", (0.0, 0.0): "wrong"}
        first, second = self.correct
        return "unscorable" if first is None or second is None else names[first, second]

    def as_dict(self) -> dict[str, Any]:
        """
        Gives the record as JSON can hold it.

        Returns:
            `dict`: the fields, and the outcome.
        """
        return {**asdict(self), "outcome": self.outcome}


@dataclass(frozen=True)
class Evaluation:
    """
    What an evaluation gives.

    Args:
        records (`list[EvaluationRecord]`):
            One per problem, in order.
        metrics (`dict[str, Interval]`):
            The paper's metrics with 95% bootstrap intervals over problems, see docs/metrics.md.
    """

    records: list[EvaluationRecord]
    metrics: dict[str, Interval]


def evaluate_self_correction(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dataset: "Dataset",
    reward_func: RewardFunc,
    *,
    max_completion_length: tuple[int, int],
    correction_prompt: "str | list[Message]" = DEFAULT_CORRECTION_PROMPT,
    do_sample: bool = False,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    progress: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> Evaluation:
    """
    Lets a model answer every problem twice, and measures how well it corrects itself.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, on its device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        dataset ([`~datasets.Dataset`]):
            Rows with a `prompt`, and what the reward function needs.
        reward_func (`Callable`):
            A reward function as in training. A turn is right where it gives more than 0.5.
        max_completion_length (`tuple[int, int]`):
            Most tokens of turn 1 and of turn 2.
        correction_prompt (`str` or `list[dict]`, *optional*):
            What is asked between the turns.
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
        `ValueError`: If the dataset is empty or has no `prompt`, or the chat template cannot be continued.
    """
    if len(dataset) == 0 or "prompt" not in dataset.column_names:
        raise ValueError(
            f"An evaluation needs rows with a `prompt`, got {len(dataset)} rows with the columns "
            f"{dataset.column_names}."
        )
    is_chat = is_conversational_prompt(dataset[0]["prompt"])
    correction = (
        audit_template(correction_prompt, tokenizer, chat_template_kwargs)
        if is_chat
        else text_correction(correction_prompt, tokenizer)
    )
    engine = TransformersEngine(
        model,
        stop_ids=stop_ids(model, tokenizer, correction.closing_ids),
        pad_token_id=_pad_token_id(tokenizer),
        do_sample=do_sample,
        sampling_kwargs={"temperature": temperature, **_PLAIN_SAMPLING},
    )
    records: list[EvaluationRecord] = []
    with torch.random.fork_rng(), _evaluation_mode(model):
        torch.manual_seed(seed)
        for rows in _batches(dataset, batch_size, progress):
            prompt_ids = tokenize_prompts(rows["prompt"], tokenizer, chat_template_kwargs)
            rollouts = roll_out_two_turns(prompt_ids, correction, engine, max_completion_length).rollouts
            generated_turns = [rollout.turn_1 for rollout in rollouts], [rollout.turn_2 for rollout in rollouts]
            turns = [
                tokenizer.batch_decode([turn.token_ids for turn in generated], skip_special_tokens=True)
                for generated in generated_turns
            ]
            rewards = _score_turns(reward_func, rows, turns, generated_turns)
            records += [
                EvaluationRecord(prompt, texts, turn_rewards, (rollout.turn_1.truncated, rollout.turn_2.truncated))
                for prompt, texts, turn_rewards, rollout in zip(
                    rows["prompt"], zip(*turns, strict=True), zip(*rewards, strict=True), rollouts, strict=True
                )
            ]
    return Evaluation(records, _metrics(records, seed))


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


def stop_ids(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", closing_ids: Sequence[int] = ()
) -> list[int]:
    """
    Collects the ids that end a turn: the model's, the tokenizer's, and the chat template's.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, with its generation config.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        closing_ids (`Sequence[int]`, *optional*):
            What closes a turn in the chat template; its last id counts.

    Returns:
        `list[int]`: ids, each once.
    """
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = [declared] if isinstance(declared, int) else list(declared or [])
    candidates = [*ids, tokenizer.eos_token_id, *closing_ids[-1:]]
    return list(dict.fromkeys(token for token in candidates if token is not None))


def _pad_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad is None:
        raise ValueError("The tokenizer has neither a pad token nor an end token, got None for both. Set one.")
    return int(pad)


def _batches(dataset: "Dataset", batch_size: int, progress: str | None) -> Iterable[dict[str, list[Any]]]:
    starts = range(0, len(dataset), batch_size)
    for start in tqdm(starts, desc=progress, disable=progress is None, unit="batch", leave=False):
        yield dataset[start : start + batch_size]


def _score_turns(
    reward_func: RewardFunc,
    rows: dict[str, list[Any]],
    texts_of_turns: Sequence[Sequence[str]],
    generated_turns: Sequence[Sequence[GeneratedTurn]],
) -> list[list[float | None]]:
    """Scores both turns of a batch as the trainer does: each as an ordinary completion of the prompt."""
    is_chat = is_conversational_prompt(rows["prompt"][0])
    completions_of_turns: list[list[Completion]] = [
        [[{"role": "assistant", "content": text}] if is_chat else text for text in texts] for texts in texts_of_turns
    ]
    columns = {name: values for name, values in rows.items() if name not in ("prompt", "completion", "completion_ids")}
    name = reward_func.__name__ if inspect.isfunction(reward_func) else type(reward_func).__name__
    rewards = []
    for turn, (completions, generated) in enumerate(zip(completions_of_turns, generated_turns, strict=True), start=1):
        score = TurnReward(reward_func, name, TurnContext(turn, completions_of_turns[0]))
        ids = [generated_turn.token_ids for generated_turn in generated]
        rewards.append(score(prompts=rows["prompt"], completions=completions, completion_ids=ids, **columns))
    return rewards


@contextmanager
def _evaluation_mode(model: "PreTrainedModel") -> Iterator[None]:
    """Without dropout, and back to what it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _metrics(records: Sequence[EvaluationRecord], seed: int) -> dict[str, Interval]:
    return self_correction_metrics(
        [record.correct for record in records],
        [[extract_answer(text) for text in record.turns] for record in records],
        [record.turns for record in records],
        seed=seed,
    )
