"""
The embedded task: an adder with a two-digit display, which must say the total before it has worked it out.

First in the flow: makes problems, their columns and their reward, and knows where the shipped base model is.

A problem adds two or four two-digit numbers, and only the last two digits of a sum are shown: the display wraps at 100.
The answer is the total, and after it the running totals that lead to it:

    47+86=?        33 33            133 -> 33
    47+86+25+60=?  18 33 58 18      133 -> 33, 158 -> 58, 218 -> 18

The shipped model adds two numbers in one pass, so each running total is within its reach once it has said the one
before. Four in one pass it cannot be sure of: there the total, which comes first, is right nine times in ten when
greedy and half of the time when sampled, and the working behind it is right. Turn 2 can read the total off the end of
turn 1. Checking is easier than making, for a model that looks.

Sums wrap because otherwise attention, which averages, adds any number of addends at once, and turn 1 makes no mistakes.

Not covered: mistakes in the working. The base makes (nearly) none, so turn 2 learns to read, not to calculate anew.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from trl_score.records import Completion
from trl_score.rewards.answer_text import completion_text

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

Split: TypeAlias = Literal["train", "eval"]

CORRECTION_PROMPT = "check it"
"""What the user says between the turns. The base model was trained on this wording and knows no other."""

MAX_COMPLETION_LENGTH = 12
"""Tokens of the longest answer, four totals of two digits and three spaces, with its end token."""

EASY_ADDENDS = 2
"""Addends of a problem that one pass can solve."""

HARD_ADDENDS = 4
"""Addends of a problem of whose total one pass cannot be sure."""

HARD_SHARE = 0.4
"""Share of problems with four addends: 1 - 0.4 is the accuracy of a first turn that solves all the others."""

MAX_EVAL_PROBLEMS = 2_000
"""There are about 2,500 held-out problems with two addends; evaluation problems never repeat."""

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")

CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz +=?."

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<' + message['role'] + '>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
)

_DISPLAY = 100
_EVAL_ONE_IN = 4


@dataclass(frozen=True)
class AdderProblem:
    """
    Two-digit numbers to add.

    Args:
        addends (`tuple[int, ...]`):
            Two or more numbers from 0 to 99.

    Example:

    ```python
    >>> problem = AdderProblem((47, 86, 25, 60))
    >>> problem.question, problem.answer
    ('47+86+25+60=?', '18 33 58 18')

    ```
    """

    addends: tuple[int, ...]

    @property
    def question(self) -> str:
        """`str`: What the user asks."""
        return "+".join(f"{addend:02d}" for addend in self.addends) + "=?"

    @property
    def answer(self) -> str:
        """`str`: The only right answer: the total, then the running totals, each modulo 100."""
        running = [total % _DISPLAY for total in accumulate(self.addends)][1:]
        return " ".join(f"{total:02d}" for total in (running[-1], *running))

    @property
    def split(self) -> Split:
        """`str`: `"train"` or `"eval"`, fixed by the addends alone.

        Their order does not matter, so that no problem of one split is a rearranged problem of the other.
        """
        checksum = hashlib.sha256(bytes(sorted(self.addends))).digest()[0]
        return "eval" if checksum % _EVAL_ONE_IN == 0 else "train"


def make_problems(n: int, *, seed: int, split: Split = "train", hard_share: float = HARD_SHARE) -> list[AdderProblem]:
    """
    Draws problems of one split.

    Args:
        n (`int`):
            How many.
        seed (`int`):
            Of the draw; the same numbers give the same problems on every machine.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, or `"eval"` for problems that are never in the training split. The latter do not repeat.
        hard_share (`float`, *optional*, defaults to `0.4`):
            Chance of four addends; the others have two.

    Returns:
        `list[AdderProblem]`: the problems.

    Raises:
        `ValueError`: If `split` is unknown, `hard_share` is not from 0 to 1, `n` is negative, or more evaluation
            problems are asked for than there are.

    Example:

    ```python
    >>> [problem.question for problem in make_problems(2, seed=0, split="eval")]
    ['93+81+06+44=?', '14+28=?']

    ```
    """
    _check_request(n, split, hard_share)
    rng = random.Random(f"{split} {seed}")
    problems: list[AdderProblem] = []
    taken: set[AdderProblem] = set()
    for _ in range(n):
        num_addends = HARD_ADDENDS if rng.random() < hard_share else EASY_ADDENDS
        problem = _draw(rng, num_addends, split, taken)
        problems.append(problem)
        if split == "eval":
            taken.add(problem)
    return problems


def _check_request(n: int, split: str, hard_share: float) -> None:
    if split not in ("train", "eval"):
        raise ValueError(f"Expected `split` to be 'train' or 'eval', got {split!r}.")
    if not 0 <= hard_share <= 1:
        raise ValueError(f"Expected `hard_share` to be from 0 to 1, got {hard_share}.")
    if n < 0 or (split == "eval" and n > MAX_EVAL_PROBLEMS):
        raise ValueError(
            f"Expected `n` to be 0 or more, and at most {MAX_EVAL_PROBLEMS} for split 'eval', whose problems do not "
            f"repeat; got {n} for split {split!r}. Ask for fewer."
        )


def _draw(rng: random.Random, num_addends: int, split: Split, taken: set[AdderProblem]) -> AdderProblem:
    """Draws until a problem falls into the split and is not taken."""
    while True:
        problem = AdderProblem(tuple(rng.randrange(_DISPLAY) for _ in range(num_addends)))
        if problem.split == split and problem not in taken:
            return problem


def adder_dataset(n: int, *, seed: int, split: Split = "train") -> "Dataset":
    """
    Makes problems into the columns that TRL reads.

    Args:
        n (`int`):
            How many problems.
        seed (`int`):
            Of the draw.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"eval"`, which have no problem in common.

    Returns:
        [`~datasets.Dataset`]: with the columns `prompt` (one user message) and `solution` (the right answer's text).

    Raises:
        `ValueError`: As [`make_problems`].

    Example:

    ```python
    >>> adder_dataset(8, seed=0).column_names
    ['prompt', 'solution']

    ```
    """
    from datasets import Dataset

    problems = make_problems(n, seed=seed, split=split)
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": problem.question}] for problem in problems],
            "solution": [problem.answer for problem in problems],
        }
    )


def adder_reward(completions: Sequence[Completion], solution: Sequence[str], **kwargs: Any) -> list[float]:
    """
    Pays 1 for the right answer, total and working, and 0 for any other text.

    Args:
        completions (`list[str]` or `list[list[dict]]`):
            One turn's answers, plain or as chat messages.
        solution (`list[str]`):
            The right answers, a column of [`adder_dataset`].
        **kwargs:
            Other columns, not used.

    Returns:
        `list[float]`: 1.0 or 0.0 for each answer.

    Raises:
        `TypeError`: If a completion is neither text nor messages.

    Example:

    ```python
    >>> adder_reward(["33 33", "34 33"], solution=["33 33", "33 33"])
    [1.0, 0.0]

    ```
    """
    texts = map(completion_text, completions)
    return [float(text == right) for text, right in zip(texts, solution, strict=True)]


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """
    Builds the adder's tokenizer: a token for each character, one for each role, and a chat template.

    A message is its role's token, its text and `<eos>`, so that rendering more messages only ever appends.

    Returns:
        [`~transformers.PreTrainedTokenizerFast`]: the tokenizer.

    Example:

    ```python
    >>> tokenizer = build_tokenizer()
    >>> messages = [{"role": "user", "content": "check it"}]
    >>> tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    '<user>check it<eos><assistant>'

    ```
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *CHARACTERS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def adder_base_path() -> Path:
    """
    Finds the base model that is shipped with the package: weights, tokenizer and chat template.

    `examples/build_adder_base.py` made it. It solves problems with two addends, guesses the total of four, and on turn
    2 copies its answer when greedy.

    Returns:
        `Path`: a folder that `from_pretrained` loads.

    Example:

    ```python
    >>> (adder_base_path() / "config.json").is_file()
    True

    ```
    """
    return Path(str(files("trl_score.data") / "adder_base"))
