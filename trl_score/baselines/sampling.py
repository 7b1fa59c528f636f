"""
Turns of a model on the rows of a dataset, token ids kept, and their rewards.

Between the method table and what uses turns: Self-Refine, which measures them, and the trace sets, which are made of
them. A turn is scored as in training: as an ordinary completion of the prompt.
"""

import inspect
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from trl_score.evaluation import stop_ids
from trl_score.records import BUDGET_COLUMNS, CORRECTION_COLUMN, Completion, GeneratedTurn, Message, RewardFunc
from trl_score.score.engines import TransformersEngine
from trl_score.score.preflight import context_length
from trl_score.score.prompts import (
    Correction,
    audit_template,
    is_conversational_prompt,
    text_correction,
    tokenize_prompts,
)
from trl_score.score.rollout import roll_out_turns
from trl_score.score.turn_rewards import TurnContext, TurnReward

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Whatever the model's own generation config says: as in training, the policy itself is what is sampled.
_PLAIN_SAMPLING: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}

_NOT_COLUMNS = ("prompt", "completion", "completion_ids")


@dataclass(frozen=True)
class SampledTurns:
    """
    Every turn of some rows.

    Args:
        prompt_ids (`list[list[int]]`):
            The prompts, templated.
        turns (`list[list[GeneratedTurn]]`):
            For each turn one entry per row.
        requests (`list[list[list[int]]]`):
            What stands before turn 2, turn 3, ...: one entry per row.
        texts (`list[list[str]]`):
            For each turn the text of each row.
    """

    prompt_ids: list[list[int]]
    turns: list[list[GeneratedTurn]]
    requests: list[list[list[int]]]
    texts: list[list[str]]


