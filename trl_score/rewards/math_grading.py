r"""What runs in the worker process of [`MathReward`]: one gold, one answer, one verdict.

math-verify and sympy are loaded here and nowhere else. They judge what our own grammar does not read; what it reads, it
judges by itself, because math-verify rounds to six places (4.1e-7 is then 4.3e-7), ignores the case of letters, drops
primes, reads `1\,000` as 0, and computes sums that should have been left out of the box.
"""

import re
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from trl_score.rewards.answer_text import normalize_latex
from trl_score.rewards.latex_expressions import TooLarge
from trl_score.rewards.math_answers import Answer, Collection, Opaque, parse_answer
from trl_score.rewards.math_comparison import MathPolicy, same_answer

_EXTRACTION = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        try_extract_without_anchor=False,
        # Without malformed_operators \frac12 is not read; with units a trailing letter is dropped.
        normalization_config=NormalizationConfig(units=False, malformed_operators=True, boxed="last"),
    )
]
_MAX_LITERAL = 10_000
_LITERAL = re.compile(r"\d+")
_NAMES = re.compile(r"\\[A-Za-z]+|[A-Za-z]'*")
_COSMETIC = frozenset(("\\cdot", "\\times", "\\frac", "\\sqrt", "\\text"))
_NO_MEANING_TO_SYMPY = re.compile(
    r"'|\\(?:ldots|dots|cdots|cap|angle|triangle|approx|equiv|sim|binom)(?![A-Za-z])|!|\^\s*\{[^{}]*\^"
)

_TEXTUAL = re.compile(
    r"(?=.*[A-Za-z])(?:[A-Za-z0-9\s(){},.'_]|\\(?:cap|cup|subset|subseteq|parallel|perp|cong|sim|rightarrow|wedge|vee|neg)(?![A-Za-z]))*"
)
"""Notation that is only ever compared as text: events, sets by name, geometry."""


def warm_up() -> None:
    """Builds the tables of the LaTeX parser, so that the first answer does not pay for them."""
    _second_opinion("f(x)+1", "1+f(x)")


def grade(payload: dict[str, Any]) -> bool | None:
    r"""
    Grades one answer, or checks one gold.

    Args:
        payload (`dict`):
            `gold` (`str`), `policy` (the fields of [`MathPolicy`]) and `answer` (`str`, or `None` to check the gold).

    Returns:
        `bool`: whether the answer is right; for a gold, whether it can be read.

    Example:

    ```python
    >>> grade({"gold": r"\frac{1}{2}", "answer": "0.5", "policy": {}})
    True

    ```
    """
    policy = MathPolicy(**payload["policy"])
    if payload["answer"] is None:
        return is_readable(payload["gold"])
    return same_answer(payload["gold"], payload["answer"], policy, _second_opinion)


def is_readable(gold: str) -> bool:
    r"""
    Says whether a gold answer can be compared with anything but its own text.

    Args:
        gold (`str`):
            The answer, out of its box.

    Returns:
        `bool`: whether it is read by our grammar or by math-verify.

    Example:

    ```python
    >>> is_readable(r"2\sqrt{3}"), is_readable(r"\frac{1}{")
    (True, False)

    ```
    """
    try:
        answer = parse_answer(gold, strip_prose=False)
    except TooLarge:
        return False
    parts = answer.items if isinstance(answer, Collection) else (answer,)
    return all(not isinstance(part, Opaque) or _is_textual(part) or _is_sympy(part.text) for part in parts)


def _is_textual(part: Answer) -> bool:
    if not isinstance(part, Opaque) or _TEXTUAL.fullmatch(part.text) is None:
        return False
    return all(part.text.count(opener) == part.text.count(closer) for opener, closer in ("()", "{}"))


def _is_sympy(text: str) -> bool:
    return _is_safe(text) and bool(_sympy(text))


def _is_safe(text: str) -> bool:
    """Whether sympy may see it: no tower, no factorial, no large literal, nothing that math-verify is known to drop."""
    is_small = all(len(literal) < 6 and int(literal) <= _MAX_LITERAL for literal in _LITERAL.findall(text))
    return is_small and len(text) < 400 and _NO_MEANING_TO_SYMPY.search(text) is None


def _sympy(text: str) -> list[Any]:
    expressions: list[Any] = parse(f"\\boxed{{{text}}}", _EXTRACTION, fallback_mode="no_fallback", parsing_timeout=None)
    return expressions


def _second_opinion(gold: str, answer: str) -> bool:
    """math-verify's verdict, where both sides use the same letters: it ignores their case."""
    gold, answer = normalize_latex(gold), normalize_latex(answer)
    if not (_is_safe(gold) and _is_safe(answer)) or _letters(gold) != _letters(answer):
        return False
    return bool(verify(_sympy(gold), _sympy(answer), numeric_precision=50, timeout_seconds=None))


def _letters(text: str) -> set[str]:
    return set(_NAMES.findall(text)) - _COSMETIC
