"""
A model in memory that answers in an evaluation: it takes rows and gives all of their turns.

Second step of an evaluation, between the settings and the rewards. `endpoint` has the other respondent.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from trl_score.evaluation.settings import EvaluationSettings
from trl_score.evaluation.turns import AnsweredTurn, Rows
from trl_score.records import CORRECTION_COLUMN, GeneratedTurn, Message
from trl_score.score.engines import TransformersEngine
from trl_score.score.prompts import (
    Correction,
    audit_template,
    is_conversational_prompt,
    text_correction,
    tokenize_prompts,
)
from trl_score.score.rollout import TimedTurns, roll_out_turns

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Whatever the model's own generation config says: as in training, the policy itself is what is measured.
_PLAIN_SAMPLING: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}

_WEIGHTS_HASHED = 256  # of each tensor, evenly spread


class LocalRespondent:
    """
    A model in memory that answers rows.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, on its device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        settings ([`EvaluationSettings`]):
            How it is asked.
        dataset ([`~datasets.Dataset`]):
            All rows, whose requests are tried on the chat template now, rather than in the middle of a run.
        name (`str`, *optional*):
            What the model is called, where an evaluation is kept.

    Raises:
        `ValueError`: If the chat template cannot be continued, or the tokenizer has no token to pad with.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        settings: EvaluationSettings,
        dataset: "Dataset",
        *,
        name: str | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self._is_chat = is_conversational_prompt(dataset[0]["prompt"])
        self._corrections: dict[str, Correction] = {}
        self._has_warned = False
        own_prompts = dataset[CORRECTION_COLUMN] if CORRECTION_COLUMN in dataset.column_names else []
        for prompt in own_prompts:
            if prompt is not None:
                self.correction(prompt)
        closing_ids = self.correction(settings.correction_prompt).closing_ids
        self._engine = TransformersEngine(
            model,
            stop_ids=stop_ids(model, tokenizer, closing_ids),
            pad_token_id=_pad_token_id(tokenizer),
            do_sample=settings.do_sample,
            sampling_kwargs={"temperature": settings.temperature, **_PLAIN_SAMPLING},
        )

    @property
    def identity(self) -> dict[str, Any]:
        """`dict`: The model's name, if it was given one, and a hash of its weights."""
        name = {} if self.name is None else {"model": self.name}
        return {**name, "weights": hash_weights(self.model)}

    def answer(self, rows: Rows, *, sample: int, seed: int) -> list[AnsweredTurn]:
        """
        Lets the model answer some rows. The global random state, and the model's mode, are left as they were.

        Args:
            rows (`dict[str, list]`):
                The rows.
            sample (`int`):
                Which sample of them, from 0.
            seed (`int`):
                Of all that is drawn.

        Returns:
            `list[AnsweredTurn]`: the turns, each of all rows.
        """
        return [self.decode(turns) for turns in self.roll_out(rows, sample=sample, seed=seed).turns]

    def roll_out(self, rows: Rows, *, sample: int, seed: int) -> TimedTurns:
        """
        The same as `answer`, as tokens, with what stands between the turns.

        Args:
            rows (`dict[str, list]`):
                The rows.
            sample (`int`):
                Which sample of them, from 0.
            seed (`int`):
                Of all that is drawn.

        Returns:
            [`~trl_score.score.rollout.TimedTurns`]: the turns, each of all rows.
        """
        given = self.settings.given_first_turns(rows, sample)
        prompt_ids = self.tokenize(rows)
        with torch.random.fork_rng(), _evaluation_mode(self.model):
            torch.manual_seed(seed)
            timed = roll_out_turns(
                prompt_ids,
                self.requests(rows),
                self._engine,
                self.settings.row_budgets(rows),
                offline_turns_1=[self._encode(text) for text in given],
            )
        self._warn_beyond_context(prompt_ids, timed)
        return timed

    def tokenize(self, rows: Rows) -> list[list[int]]:
        """Gives each row's prompt as ids, which end where turn 1 begins."""
        return tokenize_prompts(rows["prompt"], self.tokenizer, self.settings.chat_template_kwargs)

    def requests(self, rows: Rows) -> list[list[Correction]]:
        """Gives what stands before turn 2, turn 3, and so on: one for each row."""
        corrections = [self.correction(prompt) for prompt in self.settings.row_correction_prompts(rows)]
        return [corrections] * (self.settings.num_turns - 1)

    def _warn_beyond_context(self, prompt_ids: Sequence[list[int]], timed: TimedTurns) -> None:
        """Once: a model that goes on beyond what it was made for writes nonsense, and does not say so."""
        context = self.model.config.get_text_config().to_dict().get("max_position_embeddings")
        steps = [prompt_ids, *([turn.token_ids for turn in turns] for turns in timed.turns), *timed.correction_ids]
        longest = max(sum(map(len, parts)) for parts in zip(*steps, strict=True))
        if context and longest > context and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "A conversation of %d tokens is longer than the model's context of %d: what it writes there does not "
                "count for much. Ask for fewer or shorter turns.",
                longest,
                context,
            )

    def correction(self, prompt: "str | list[Message]") -> Correction:
        """Gives what stands between two turns where a prompt is asked."""
        key = json.dumps(prompt)
        if key not in self._corrections:
            self._corrections[key] = (
                audit_template(prompt, self.tokenizer, self.settings.chat_template_kwargs)
                if self._is_chat
                else text_correction(prompt, self.tokenizer)
            )
        return self._corrections[key]

    def _encode(self, text: str | None) -> list[int] | None:
        return None if text is None else self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, turns: Sequence[GeneratedTurn]) -> AnsweredTurn:
        """Gives one turn of each row as text too."""
        ids = [turn.token_ids for turn in turns]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return AnsweredTurn(texts, [turn.truncated for turn in turns], ids)


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


def hash_weights(model: "torch.nn.Module") -> str:
    """
    Tells a model from another, and from itself after a step of training, by some weights of each of its tensors.

    Args:
        model (`torch.nn.Module`):
            The model, whole on its device.

    Returns:
        `str`: the first sixteen digits of a hash, in hexadecimal. It does not depend on the device, nor on whether
            weights that were saved in bf16 are loaded in bf16 or in fp32.

    Example:

    ```python
    >>> first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> hash_weights(first) == hash_weights(second)
    False
    >>> _ = second.load_state_dict(first.state_dict())
    >>> hash_weights(first) == hash_weights(second)
    True

    ```
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        some = flat[:: max(1, flat.numel() // _WEIGHTS_HASHED)].to(torch.float32).cpu()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def _pad_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad is None:
        raise ValueError("The tokenizer has neither a pad token nor an end token, got None for both. Set one.")
    return int(pad)


@contextmanager
def _evaluation_mode(model: "PreTrainedModel") -> Iterator[None]:
    """Without dropout, and back to what it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
