r"""Every case of math_cases.txt, and every policy both ways.

The comparison alone, without math-verify's second opinion, must already accept nothing wrong; with it, every case must
come out as the table says.
"""

from collections import Counter
from pathlib import Path

import pytest

from trl_score.rewards.math_answers import Refused, check_evaluated
from trl_score.rewards.math_comparison import MathPolicy, same_answer
from trl_score.rewards.math_grading import grade, is_readable


def read_cases() -> list[tuple[str, bool, str, str]]:
    """Class, verdict, gold, prediction."""
    cases, name = [], ""
    for line in (Path(__file__).parent / "math_cases.txt").read_text(encoding="utf-8").splitlines():
        if "§" in line and not line.startswith("#"):
            verdict, gold, prediction = line.split("§")
            cases.append((name, verdict == "A", gold, prediction))
        elif line.startswith("# ") and "§" not in line:
            name = line.removeprefix("# ")
    return cases


CASES = read_cases()


def test_the_table_is_broad() -> None:
    sizes = Counter(name for name, *_ in CASES)
    assert len(CASES) >= 600
    assert len(sizes) >= 25
    assert sum(not is_right for _, is_right, _, _ in CASES) >= 200


@pytest.mark.parametrize(("name", "is_right", "gold", "prediction"), CASES)
def test_case(name: str, is_right: bool, gold: str, prediction: str) -> None:
    assert grade({"gold": gold, "answer": prediction, "policy": {}}) is is_right


@pytest.mark.parametrize(("gold", "prediction"), [case[2:] for case in CASES if not case[1]])
def test_nothing_wrong_is_accepted_without_a_second_opinion(gold: str, prediction: str) -> None:
    assert not same_answer(gold, prediction)


def test_every_gold_of_the_table_but_one_sided_relations_is_readable() -> None:
    assert {gold for _, _, gold, _ in CASES if not is_readable(gold)} == {r"\geq 3"}


def test_every_gold_is_right_for_itself() -> None:
    assert [gold for _, _, gold, _ in CASES if not grade({"gold": gold, "answer": gold, "policy": {}})] == []


@pytest.mark.parametrize(
    ("policy", "gold", "prediction", "is_right"),
    [
        # units
        (MathPolicy(), r"9\text{ cm}", "9", True),
        (MathPolicy(units="strict"), r"9\text{ cm}", "9", False),
        (MathPolicy(units="strict"), "9", r"9\text{ cm}", False),
        (MathPolicy(units="strict"), r"9\text{ cm}", "90 mm", True),
        (MathPolicy(units="ignore"), r"9\text{ cm}", "9 km", True),
        (MathPolicy(units="ignore"), r"9\text{ cm}", "8 cm", False),
        # percent
        (MathPolicy(percent="value"), r"12.5\%", "12.5", False),
        (MathPolicy(percent="value"), r"12.5\%", "0.125", True),
        (MathPolicy(percent="value"), "50", r"50\%", False),
        # order of lists
        (MathPolicy(list_order="keep"), "1, 2", "2, 1", False),
        (MathPolicy(list_order="keep"), "1, 2", "1, 2", True),
        (MathPolicy(list_order="keep"), r"\{1, 2\}", r"\{2, 1\}", True),
        # prose
        (MathPolicy(prose=False), "12", r"\text{The answer is } 12", False),
        (MathPolicy(prose=False), "12", "12", True),
        # rounding: 2/3 = 0.66666666...
        (MathPolicy(decimal_digits=3), r"\frac{2}{3}", "0.667", True),
        (MathPolicy(decimal_digits=3), r"\frac{2}{3}", "0.666", False),
        (MathPolicy(decimal_digits=3), r"\frac{2}{3}", "0.67", False),
        (MathPolicy(decimal_digits=None), r"\frac{2}{3}", "0.6666666667", False),
        (MathPolicy(decimal_digits=None), r"\frac{1}{2}", "0.5", True),
        # Six places of a small number are not six digits of it.
        (MathPolicy(), r"\frac{1}{30000000}", "0.00000003", False),
        (MathPolicy(), r"\frac{1}{30000000}", "0.0000000333333", True),
    ],
)
def test_policy(policy: MathPolicy, gold: str, prediction: str, is_right: bool) -> None:
    assert same_answer(gold, prediction, policy) is is_right


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "loose"}, r"`units` to be one of .*'lenient', 'strict', 'ignore'.* got 'loose'"),
        ({"percent": "both"}, "`percent` to be one of .* got 'both'"),
        ({"list_order": None}, "`list_order` to be one of .* got None"),
        ({"decimal_digits": 0}, "`decimal_digits` to be at least 1, or None, got 0"),
    ],
)
def test_policy_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MathPolicy(**options)


@pytest.mark.parametrize(
    "text",
    ["", " ", "\\", "{", "}", "((((", "\\frac", "^", "_", "|", "||", "&", "\x00", "\ud800", "=" * 50, "," * 50, "$",
     "\\text{",
     "-", "%",
     "(" * 3000, "{" * 3000, "\\frac{" * 600, "1^" * 1500, "|" * 3000, "x" * 3000,
     "1," * 1500, "$ " * 1500, "\\pm" * 1000, "!" * 3000],
)  # fmt: skip
def test_odd_texts_are_wrong_and_no_error(text: str) -> None:
    assert not same_answer("8", text)
    assert not same_answer(r"\frac{x}{2}", text)


@pytest.mark.parametrize(
    "text",
    [r"\sum_{k} k", r"\int_0^1 x dx", r"\lim_{x\to 0} x", r"\prod_k k", r"\gcd(4, 6)", "gcd(4, 6)", r"\max(1, 2)",
     r"7 \bmod 3",
     r"\frac{d}{dx} x", r"\frac{d^2}{dx^2} x", r"\det A", r"\oint f"],
)  # fmt: skip
def test_unevaluated_forms_are_refused_before_they_are_read(text: str) -> None:
    with pytest.raises(Refused, match="is not evaluated"):
        check_evaluated(text)


@pytest.mark.parametrize("text", [r"\frac{d}{d+1}", r"\sin x", "maximum", r"\delta", r"\limit"])
def test_evaluated_forms_are_not(text: str) -> None:
    check_evaluated(text)
