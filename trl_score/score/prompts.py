"""The correction prompt, and how it joins turn 1 to turn 2 token for token.

Tokens in, tokens out: turn 2 continues the very ids that turn 1 consists of, nothing is decoded and encoded again. So
all that is needed from a chat template is the text that it puts between an assistant message and the header of the
next one. `audit_template` reads that text off the template once, at start-up, and refuses a template that has none.

Torch-free: tokenizers come in as arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from trl_score.records import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_CORRECTION_PROMPT = (
    "Look at your answer again: it may or may not hold a mistake. Go through it step by step, put right whatever is "
    "wrong, and then write out the complete final answer once more, in the same form as before."
)
"""Our own wording. Like the paper's, it never says whether turn 1 was right."""

# Stand-ins for the conversation in which a template is read. Plain words, so that no template trims or escapes them.
_PROBE_QUESTIONS = ("probe question one", "another probe question")
_PROBE_ANSWERS = ("PROBEANSWERONE", "PROBEANSWERTWO")


@dataclass(frozen=True)
class Correction:
    """
    The tokens between the two turns.

    Args:
        closing_ids (`list[int]`):
            What ends turn 1 in the template, usually one end-of-turn token. It is left out where the model wrote it
            itself, and put in where turn 1 was cut by its length budget or ended in another way.
        request_ids (`list[int]`):
            The rest: the correction prompt in its chat frame, and the header of turn 2.

    Example:

    ```python
    >>> correction = Correction(closing_ids=[9], request_ids=[7, 8])
    >>> correction.after([3, 9]), correction.after([3, 4])
    ([7, 8], [9, 7, 8])

    ```
    """

    closing_ids: list[int]
    request_ids: list[int]

    def after(self, turn_1_ids: Sequence[int]) -> list[int]:
        """
        Gives the ids to put after a certain turn 1.

        Args:
            turn_1_ids (`Sequence[int]`):
                The first turn as it was generated.

        Returns:
            `list[int]`: the request, preceded by the closing tokens unless turn 1 ends with them.
        """
        is_closed = bool(self.closing_ids) and bool(turn_1_ids) and turn_1_ids[-1] == self.closing_ids[-1]
        return list(self.request_ids) if is_closed else [*self.closing_ids, *self.request_ids]

    def __len__(self) -> int:
        """`int`: The most tokens that the correction can take."""
        return len(self.closing_ids) + len(self.request_ids)


def as_correction_messages(correction_prompt: str | list[Message]) -> list[Message]:
    """
    Brings a correction prompt into the form of chat messages.

    Args:
        correction_prompt (`str` or `list[dict]`):
            One user message's text, or the messages themselves.

    Returns:
        `list[dict]`: the messages that stand between turn 1 and turn 2.

    Raises:
        `ValueError`: If the prompt is empty, or a message lacks a role or a content, or is the assistant's.

    Example:

    ```python
    >>> as_correction_messages("Check it.")
    [{'role': 'user', 'content': 'Check it.'}]

    ```
    """
    messages = (
        [{"role": "user", "content": correction_prompt}] if isinstance(correction_prompt, str) else correction_prompt
    )
    if not messages:
        raise ValueError("`correction_prompt` must hold at least one message, got []. Leave it out for the default.")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"`correction_prompt` must hold messages with a 'role' and a 'content', got {message!r}.")
        if message["role"] == "assistant":
            raise ValueError(
                "`correction_prompt` stands between two assistant turns, so no message of it may be the assistant's."
            )
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise ValueError(
                f"`correction_prompt` must not be empty, got {message.get('content')!r}: with no request to look again "
                "there is no second turn. Leave it out for the default wording."
            )
    return [dict(message) for message in messages]


def is_conversational_prompt(prompt: Prompt) -> bool:
    """
    Tells a chat prompt from a plain-text one, as TRL does: by its type.

    Args:
        prompt (`str` or `list[dict]`):
            A row's prompt.

    Returns:
        `bool`: whether it is a list of messages.

    Example:

    ```python
    >>> is_conversational_prompt([{"role": "user", "content": "2+2?"}]), is_conversational_prompt("2+2=")
    (True, False)

    ```
    """
    return not isinstance(prompt, str)


