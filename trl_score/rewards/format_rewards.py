r"""Rewards for the form of a completion: its answer in a box, its program in one code block."""

import re
from collections.abc import Sequence
from typing import Any

from trl_score.rewards.answer_text import NoAnswer, completion_text, extract_boxed_answer

_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)


def boxed_format_reward(completions: Sequence[str | list[dict[str, Any]]], **columns: Any) -> list[float | None]:
    r"""
    Rewards a completion whose last box is closed and not empty, whatever is in it.

    Args:
        completions (`list`):
            Plain texts or lists of chat messages.
        columns:
            TRL's other arguments, unused.

    Returns:
        `list[float]`: 1.0 or 0.0.

    Example:

    ```python
    >>> boxed_format_reward([r"\boxed{4}", r"\boxed{4", "4"])
    [1.0, 0.0, 0.0]

    ```
    """
    return [float(_has_box(completion_text(completion))) for completion in completions]


def _has_box(text: str) -> bool:
    try:
        extract_boxed_answer(text)
    except NoAnswer:
        return False
    return True


def code_block_format_reward(completions: Sequence[str | list[dict[str, Any]]], **columns: Any) -> list[float | None]:
    r"""
    Rewards a completion with exactly one fenced code block, closed.

    Args:
        completions (`list`):
            Plain texts or lists of chat messages.
        columns:
            TRL's other arguments, unused.

    Returns:
        `list[float]`: 1.0 or 0.0.

    Example:

    ```python
    >>> code_block_format_reward(["```python\nx = 1\n```", "x = 1", "```\na\n```\n```\nb\n```"])
    [1.0, 0.0, 0.0]

    ```
    """
    return [float(len(_FENCE.findall(completion_text(completion))) == 2) for completion in completions]
