"""Expressions are read as a mathematician reads them, computed exactly, and refused where none or too large."""

import math
import random
from fractions import Fraction

import mpmath
import pytest

from trl_score.rewards.latex_expressions import (
    Node,
    NotAnExpression,
    TooLarge,
    agree,
    evaluate,
    parse_expression,
    parse_number,
    same_value,
    sample_points,
    symbols_of,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", Fraction(12)),
        ("1,234.5", Fraction(2469, 2)),
        (".5", Fraction(1, 2)),
        ("3.4e-2", Fraction(34, 1000)),
        (r"\frac{1}{2}+\frac13", Fraction(5, 6)),
        (r"\frac{3}{4}/2", Fraction(3, 8)),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        (r"-2\frac{1}{3}", Fraction(-7, 3)),
        (r"2\frac{3}{2}", Fraction(3)),  # no mixed number has 3/2 in it
        (r"2\cdot\frac{1}{3}", Fraction(2, 3)),
        ("-2^2", Fraction(-4)),
        ("(-2)^2", Fraction(4)),
        ("2^{-3}", Fraction(1, 8)),
        ("2^3^1", None),
        ("1-2-3", Fraction(-4)),
        ("12/2/3", Fraction(2)),
        ("2+3*4", Fraction(14)),
        ("2(3+4)", Fraction(14)),
        ("5!", Fraction(120)),
        ("3!^2", Fraction(36)),
        (r"\binom{10}{3}", Fraction(120)),
        (r"\sqrt{\frac{9}{4}}", Fraction(3, 2)),
        (r"\sqrt94", Fraction(12)),  # \sqrt takes one digit: 3 times 4
        ("|2-5|", Fraction(3)),
        ("||2-5|-4|", Fraction(1)),
        (r"\lfloor 2.5\rfloor + \lceil 2.5\rceil", Fraction(5)),
    ],
)
def test_exact_values(text: str, value: Fraction | None) -> None:
    if value is None:
        with pytest.raises(NotAnExpression):
            parse_expression(text)
        return
    assert evaluate(parse_expression(text)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\sqrt{2}", math.sqrt(2)),
        (r"\sqrt[3]{-8}", -2.0),
        (r"2\pi", 2 * math.pi),
        ("e^2", math.e**2),
        (r"\ln 2", math.log(2)),
        (r"\log 50", math.log10(50)),
        (r"\log_2 10", math.log2(10)),
        (r"\log_{2}^2 10", math.log2(10) ** 2),
        (r"\sin 30^\circ", 0.5),
        (r"\sin^2 2", math.sin(2) ** 2),
        (r"\sin^{-1} 0.3", math.asin(0.3)),
        (r"\sin 2\cdot 3", 3 * math.sin(2)),
        (r"\sin 2 \cos 3", math.sin(2) * math.cos(3)),
        (r"\sin(2) 3", 3 * math.sin(2)),
        (r"\sin 2\pi/3", math.sin(2 * math.pi) / 3),
        (r"\cos\frac{\pi}{5}", math.cos(math.pi / 5)),
    ],
)
def test_real_values(text: str, value: float) -> None:
    assert float(evaluate(parse_expression(text))) == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_the_parser_agrees_with_python_on_random_arithmetic() -> None:
    """Python's own grammar is the second implementation; the operators mean the same there."""
    generator = random.Random(0)

    def expression(depth: int) -> str:
        if depth == 0:
            return str(generator.randint(1, 9))
        left, right = expression(depth - 1), expression(depth - 1)
        return generator.choice(
            [f"{left}+{right}", f"{left}-{right}", f"{left}*{right}", f"({left})/({right})", f"-({left})"]
        )

    checked = 0
    for _ in range(300):
        text = expression(3)
        numbers = "".join(f"Fraction({character})" if character.isdigit() else character for character in text)
        try:
            expected = eval(numbers, {"Fraction": Fraction})
        except ZeroDivisionError:
            continue
        assert evaluate(parse_expression(text)) == expected, text
        checked += 1
    assert checked > 200


