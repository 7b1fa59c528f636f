"""
A trained model by hand: questions in, every turn out, in the manner of a pipeline of Transformers.

It answers with the code that evaluates (`trl_score.evaluation`), so what one sees here is what the tables count.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from datasets import Dataset
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

from trl_score.evaluation import load_model, load_tokenizer
from trl_score.evaluation.respondents import LocalRespondent
from trl_score.evaluation.settings import EvaluationSettings
from trl_score.plots.log_history import read_json
from trl_score.records import SCORE_CONFIG_FILE, Message, Prompt
from trl_score.score.answers import extract_answer
from trl_score.score.prompts import DEFAULT_CORRECTION_PROMPT

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CALL_OPTIONS = (
    "num_turns",
    "max_new_tokens",
    "do_sample",
    "temperature",
    "correction_prompt",
    "batch_size",
    "seed",
    "chat_template_kwargs",
)

DEFAULT_MAX_NEW_TOKENS = 512
"""Most tokens of a turn, where neither the caller nor the model's folder says."""


@dataclass(frozen=True)
class CorrectedAnswer:
    """
    What a model answered to one prompt, turn by turn.

    Args:
        prompt (`str` or `list[dict]`):
            What was asked, as the model got it.
        turns (`tuple[str, ...]`):
            The text of each turn.
        answers (`tuple[str, ...]`):
            The final answer of each turn: its last box, or the whole text.
        truncated (`tuple[bool, ...]`):
            Whether the length budget ended the turn.

    Example:

    ```python
    >>> corrected = CorrectedAnswer("2+2?", ("5", "4"), ("5", "4"), (False, False))
    >>> corrected.final_answer, corrected.is_changed
    ('4', True)

    ```
    """

    prompt: Prompt
    turns: tuple[str, ...]
    answers: tuple[str, ...]
    truncated: tuple[bool, ...]

    @property
    def final_answer(self) -> str:
        """`str`: The answer of the last turn."""
        return self.answers[-1]

    @property
    def is_changed(self) -> bool:
        """`bool`: Whether the last turn's answer is another than turn 1's."""
        return self.answers[0] != self.answers[-1]

    def as_dict(self) -> dict[str, Any]:
        """
        Gives the fields as JSON can hold them.

        Returns:
            `dict`: the fields, `final_answer` and `is_changed`.
        """
        return {**asdict(self), "final_answer": self.final_answer, "is_changed": self.is_changed}


