"""Two-turn rollouts: turn 1, the correction prompt, turn 2, as one row of token ids.

The engine that generates is one callable, `(prompts as ids, budget) -> turns`, so that nothing here knows which it is.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import GenerationConfig

from trl_score.records import GeneratedTurn, Rollout
from trl_score.score.prompts import Correction

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GenerateTurn(Protocol):
    """A generation engine: continues each list of ids by one turn of at most so many tokens."""

    def __call__(self, prompt_ids: Sequence[list[int]], max_new_tokens: int) -> list[GeneratedTurn]:
        """
        Generates one turn for each prompt, in order.

        Args:
            prompt_ids (`Sequence[list[int]]`):
                Unpadded ids.
            max_new_tokens (`int`):
                The turn's length budget.

        Returns:
            `list[GeneratedTurn]`: one per prompt.
        """
        ...


@dataclass(frozen=True)
class TimedRollouts:
    """
    Rollouts and what they cost.

    Args:
        rollouts (`list[Rollout]`):
            One per prompt, in order.
        seconds_t1 (`float`):
            Seconds spent generating turn 1.
        seconds_t2 (`float`):
            Seconds spent generating turn 2.
    """

    rollouts: list[Rollout]
    seconds_t1: float
    seconds_t2: float


def roll_out_two_turns(
    prompt_ids: Sequence[list[int]],
    correction: Correction,
    generate: GenerateTurn,
    budgets: tuple[int, int],
    *,
    offline_turns_1: Sequence[list[int] | None] | None = None,
    on_turn_1: Callable[[list[GeneratedTurn]], None] | None = None,
) -> TimedRollouts:
    """
    Lets the policy answer, asks it to look again, and lets it answer again.

    Turn 2's prompt is prompt ids + turn 1's ids + correction ids, token for token.

    Args:
        prompt_ids (`Sequence[list[int]]`):
            The prompts, templated, unpadded.
        correction (`Correction`):
            What stands between the turns.
        generate (`GenerateTurn`):
            The engine. Called once for each turn.
        budgets (`tuple[int, int]`):
            Most tokens of turn 1 and of turn 2.
        offline_turns_1 (`Sequence[list[int] | None]`, *optional*):
            For each prompt the ids of a first turn made beforehand, or `None` where the policy answers itself.
        on_turn_1 (`Callable`, *optional*):
            Called with all first turns before turn 2 is generated, so that they can be scored meanwhile.

    Returns:
        `TimedRollouts`: one rollout per prompt, in order.

    Example:

    ```python
    >>> def count_up(prompt_ids, max_new_tokens):
    ...     return [GeneratedTurn([ids[-1] + 1, 0], truncated=False) for ids in prompt_ids]
    >>> correction = Correction(closing_ids=[0], request_ids=[50])
    >>> roll_out_two_turns([[1, 7]], correction, count_up, (2, 2)).rollouts[0].completion_ids
    [8, 0, 50, 51, 0]

    ```
    """
    offline = list(offline_turns_1) if offline_turns_1 is not None else [None] * len(prompt_ids)
    start = time.perf_counter()
    turns_1 = _first_turns(prompt_ids, generate, budgets[0], offline)
    seconds_t1 = time.perf_counter() - start
    if on_turn_1 is not None:
        on_turn_1(turns_1)
    corrections = [correction.after(turn.token_ids) for turn in turns_1]
    start = time.perf_counter()
    turns_2 = generate(
        [
            [*prompt, *turn_1.token_ids, *request]
            for prompt, turn_1, request in zip(prompt_ids, turns_1, corrections, strict=True)
        ],
        budgets[1],
    )
    seconds_t2 = time.perf_counter() - start
    rollouts = [
        Rollout(list(prompt), turn_1, request, turn_2, is_turn_1_offline=ids is not None)
        for prompt, turn_1, request, turn_2, ids in zip(prompt_ids, turns_1, corrections, turns_2, offline, strict=True)
    ]
    return TimedRollouts(rollouts, seconds_t1, seconds_t2)


def _first_turns(
    prompt_ids: Sequence[list[int]], generate: GenerateTurn, budget: int, offline: Sequence[list[int] | None]
) -> list[GeneratedTurn]:
    """The policy's first turns, with offline ones in their places."""
    online = [prompt for prompt, ids in zip(prompt_ids, offline, strict=True) if ids is None]
    # Generating is a collective operation where weights are sharded, so a process without a prompt takes part too.
    generated = iter(generate(online or prompt_ids[:1], budget))
    return [next(generated) if ids is None else GeneratedTurn(list(ids[:budget]), len(ids) > budget) for ids in offline]


