"""Generation engines: what writes a turn. Each is a callable `(prompts as ids, a budget of each) -> turns`.

- `TransformersEngine`: the model's own `generate`. Training's default, and evaluation's.
- `ContinuousBatchingEngine`: transformers' paged continuous batching.
- `VLLMEngine`: vLLM, in the trainer's process or as a server, through TRL's own object.

The protocol is [`~trl_score.score.rollout.GenerateTurn`]; who rolls out does not know which engine it has.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from trl_score.records import GeneratedTurn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHAPING = ("temperature", "top_p", "top_k", "min_p", "do_sample")
"""Fields of a generation config that shape the distribution: greedy decoding has none."""


def cut_at_stop(
    token_ids: Sequence[int],
    stop_ids: frozenset[int],
    budget: int | None = None,
    logprobs: Sequence[float | None] | None = None,
) -> GeneratedTurn:
    """
    Cuts what an engine returned after the first stop token, or at the turn's budget.

    Args:
        token_ids (`Sequence[int]`):
            Generated ids, possibly with padding after the stop token.
        stop_ids (`frozenset[int]`):
            Ids that end a turn.
        budget (`int`, *optional*):
            Most tokens of the turn, where the engine was allowed more.
        logprobs (`Sequence[float | None]`, *optional*):
            The engine's log-probability of each id, cut at the same place.

    Returns:
        `GeneratedTurn`: the ids up to and including the first stop token; truncated if there is none.

    Raises:
        `ValueError`: If there is not one log-probability per id.

    Example:

    ```python
    >>> cut_at_stop([4, 5, 2, 0, 0], frozenset({2}))
    GeneratedTurn(token_ids=[4, 5, 2], truncated=False, logprobs=None)
    >>> cut_at_stop([4, 5, 6], frozenset({2}))
    GeneratedTurn(token_ids=[4, 5, 6], truncated=True, logprobs=None)
    >>> cut_at_stop([4, 5, 2], frozenset({2}), budget=2, logprobs=[-0.5, -1.0, -0.1])
    GeneratedTurn(token_ids=[4, 5], truncated=True, logprobs=[-0.5, -1.0])

    ```
    """
    if logprobs is not None and len(logprobs) != len(token_ids):
        raise ValueError(
            f"An engine must give one log-probability per token, got {len(logprobs)} for {len(token_ids)} tokens."
        )
    kept = list(token_ids[:budget])
    end = next((index for index, token_id in enumerate(kept, start=1) if token_id in stop_ids), None)
    length = len(kept) if end is None else end
    return GeneratedTurn(
        kept[:length], truncated=end is None, logprobs=None if logprobs is None else list(logprobs[:length])
    )


class _RowBudgets(StoppingCriteria):
    """Ends each row of a batch at a budget of its own."""

    def __init__(self, prompt_width: int, budgets: torch.Tensor) -> None:
        self.lengths = prompt_width + budgets  # (B,)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return input_ids.size(1) >= self.lengths


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

    def __call__(self, prompt_ids: Sequence[list[int]], max_new_tokens: Sequence[int]) -> list[GeneratedTurn]:
        """
        Generates one turn for each prompt, in order.

        Args:
            prompt_ids (`Sequence[list[int]]`):
                Unpadded ids.
            max_new_tokens (`Sequence[int]`):
                The turn's length budget, one per prompt.

        Returns:
            `list[GeneratedTurn]`: one per prompt.
        """
        size = self.batch_size or len(prompt_ids)
        turns: list[GeneratedTurn] = []
        for start in range(0, len(prompt_ids), size):
            rows = slice(start, start + size)
            turns += self._generate_batch(prompt_ids[rows], max_new_tokens[rows])
        return turns

    @torch.no_grad()
    def _generate_batch(self, prompt_ids: Sequence[list[int]], budgets: Sequence[int]) -> list[GeneratedTurn]:
        width = max(len(ids) for ids in prompt_ids)
        padded = [[self.pad_token_id] * (width - len(ids)) + list(ids) for ids in prompt_ids]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids]
        config = GenerationConfig(
            **self.config_kwargs,
            max_new_tokens=max(budgets),
            eos_token_id=self.stop_ids,
            pad_token_id=self.pad_token_id,
            disable_compile=True,
        )
        output = self.model.generate(
            input_ids=torch.tensor(padded, device=self.model.device),
            attention_mask=torch.tensor(mask, device=self.model.device),
            generation_config=config,
            stopping_criteria=self._row_budgets(width, budgets),
        )
        stop_ids = frozenset(self.stop_ids)
        rows = output[:, width:].tolist()
        return [cut_at_stop(ids, stop_ids, budget) for ids, budget in zip(rows, budgets, strict=True)]

    def _row_budgets(self, width: int, budgets: Sequence[int]) -> StoppingCriteriaList:
        if len(set(budgets)) == 1:  # `max_new_tokens` says it already
            return StoppingCriteriaList()
        return StoppingCriteriaList([_RowBudgets(width, torch.tensor(budgets, device=self.model.device))])


class ContinuousBatchingEngine:
    """
    Generates turns with transformers' continuous batching (`model.generate_batch`): no padding, paged attention.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The policy, unwrapped.
        stop_ids (`Sequence[int]`):
            Ids that end a turn.
        do_sample (`bool`):
            Whether to sample; greedy otherwise.
        generation_config ([`~transformers.GenerationConfig`]):
            How the trainer samples.
        batching_config ([`~transformers.generation.ContinuousBatchingConfig`]):
            Blocks of the cache, tokens of a batch.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        stop_ids: Sequence[int],
        do_sample: bool,
        generation_config: GenerationConfig,
        batching_config: Any,
    ) -> None:
        self.model = model
        self.stop_ids = list(stop_ids)
        self.config = deepcopy(generation_config)
        self.config.update(**decoding_kwargs(do_sample, {}), eos_token_id=self.stop_ids)
        self.batching_config = batching_config

    def __call__(self, prompt_ids: Sequence[list[int]], max_new_tokens: Sequence[int]) -> list[GeneratedTurn]:
        """
        Generates one turn for each prompt, in order.

        All rows are generated up to the largest budget, and those with a smaller one are cut.

        Args:
            prompt_ids (`Sequence[list[int]]`):
                Unpadded ids.
            max_new_tokens (`Sequence[int]`):
                The turn's length budget, one per prompt.

        Returns:
            `list[GeneratedTurn]`: one per prompt.
        """
        config = deepcopy(self.config)
        config.update(max_new_tokens=max(max_new_tokens))
        was_training = self.model.training
        with torch.no_grad():
            outputs = self.model.generate_batch(
                list(prompt_ids),
                generation_config=config,
                continuous_batching_config=self.batching_config,
                progress_bar=False,
            )
        self.model.train(was_training)
        stop_ids = frozenset(self.stop_ids)
        return [
            cut_at_stop(output.generated_tokens, stop_ids, budget)
            for output, budget in zip(outputs.values(), max_new_tokens, strict=True)
        ]