class SelfCorrectionPipeline:
    """
    Lets a model answer, asks it to look again, and lets it answer again.

    Turn 2 continues the very tokens of turn 1. What is asked between the turns, how long they may be, and the arguments
    of the chat template are taken from the `score_config.json` that [`SCoReTrainer`] saves beside a model, unless they
    are said here.

    Args:
        model (`str`, `Path` or [`~transformers.PreTrainedModel`]):
            A folder or a name on the Hub, of a model or of an adapter; or a model in memory, on its device.
        tokenizer (`str`, `Path` or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            By default that of the model's folder. A model in memory needs one.
        num_turns (`int`, *optional*, defaults to `2`):
            Turns of each answer.
        max_new_tokens (`int` or `Sequence[int]`, *optional*):
            Most tokens of a turn, or of each turn. By default those of training, of which the last counts for all
            further turns, or else 512.
        do_sample (`bool`, *optional*, defaults to `False`):
            Whether to sample; greedy otherwise.
        temperature (`float`, *optional*, defaults to `1.0`):
            Of sampling.
        correction_prompt (`str` or `list[dict]`, *optional*):
            What is asked between the turns. By default what was asked in training, or else the package's own wording.
        batch_size (`int`, *optional*, defaults to `8`):
            Prompts that are answered together.
        seed (`int`, *optional*):
            Of sampling: the same seed, prompts and `batch_size` give the same answers, those of
            [`~trl_score.evaluation.evaluate_self_correction`]. By default each call draws anew from torch's global
            state.
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template. By default those of training, or else none.

    Raises:
        `OSError`: If the model cannot be found.
        `ValueError`: If an option is out of range, or there is no tokenizer.

    Example:

    ```python
    >>> from trl_score.data.adder import adder_base_path
    >>> pipe = SelfCorrectionPipeline(adder_base_path(), correction_prompt="check it", max_new_tokens=12)
    >>> pipe("47+86=?").turns
    ('33 33', '33 33')

    ```
    """

    def __init__(
        self,
        model: "str | Path | PreTrainedModel",
        tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
        *,
        num_turns: int = 2,
        max_new_tokens: int | Sequence[int] | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
        correction_prompt: "str | list[Message] | None" = None,
        batch_size: int = 8,
        seed: int | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        tokenizer = _name_of_tokenizer(model, tokenizer)
        trained_with = read_score_config(model) if isinstance(model, (str, Path)) else {}
        self.trained_budgets: list[int] = trained_with.get("max_completion_length", [DEFAULT_MAX_NEW_TOKENS])
        self.max_new_tokens = max_new_tokens
        self.seed = seed
        if chat_template_kwargs is None:
            chat_template_kwargs = trained_with.get("chat_template_kwargs") or {}
        # Wrong options are said before anything is loaded.
        self.settings = EvaluationSettings(
            max_completion_length=self._budgets(max_new_tokens, num_turns),
            num_turns=num_turns,
            correction_prompt=correction_prompt or trained_with.get("correction_prompt") or DEFAULT_CORRECTION_PROMPT,
            do_sample=do_sample,
            temperature=temperature,
            batch_size=batch_size,
            chat_template_kwargs=chat_template_kwargs,
        )
        self.tokenizer = load_tokenizer(str(tokenizer)) if isinstance(tokenizer, (str, Path)) else tokenizer
        self.model = load_model(str(model)) if isinstance(model, (str, Path)) else model

    @overload
    def __call__(self, inputs: str | list[Message], **options: Any) -> CorrectedAnswer: ...

    @overload
    def __call__(self, inputs: Iterable[Prompt], **options: Any) -> list[CorrectedAnswer]: ...

    def __call__(self, inputs: Prompt | Iterable[Prompt], **options: Any) -> CorrectedAnswer | list[CorrectedAnswer]:
        """
        Answers one prompt or several.

        Args:
            inputs (`str`, `list[dict]`, or several of them):
                A text is a question: a user's message where the tokenizer has a chat template, and text to be continued
                where it has none. A list of messages is a conversation.
            **options:
                For this call alone, any of `num_turns`, `max_new_tokens`, `do_sample`, `temperature`,
                `correction_prompt`, `batch_size`, `seed` and `chat_template_kwargs`.

        Returns:
            [`CorrectedAnswer`] or `list[CorrectedAnswer]`: one for a single prompt, else one for each in order.

        Raises:
            `TypeError`: If there is no such option, or a prompt is neither a text nor messages.
            `ValueError`: If a prompt is empty, an option is out of range, or the chat template cannot be continued.
        """
        settings = self._settings_of_call(options)
        prompts, is_single = self._read_inputs(inputs)
        answers = self._answer(prompts, settings) if prompts else []
        return answers[0] if is_single else answers

    def _answer(self, prompts: list[Prompt], settings: EvaluationSettings) -> list[CorrectedAnswer]:
        respondent = LocalRespondent(self.model, self.tokenizer, settings, Dataset.from_dict({"prompt": prompts[:1]}))
        answers: list[CorrectedAnswer] = []
        for number, start in enumerate(range(0, len(prompts), settings.batch_size)):
            batch = prompts[start : start + settings.batch_size]
            turns = respondent.answer({"prompt": batch}, sample=0, seed=settings.batch_seed(0, number))
            texts = zip(*(turn.texts for turn in turns), strict=True)
            truncated = zip(*(turn.truncated for turn in turns), strict=True)
            answers += [
                CorrectedAnswer(prompt, written, tuple(map(extract_answer, written)), is_cut)
                for prompt, written, is_cut in zip(batch, texts, truncated, strict=True)
            ]
        return answers

    def _settings_of_call(self, options: dict[str, Any]) -> EvaluationSettings:
        unknown = sorted(set(options) - set(_CALL_OPTIONS))
        if unknown:
            raise TypeError(f"Expected options among {list(_CALL_OPTIONS)}, got {unknown}.")
        num_turns = options.get("num_turns", self.settings.num_turns)
        budgets = self._budgets(options.pop("max_new_tokens", self.max_new_tokens), num_turns)
        seed = options.pop("seed", self.seed)
        settings = replace(self.settings, **options, max_completion_length=budgets, seed=seed or 0)
        if seed is None and settings.do_sample:
            settings = replace(settings, seed=int(torch.randint(2**31, ())))
        return settings

    def _budgets(self, max_new_tokens: int | Sequence[int] | None, num_turns: int) -> list[int]:
        if max_new_tokens is None:
            trained = self.trained_budgets
            return [*trained[:num_turns], *trained[-1:] * (num_turns - len(trained))]
        budgets = [max_new_tokens] * num_turns if isinstance(max_new_tokens, int) else list(max_new_tokens)
        if len(budgets) != num_turns or min(budgets, default=1) < 1:
            raise ValueError(
                f"`max_new_tokens` must be a number of tokens of at least 1, or one for each of {num_turns} turns, got "
                f"{max_new_tokens}."
            )
        return budgets

    def _read_inputs(self, inputs: Prompt | Iterable[Prompt]) -> tuple[list[Prompt], bool]:
        """The prompts, and whether a single one was given."""
        if isinstance(inputs, str):
            return [self._read_prompt(inputs)], True
        items = list(inputs)
        if items and isinstance(items[0], dict):
            return [self._read_prompt(items)], True
        return [self._read_prompt(item) for item in items], False

    def _read_prompt(self, prompt: Any) -> Prompt:
        if isinstance(prompt, str) and prompt.strip():
            return prompt if self.tokenizer.chat_template is None else [{"role": "user", "content": prompt}]
        if isinstance(prompt, list) and prompt and all(isinstance(message, dict) for message in prompt):
            return cast("list[Message]", prompt)
        if prompt in ("", []) or isinstance(prompt, str):
            raise ValueError(f"Expected a question, got {prompt!r}. Leave empty prompts out.")
        raise TypeError(f"Expected a text or a list of chat messages, got {prompt!r}.")


def read_score_config(path: str | Path) -> dict[str, Any]:
    """
    Reads what a model was trained with, from the `score_config.json` beside it.

    Args:
        path (`str` or `Path`):
            The folder of a model or an adapter, or its name on the Hub.

    Returns:
        `dict`: Among others `correction_prompt` and `max_completion_length`, the most tokens of each turn. Empty for a
        model that [`SCoReTrainer`] did not save.

    Raises:
        `ValueError`: If the file is cut off.

    Example:

    ```python
    >>> from trl_score.data.adder import adder_base_path
    >>> read_score_config(adder_base_path())
    {}

    ```
    """
    file = Path(path) / SCORE_CONFIG_FILE
    if not Path(path).is_dir():
        try:
            file = Path(hf_hub_download(str(path), SCORE_CONFIG_FILE))
        except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError):
            return {}  # whether the model itself is there is for its loader to say
    return cast("dict[str, Any]", read_json(file)) if file.is_file() else {}


def _name_of_tokenizer(model: Any, tokenizer: Any) -> Any:
    if tokenizer is not None:
        return tokenizer
    if not isinstance(model, (str, Path)):
        raise ValueError(
            f"Expected a tokenizer with a model in memory, got a {type(model).__name__} alone. Give `tokenizer`, or "
            "the model's folder or name."
        )
    return model
