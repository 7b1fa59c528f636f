r"""Where the answer stands in a text, and one spelling for the same LaTeX."""

import pytest

from trl_score.rewards.answer_text import (
    NoAnswer,
    completion_text,
    extract_boxed_answer,
    extract_gold,
    extract_last_line,
    normalize_latex,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{1}. So \boxed{2}", "2"),
        (r"\boxed{1}, \boxed{2}", "1, 2"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"\boxed{1}\text{ or }\boxed{2}", "1, 2"),
        (r"\boxed{1}, \boxed{2}, and \boxed{3}", "1, 2, 3"),
        (r"\boxed{2}, \boxed{2}", "2"),
        (r"\boxed{a \boxed{b}}", r"a \boxed{b}"),
        (r"\boxed{open \boxed{b}", "b"),
        (r"\fbox{7}", "7"),
        (r"\boxed 17.", "17."),
        (r"\boxedtext{3} \boxed{4}", "4"),
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        ("pad " * 20_000 + r"\boxed{9}", "9"),
    ],
)
def test_boxes(text: str, answer: str) -> None:
    assert extract_boxed_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", r"no \\boxed"),
        ("5", r"no \\boxed"),
        (r"\boxed{5", "not closed"),
        (r"\boxed{5} \boxed{", "not closed"),
        (r"\boxed", "not closed"),
        (r"\boxed{5\}", "not closed"),
        (r"\boxed{}", "is empty"),
        (r"\boxed{ }", "is empty"),
        (r"\boxed{5}</think> hm", r"no \\boxed"),
        (r"\boxed{" + "1" * 4001 + "}", "4001 characters"),
        (r"\boxed{5}" + "pad " * 20_000, r"no \\boxed"),
    ],
)
def test_no_box(text: str, cause: str) -> None:
    with pytest.raises(NoAnswer, match=cause):
        extract_boxed_answer(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\n\n", "b"),
        ("Answer: 5", "5"),
        ("The final answer is 5", "5"),
        ("**Answer:** 5", "5"),
        ("Final Answer: $x$", "$x$"),
        ("the answers differ", "the answers differ"),
    ],
)
def test_last_line(text: str, line: str) -> None:
    assert extract_last_line(text) == line


@pytest.mark.parametrize("text", ["", " \n ", "Answer:  ", "1" * 4001])
def test_no_last_line(text: str) -> None:
    with pytest.raises(NoAnswer):
        extract_last_line(text)


def test_gold() -> None:
    assert extract_gold("1+1 = <<1+1=2>>2\n#### 2") == "2"
    assert extract_gold(r"we get \boxed{x}. Done") == "x"
    assert extract_gold(r" \frac12 ") == r"\frac12"
    with pytest.raises(NoAnswer, match="not closed"):
        extract_gold(r"we get \boxed{x")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (r"\dfrac12", r"\frac12"),
        (r"\left( \frac{1}{2} \right]", r"( \frac{1}{2} ]"),
        ("$5$.", "5"),
        ("$5", r"\$5"),
        (r"\$5", r"\$5"),
        ("½", r"\frac{1}{2}"),
        ("x²⁰", "x^{20}"),
        ("x₁", "x_{1}"),
        ("√12", r"\sqrt{12}"),
        ("√(5)", r"\sqrt{5}"),
        ("sqrt(5)", r"\sqrt{5}"),
        ("45°", r"45^{\circ}"),
        ("１２", "12"),
        ("3–5", "3-5"),
        (r"10{,}000", "10,000"),
        (r"10\,000", "10,000"),
        (r"10\!,\!000", "10,000"),
        (r"5\,\mathrm{cm}", r"5 \text{cm}"),
        (r"x \leqslant 3", r"x \le 3"),
        ("\u200b5\u200b", "5"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        ("2pi", r"2\pi"),
        ("pi/2", r"\pi/2"),
    ],
)
def test_normal_forms(text: str, normal: str) -> None:
    assert normalize_latex(text) == normal


def test_normalising_twice_changes_nothing() -> None:
    for text in ("$\\dfrac{1}{2}$.", "2√3", r"10{,}000\text{ cm}", "½", "{\\displaystyle 5}", "$5", "x² − 1"):
        once = normalize_latex(text)
        assert normalize_latex(once) == once


def test_completion_text() -> None:
    assert completion_text("a") == "a"
    assert completion_text([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]) == "b"
    assert completion_text([{"role": "assistant", "content": None}]) == ""
    with pytest.raises(TypeError, match="got bytes"):
        completion_text(b"a")  # type: ignore[arg-type]