def tokenize_prompts(
    prompts: Sequence[Prompt], tokenizer: "PreTrainedTokenizerBase", template_kwargs: dict[str, Any] | None = None
) -> list[list[int]]:
    """
    Turns prompts into ids that end where turn 1 begins.

    Args:
        prompts (`Sequence`):
            Chat prompts (rendered with the tokenizer's template and the assistant's header) or plain texts (with the
            tokenizer's own special tokens), not both.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.

    Returns:
        `list[list[int]]`: one list of ids per prompt, unpadded.

    Raises:
        `ValueError`: If plain and chat prompts are mixed.
    """
    is_chat = is_conversational_prompt(prompts[0])
    for index, prompt in enumerate(prompts):
        if is_conversational_prompt(prompt) != is_chat:
            raise ValueError(
                f"All prompts of a batch must be of one kind, got prompt 0 of type {type(prompts[0]).__name__} and "
                f"prompt {index} of type {type(prompt).__name__}. Bring the `prompt` column into one form."
            )
    if is_chat:
        encoded = tokenizer.apply_chat_template(
            cast(Any, list(prompts)),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **(template_kwargs or {}),
        )
        return cast(list[list[int]], encoded["input_ids"])
    return cast(list[list[int]], tokenizer(text=cast(Any, list(prompts)))["input_ids"])


def text_correction(correction_prompt: str | list[Message], tokenizer: "PreTrainedTokenizerBase") -> Correction:
    r"""
    The correction for plain-text prompts, which have no chat frame: two line breaks, the prompt, two line breaks.

    Args:
        correction_prompt (`str` or `list[dict]`):
            The request; of messages, the contents are joined by line breaks.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer. Its end-of-sequence token closes turn 1.

    Returns:
        `Correction`: the tokens between the turns.

    Raises:
        `ValueError`: If the correction prompt is empty, see `as_correction_messages`.
    """
    text = "\n".join(message["content"] for message in as_correction_messages(correction_prompt))
    request_ids = tokenizer.encode(f"\n\n{text}\n\n", add_special_tokens=False)
    return Correction([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], request_ids)


def audit_template(
    correction_prompt: str | list[Message],
    tokenizer: "PreTrainedTokenizerBase",
    template_kwargs: dict[str, Any] | None = None,
) -> Correction:
    """
    Reads off a chat template what stands between turn 1 and turn 2.

    Renders [question, answer, correction messages] with the header of the next answer, and takes all that follows the
    answer. Done with two different questions and answers, because what stands there must not depend on them.

    Templates that add a line break after the end-of-turn token work, and so do those that drop `<think>` blocks from
    earlier turns: turn 2 sees the tokens that the policy wrote, whatever the template would make of them.

    Args:
        correction_prompt (`str` or `list[dict]`):
            The request to look again.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer with its chat template.
        template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.

    Returns:
        `Correction`: the tokens between the turns.

    Raises:
        `ValueError`: If the template is missing, cannot render the conversation, drops or repeats the answer, or puts
            something after it that depends on the conversation. The message says which.
    """
    messages = as_correction_messages(correction_prompt)
    if tokenizer.chat_template is None:
        raise ValueError(
            "The dataset's prompts are chat messages, but the tokenizer has no chat template. Set "
            "`tokenizer.chat_template`, use an instruction-tuned model, or pass plain-text prompts."
        )
    tails = [
        _text_after_answer(question, answer, messages, tokenizer, template_kwargs or {})
        for question, answer in zip(_PROBE_QUESTIONS, _PROBE_ANSWERS, strict=True)
    ]
    if tails[0] != tails[1]:
        raise ValueError(
            "This chat template cannot be continued with a second turn: what it writes after an assistant message "
            f"depends on the conversation ({tails[0]!r} against {tails[1]!r}). Use another chat template."
        )
    tail_ids = tokenizer.encode(tails[0], add_special_tokens=False)
    num_closing = _closing_length(tail_ids, tokenizer)
    return Correction(tail_ids[:num_closing], tail_ids[num_closing:])


def _text_after_answer(
    question: str,
    answer: str,
    correction_messages: list[Message],
    tokenizer: "PreTrainedTokenizerBase",
    template_kwargs: dict[str, Any],
) -> str:
    dialogue = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}, *correction_messages]
    # A template refuses a conversation through whatever its Jinja code raises, so its own error becomes the cause.
    import jinja2

    try:
        text = tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True, **template_kwargs)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        roles = [message["role"] for message in dialogue]
        raise ValueError(
            f"This chat template cannot be continued with a second turn: it refuses a conversation with the roles "
            f"{roles} ({error}). Use roles that it knows in `correction_prompt`, or another chat template."
        ) from error
    parts = cast(str, text).split(answer)
    if len(parts) != 2:
        raise ValueError(
            "This chat template cannot be continued with a second turn: it writes the first answer "
            f"{len(parts) - 1} times into the conversation, once was expected. Use another chat template."
        )
    for message in correction_messages:
        if message["content"].strip() not in parts[1]:
            raise ValueError(
                "This chat template cannot be continued with a second turn: it does not write the correction prompt "
                f"{message['content']!r} after the first answer. Use another role in `correction_prompt`, or another "
                "chat template."
            )
    return parts[1]


def _closing_length(tail_ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> int:
    """How many of the first tail tokens close turn 1: up to the first special token, or none if there is none."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    for index, token_id in enumerate(tail_ids):
        if token_id in special:
            return index + 1
    return 0