@pytest.mark.parametrize(
    "text",
    ["", "(", "(1", "1)", "1+", "*2", "1 2", "12 .5", "x^", "5!!", "cat", "ABC", "on", r"\sum x", r"\foo",
     r"\frac{1}", "a#b", "{", "[1]",
     "1,2"]
)  # fmt: skip
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(NotAnExpression):
        parse_expression(text)


@pytest.mark.parametrize(
    "text",
    ["9^{9^{9}}", "99999!", "(10^6)!", r"\binom{10^9}{5}",
     "2^{100001}", r"\pi^{10^7}", r"\sin(10^{9})", "e^{10^9}", r"\sqrt{2}^{9^{9}}"]
)  # fmt: skip
def test_what_is_too_large_to_compute(text: str) -> None:
    with pytest.raises(TooLarge):
        evaluate(parse_expression(text))


@pytest.mark.parametrize("text", ["1" * 2001, "1e9999", "1" + "+1" * 200, "1e" + "1" * 7])
def test_what_is_too_large_to_read(text: str) -> None:
    with pytest.raises(TooLarge):
        parse_expression(text)


def test_largest_numbers_that_are_computed() -> None:
    assert evaluate(parse_expression("3000!")) == math.factorial(3000)
    assert evaluate(parse_expression("2^{40000}")) == 2**40000


@pytest.mark.parametrize("text", [r"\frac{1}{0}", "0^{-1}", r"\ln 0", r"\frac{x}{x-x}"])
def test_no_value(text: str) -> None:
    node = parse_expression(text)
    assert not same_value(node, node)


def test_negative_factorials_and_infinity_have_no_value() -> None:
    for text in ("(-1)!", r"\binom{-1}{2}", r"\infty-1"):
        with pytest.raises(NotAnExpression):
            evaluate(parse_expression(text))


@pytest.mark.parametrize(
    ("left", "right", "are_equal"),
    [
        ("(x+1)^3", "x^3+3x^2+3x+1", True),
        ("(x+1)^3", "x^3+3x^2+3x", False),
        (r"\sin(x+y)", r"\sin x\cos y+\cos x\sin y", True),
        (r"\sqrt{x^2}", "|x|", True),
        (r"\sqrt{x^2}", "x", False),
        ("|x|", "x", False),
        ("x_1", "x_2", False),
        ("x", "X", False),
        ("x'", "x", False),
        ("f(x)", "f(y)", False),
        (r"\alpha", r"\beta", False),
        (r"\vec{a}", r"\vec{b}", False),
        ("ab", "ba", True),
        (r"\frac{1}{500!}", r"\frac{1}{501!}", False),
        (r"\pi 10^{-30}", r"2\pi 10^{-30}", False),
        (r"\sqrt{2}", r"\sqrt{2}+10^{-300}", False),
        (r"\infty", r"\infty", True),
        (r"\infty", r"-\infty", False),
        (r"\infty", "1", False),
    ],
)
def test_same_value(left: str, right: str, are_equal: bool) -> None:
    assert same_value(parse_expression(left), parse_expression(right)) is are_equal


def test_agreement_is_exact_for_fractions_and_to_350_digits_else() -> None:
    tiny = Fraction(1, 10**360)
    assert not agree(Fraction(1), Fraction(1) + tiny)
    with mpmath.workdps(400):
        assert agree(mpmath.mpf(1), Fraction(1) + tiny)
        assert not agree(mpmath.mpf(1), Fraction(1) + tiny * 10**20)


def test_sample_points_depend_on_names_alone_and_lie_on_both_sides_of_zero() -> None:
    points = sample_points(frozenset("xy"))
    assert points == sample_points(frozenset("yx"))
    assert len(points) == 5
    for name in "xy":
        assert {point[name] > 0 for point in points} == {True, False}
    assert sample_points(frozenset()) == [{}]


def test_symbols_and_numbers() -> None:
    assert symbols_of(parse_expression(r"a_{1}x + \theta e^{i}")) == {"a_1", "x", r"\theta"}
    assert parse_number("007") == 7
    assert parse_expression("x") == Node("symbol", name="x")
