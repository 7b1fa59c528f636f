"""Which words differ between two turns, so that a person sees at a glance what the second one changed."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rapidfuzz.distance import Indel

_WORD = re.compile(r"\s+|\w+|[^\w\s]")


class Segment(NamedTuple):
    """
    A piece of a turn.

    Args:
        text (`str`):
            The piece. All pieces together are the turn.
        is_changed (`bool`):
            Whether the other turn lacks it.
    """

    text: str
    is_changed: bool


def changed_words(text_t1: str, text_t2: str) -> tuple[list[Segment], list[Segment]]:
    """
    Mark what turn 2 took out of turn 1, and what it put in, in the fewest words.

    A word is a run of letters and digits; marks of punctuation and runs of white space stand for themselves.

    Args:
        text_t1 (`str`):
            Turn 1.
        text_t2 (`str`):
            Turn 2.

    Returns:
        `tuple[list[Segment], list[Segment]]`: The pieces of turn 1 and those of turn 2.

    Example:
        >>> first, second = changed_words("It is 41.", "It is 42.")
        >>> [segment.text for segment in first if segment.is_changed]
        ['41']
        >>> second
        [Segment(text='It is ', is_changed=False), Segment(text='42', is_changed=True), Segment(text='.',
        is_changed=False)]
    """
    words_t1, words_t2 = _WORD.findall(text_t1), _WORD.findall(text_t2)
    first: list[Segment] = []
    second: list[Segment] = []
    for step in Indel.opcodes(words_t1, words_t2):
        is_changed = step.tag != "equal"
        _append(first, "".join(words_t1[step.src_start : step.src_end]), is_changed)
        _append(second, "".join(words_t2[step.dest_start : step.dest_end]), is_changed)
    return first, second


def mark_turns(turns: Sequence[str]) -> list[list[Segment]]:
    """
    Mark in any number of turns what changed: in turn 1 what turn 2 takes out of it, in every other one what it puts
    into the one before.

    Args:
        turns (`Sequence[str]`):
            The text of each turn.

    Returns:
        `list[list[Segment]]`: The pieces of each turn. A single turn has no marks.

    Example:
        >>> [[segment.text for segment in turn if segment.is_changed] for turn in mark_turns(["1 2", "1 3", "4 3"])]
        [['2'], ['3'], ['4']]
    """
    if len(turns) == 1:
        return [[Segment(turns[0], is_changed=False)]]
    pairs = [changed_words(before, after) for before, after in pairwise(turns)]
    return [pairs[0][0], *(after for _, after in pairs)]


def _append(segments: list[Segment], text: str, is_changed: bool) -> None:
    if segments and segments[-1].is_changed is is_changed:
        text = segments.pop().text + text
    if text:
        segments.append(Segment(text, is_changed))