class VLLMBackend(Protocol):
    """
    What is used of TRL's [`~trl.generation.vllm_generation.VLLMGeneration`].

    `temperature`, `top_p`, `top_k`, `min_p`, `max_completion_length` and `generation_kwargs` are attributes that
    `generate` reads at each call.
    """

    temperature: float

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, Any, Any, Any]:
        """
        Generates `num_generations` completions for each prompt.

        Returns:
            `tuple`: prompt ids, completion ids, log-probabilities `(rows, tokens, 1)`, and whose they are.
        """
        ...


class VLLMEngine:
    """
    Generates turns with vLLM, through TRL's object for it, with the log-probabilities that vLLM sampled with.

    One call of vLLM per turn. A turn's prompt begins with all that stood before it, token for token, so vLLM finds the
    blocks of prompt and turn 1 in its prefix cache when it writes turn 2.

    Args:
        backend ([`VLLMBackend`]):
            TRL's `trainer.vllm_generation`, its weights in place.
        stop_ids (`Sequence[int]`):
            Ids that end a turn.
        do_sample (`bool`):
            Whether to sample as the backend is set; greedy otherwise.
        largest (`Callable`, *optional*):
            Where processes generate together: `(number of prompts, budget) -> the largest of each over all of them`. A
            vLLM server and tensor parallelism take as many prompts from each process, and one budget for all.
    """

    def __init__(
        self,
        backend: VLLMBackend,
        *,
        stop_ids: Sequence[int],
        do_sample: bool,
        largest: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> None:
        self.backend = backend
        self.stop_ids = list(stop_ids)
        self.do_sample = do_sample
        self.largest = largest

    def __call__(self, prompt_ids: Sequence[list[int]], max_new_tokens: Sequence[int]) -> list[GeneratedTurn]:
        """
        Generates one turn for each prompt, in order.

        All rows are generated up to the largest budget, and those with a smaller one are cut.

        Args:
            prompt_ids (`Sequence[list[int]]`):
                Unpadded ids.
            max_new_tokens (`Sequence[int]`):
                The turn's length budget, one per prompt.

        Returns:
            `list[GeneratedTurn]`: one per prompt, with log-probabilities. They are those of the policy at the training
                temperature; where a greedy turn has none of that kind, each is `None`.
        """
        num_prompts = len(prompt_ids)
        num_rows, budget = num_prompts, max(max_new_tokens)
        if self.largest is not None:
            num_rows, budget = self.largest(num_rows, budget)
        # Copies, so that every process brings as many; what is generated for them is dropped.
        filling = [prompt_ids[0]] * (num_rows - num_prompts)
        can_compare = self.do_sample or self.backend.temperature == 1.0
        with self._settings(budget):
            _, rows, logprobs, _ = self.backend.generate(
                prompts=[list(ids) for ids in (*prompt_ids, *filling)], images=None, num_generations=1
            )
        stop_ids = frozenset(self.stop_ids)
        turns = []
        for ids, tokens, row_budget in zip(rows[:num_prompts], logprobs[:num_prompts], max_new_tokens, strict=True):
            sampled = [token[0] if can_compare else None for token in tokens]
            turns.append(cut_at_stop(ids, stop_ids, row_budget, sampled))
        return turns

    @contextmanager
    def _settings(self, budget: int) -> Iterator[None]:
        """The backend's settings of one call, put back afterwards."""
        attributes = vars(self.backend)
        kwargs = attributes["generation_kwargs"]
        own: dict[str, Any] = {"max_completion_length": budget}
        if not self.do_sample:
            own |= {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
            kwargs = {name: value for name, value in kwargs.items() if name not in _SHAPING}
        # vLLM stops at what the model's own settings call an end; the template's end of turn need not be among them.
        own["generation_kwargs"] = {**kwargs, "stop_token_ids": self.stop_ids}
        before = {name: attributes[name] for name in own}
        attributes.update(own)
        try:
            yield
        finally:
            attributes.update(before)


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
    kept = {name: value for name, value in sampling_kwargs.items() if name not in _SHAPING}
    return {**kept, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "do_sample": False}