class TurnSampler:
    """
    A model that answers, and goes on as it is asked to.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, on its device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        requests (`Sequence[str | list[dict]]`):
            What is asked before turn 2, turn 3, and so on. A row's own correction prompt goes before a single one.
        budgets (`Sequence[int]`):
            Most tokens of each turn, where a row has no number of its own.
        is_chat (`bool`):
            Whether prompts are chat messages.
        do_sample (`bool`):
            Whether to sample; greedy otherwise.
        temperature (`float`, *optional*, defaults to `1.0`):
            Of sampling.
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.

    Raises:
        `ValueError`: If the chat template cannot be continued, or the tokenizer has no token to pad with.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        requests: Sequence[str | list[Message]],
        budgets: Sequence[int],
        *,
        is_chat: bool,
        do_sample: bool,
        temperature: float = 1.0,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.requests = tuple(requests)
        self.budgets = tuple(budgets)
        self._is_chat = is_chat
        self._template_kwargs = chat_template_kwargs
        self._corrections: dict[str, Correction] = {}
        pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad_token_id is None:
            raise ValueError("The tokenizer has neither a pad token nor an end token, got None for both. Set one.")
        self._engine = TransformersEngine(
            model,
            stop_ids=stop_ids(model, tokenizer, self._correction(requests[0]).closing_ids),
            pad_token_id=int(pad_token_id),
            do_sample=do_sample,
            sampling_kwargs={"temperature": temperature, **_PLAIN_SAMPLING},
        )

    def sample(self, rows: dict[str, list[Any]], seed: int | str) -> SampledTurns:
        """
        Lets the model take all turns for some rows. The global random state is left as it was.

        Args:
            rows (`dict[str, list]`):
                Rows with a `prompt`.
            seed (`int` or `str`):
                Of all that is drawn.

        Returns:
            `SampledTurns`: ids and texts.

        Raises:
            `ValueError`: If all turns of a row may not fit into the model's context.
        """
        prompt_ids = tokenize_prompts(rows["prompt"], self.tokenizer, self._template_kwargs)
        corrections, budgets = self._row_corrections(rows), self._row_budgets(rows)
        self._check_context(prompt_ids, corrections, budgets)
        with torch.random.fork_rng(), _evaluation_mode(self.model):
            torch.manual_seed(random.Random(str(seed)).getrandbits(63))
            timed = roll_out_turns(prompt_ids, corrections, self._engine, budgets)
        texts = [
            self.tokenizer.batch_decode([turn.token_ids for turn in turns], skip_special_tokens=True)
            for turns in timed.turns
        ]
        return SampledTurns(prompt_ids, timed.turns, timed.correction_ids, texts)

    def _correction(self, request: str | list[Message]) -> Correction:
        key = json.dumps(request)
        if key not in self._corrections:
            self._corrections[key] = (
                audit_template(request, self.tokenizer, self._template_kwargs)
                if self._is_chat
                else text_correction(request, self.tokenizer)
            )
        return self._corrections[key]

    def _row_corrections(self, rows: dict[str, list[Any]]) -> list[list[Correction]]:
        own = [None] * len(rows["prompt"])
        if len(self.requests) == 1:  # a row asks to look again, and knows nothing of a critique
            own = rows.get(CORRECTION_COLUMN, own)
        return [[self._correction(of_row or request) for of_row in own] for request in self.requests]

    def _row_budgets(self, rows: dict[str, list[Any]]) -> list[list[int]]:
        columns = [BUDGET_COLUMNS[min(turn, 1)] for turn in range(len(self.budgets))]
        return [
            [of_row or budget for of_row in rows.get(column, [None] * len(rows["prompt"]))]
            for column, budget in zip(columns, self.budgets, strict=True)
        ]

    def _check_context(
        self, prompt_ids: list[list[int]], corrections: list[list[Correction]], budgets: list[list[int]]
    ) -> None:
        context = context_length(self.model.config)
        for row, ids in enumerate(prompt_ids):
            room = sum(of_turn[row] for of_turn in budgets) + sum(len(request[row]) for request in corrections)
            if context is not None and len(ids) + room > context:
                raise ValueError(
                    f"A prompt of {len(ids)} tokens leaves no room for {len(budgets)} turns and what is asked between "
                    f"them ({room} tokens) in the model's context of {context}. Filter long prompts out, or lower "
                    "`max_completion_length`."
                )


def row_batches(dataset: Any, batch_size: int) -> Iterator[dict[str, list[Any]]]:
    """
    Cuts a dataset into batches, in order.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        batch_size (`int`):
            Rows of a batch; the last may have fewer.

    Yields:
        `dict[str, list]`: the columns of a batch.
    """
    for start in range(0, len(dataset), batch_size):
        yield dataset[start : start + batch_size]


def score_two_turns(
    reward_func: RewardFunc,
    rows: dict[str, list[Any]],
    texts: Sequence[Sequence[str]],
    turns: Sequence[Sequence[GeneratedTurn]],
) -> list[tuple[float | None, float | None]]:
    """
    Scores a first and a second turn, each as an ordinary completion of the prompt.

    Args:
        reward_func (`Callable`):
            A reward function as in training.
        rows (`dict[str, list]`):
            The rows, with what it needs.
        texts (`Sequence[Sequence[str]]`):
            The texts of both turns.
        turns (`Sequence[Sequence[GeneratedTurn]]`):
            Their tokens.

    Returns:
        `list[tuple]`: for each row the reward of both turns; `None` where one could not be scored.

    Raises:
        `TypeError`, `ValueError`: If the function's result is wrong, see `check_turn_rewards`.
    """
    is_chat = is_conversational_prompt(rows["prompt"][0])
    completions: list[list[Completion]] = [
        [[{"role": "assistant", "content": text}] if is_chat else text for text in texts_of_turn]
        for texts_of_turn in texts
    ]
    columns = {name: values for name, values in rows.items() if name not in _NOT_COLUMNS}
    name = reward_func.__name__ if inspect.isfunction(reward_func) else type(reward_func).__name__
    rewards = [
        TurnReward(reward_func, name, TurnContext(number, completions[0]))(
            prompts=rows["prompt"],
            completions=completions[number - 1],
            completion_ids=[turn.token_ids for turn in turns[number - 1]],
            **columns,
        )
        for number in (1, 2)
    ]
    return list(zip(*rewards, strict=True))


@contextmanager
def _evaluation_mode(model: "PreTrainedModel") -> Iterator[None]:
    """Without dropout, and back to what it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