def cut_at_stop(token_ids: Sequence[int], stop_ids: frozenset[int]) -> GeneratedTurn:
    """
    Cuts what an engine returned after the first stop token.

    Args:
        token_ids (`Sequence[int]`):
            Generated ids, possibly with padding after the stop token.
        stop_ids (`frozenset[int]`):
            Ids that end a turn.

    Returns:
        `GeneratedTurn`: the ids up to and including the first stop token; truncated if there is none.

    Example:

    ```python
    >>> cut_at_stop([4, 5, 2, 0, 0], frozenset({2}))
    GeneratedTurn(token_ids=[4, 5, 2], truncated=False)
    >>> cut_at_stop([4, 5, 6], frozenset({2}))
    GeneratedTurn(token_ids=[4, 5, 6], truncated=True)

    ```
    """
    for index, token_id in enumerate(token_ids):
        if token_id in stop_ids:
            return GeneratedTurn(list(token_ids[: index + 1]), truncated=False)
    return GeneratedTurn(list(token_ids), truncated=True)


class TransformersEngine:
    """
    Generates turns with `model.generate`, prompts padded on the left.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The policy, unwrapped.
        stop_ids (`Sequence[int]`):
            Ids that end a turn.
        pad_token_id (`int`):
            Id to pad with.
        do_sample (`bool`):
            Whether to sample; greedy otherwise.
        sampling_kwargs (`dict`, *optional*):
            Further fields of [`~transformers.GenerationConfig`]. Those that shape the distribution (`temperature`,
            `top_p`, `top_k`, `min_p`) are left out of greedy decoding.
        batch_size (`int`, *optional*):
            Prompts generated together; all at once by default.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        stop_ids: Sequence[int],
        pad_token_id: int,
        do_sample: bool,
        sampling_kwargs: dict[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.model = model
        self.stop_ids = list(stop_ids)
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size
        self.config_kwargs = decoding_kwargs(do_sample, sampling_kwargs or {})

    def __call__(self, prompt_ids: Sequence[list[int]], max_new_tokens: int) -> list[GeneratedTurn]:
        """
        Generates one turn for each prompt, in order.

        Args:
            prompt_ids (`Sequence[list[int]]`):
                Unpadded ids.
            max_new_tokens (`int`):
                The turn's length budget.

        Returns:
            `list[GeneratedTurn]`: one per prompt.
        """
        size = self.batch_size or len(prompt_ids)
        turns: list[GeneratedTurn] = []
        for start in range(0, len(prompt_ids), size):
            turns += self._generate_batch(prompt_ids[start : start + size], max_new_tokens)
        return turns

    @torch.no_grad()
    def _generate_batch(self, prompt_ids: Sequence[list[int]], max_new_tokens: int) -> list[GeneratedTurn]:
        width = max(len(ids) for ids in prompt_ids)
        padded = [[self.pad_token_id] * (width - len(ids)) + list(ids) for ids in prompt_ids]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids]
        config = GenerationConfig(
            **self.config_kwargs,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.stop_ids,
            pad_token_id=self.pad_token_id,
            disable_compile=True,
        )
        output = self.model.generate(
            input_ids=torch.tensor(padded, device=self.model.device),
            attention_mask=torch.tensor(mask, device=self.model.device),
            generation_config=config,
        )
        stop_ids = frozenset(self.stop_ids)
        return [cut_at_stop(ids, stop_ids) for ids in output[:, width:].tolist()]


def decoding_kwargs(do_sample: bool, sampling_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Fields of a generation config for sampling or for greedy decoding.

    Greedy decoding sets the fields that shape the distribution to their neutral values rather than leaving them out,
    because `generate` would otherwise fill them in from the model's own generation config.

    Args:
        do_sample (`bool`):
            Whether to sample.
        sampling_kwargs (`dict`):
            Fields of [`~transformers.GenerationConfig`].

    Returns:
        `dict`: the fields.

    Example:

    ```python
    >>> decoding_kwargs(False, {"temperature": 0.7, "repetition_penalty": 1.1})
    {'repetition_penalty': 1.1, 'temperature': 1.0, 'top_p': 1.0, 'top_k': 50, 'do_sample': False}

    ```
    """
    if do_sample:
        return {**sampling_kwargs, "do_sample": True}
    shaping = ("temperature", "top_p", "top_k", "min_p", "do_sample")
    kept = {name: value for name, value in sampling_kwargs.items() if name not in shaping}
    return {**kept, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "do_sample": False}
