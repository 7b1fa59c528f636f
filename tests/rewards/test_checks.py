"""check_reward_func finds what it says that it finds, and passes what is right."""

import itertools
import time
from typing import Any

import pytest

from trl_score.rewards import MathReward, boxed_format_reward, check_reward_func

EXAMPLES = [{"completion": "4", "solution": "4", "level": 1}, {"completion": "5", "solution": "4", "level": 2}]
_COUNTER = itertools.count()


def right(completions: list[str], solution: list[str], level: list[int], **columns: Any) -> list[float]:
    return [float(text == gold) / max(level) for text, gold in zip(completions, solution, strict=True)]


def returns_text(completions: list[str], **columns: Any) -> Any:
    return "11"


def returns_strings(completions: list[str], **columns: Any) -> Any:
    return ["1"] * len(completions)


def returns_nan(completions: list[str], **columns: Any) -> Any:
    return [float("nan")] * len(completions)


def returns_one(completions: list[str], **columns: Any) -> Any:
    return [1.0]


def misspelt(completions: list[str], soluton: Any = None, **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def changes(completions: list[str], **columns: Any) -> list[float]:
    return [float(next(_COUNTER)) for _ in completions]


def fails_on_empty(completions: list[str], **columns: Any) -> list[float]:
    return [float(text[0] == "4") for text in completions]


def needs_gold(completions: list[str], gold: list[str], **columns: Any) -> list[float]:
    return [1.0 for _ in completions]


def is_slow_on_long(completions: list[str], **columns: Any) -> list[float]:
    if any(len(text) > 100_000 for text in completions):
        time.sleep(1.1)
    return [float(text == "4") for text in completions]


@pytest.mark.parametrize(
    ("func", "problem"),
    [
        (returns_text, "returned str; it must return a list"),
        (returns_strings, "returned '1' of type str for row 0"),
        (returns_nan, "returned nan of type float for row 0"),
        (returns_one, "returned 1 rewards for 2 completions"),
        (changes, "is not deterministic"),
        (fails_on_empty, "raised IndexError on an empty text"),
        (needs_gold, "raised TypeError on the examples"),
        (lambda completions, **columns: [1.0 for _ in completions], "cannot be pickled"),
    ],
)
def test_problems(func: Any, problem: str) -> None:
    report = check_reward_func(func, EXAMPLES)
    assert not report.is_ok
    assert any(problem in found for found in report.problems), report.problems
    assert f"problem: {report.problems[0]}" in str(report)


def test_a_right_function_passes() -> None:
    report = check_reward_func(right, EXAMPLES)
    assert report.is_ok, str(report)
    assert report.name == "right"
    assert report.rewards == [0.5, 0.0]  # 1 / max(level) = 1 / 2
    assert report.seconds_per_sample > 0
    assert str(report).startswith("right: ok, rewards [0.5, 0.0]")


def test_unused_columns_are_noted() -> None:
    assert "does not use the columns ['level', 'solution']" in check_reward_func(misspelt, EXAMPLES).notes[0]


def test_slow_texts_are_noted() -> None:
    assert any("s on 200,000 characters" in note for note in check_reward_func(is_slow_on_long, EXAMPLES).notes)


def test_one_reward_for_all_examples_is_noted() -> None:
    notes = check_reward_func(boxed_format_reward, EXAMPLES).notes
    assert any("gave every example 0.0" in note for note in notes)


def test_ours_pass_with_texts_and_conversations() -> None:
    for wrap in (lambda text: text, lambda text: [{"role": "assistant", "content": text}]):
        rows = [{"completion": wrap(rf"\boxed{{{answer}}}"), "solution": "x+1"} for answer in ("1+x", "x")]
        report = check_reward_func(MathReward(), rows)
        assert report.is_ok, str(report)
        assert report.rewards == [1.0, 0.0]


def test_examples_that_are_none() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        check_reward_func(right, [])
    with pytest.raises(ValueError, match=r"to have a 'completion', got \['solution'\] in example 0"):
        check_reward_func(right, [{"solution": "4"}])
    with pytest.raises(ValueError, match=r"the keys \['completion', 'solution'\], got \['completion'\] in example 1"):
        check_reward_func(right, [{"completion": "4", "solution": "4"}, {"completion": "4"}])
