"""The final answer of a turn."""

import pytest

from trl_score.score.answers import extract_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The answer is \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),  # the last one counts
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),  # braces are matched
        (r"\boxed{ {a} + {b} } and so on }", "{a} + {b}"),
        (r"\boxed{}", ""),
        (r"cut off \boxed{\frac{1", r"\frac{1"),  # of an unclosed box, what is there
        (r"\boxed{1}, then cut \boxed{2", "2"),
        ("  42 \n", "42"),  # without a box the whole text
        ("boxed{42}", "boxed{42}"),
        ("", ""),
    ],
)
def test_answers(text, answer):
    assert extract_answer(text) == answer


def test_a_long_turn_is_read_in_no_time():
    assert extract_answer("\\boxed{" * 100_000) == ""
