r"""Whether a model's answer is the gold answer. Third step of grading mathematics, a pure function of two texts.

False is the default: an answer is right only where a rule below says so. The gold decides the form; the policies decide
what may differ from it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import mpmath

from trl_score.rewards.answer_text import normalize_latex
from trl_score.rewards.latex_expressions import (
    DIGITS,
    Node,
    NotAnExpression,
    TooLarge,
    Value,
    agree,
    evaluate,
    parse_expression,
    same_value,
    sample_points,
    symbols_of,
    to_real,
    values_at,
)
from trl_score.rewards.math_answers import (
    Answer,
    BasedNumber,
    Choice,
    Collection,
    Difference,
    Interval,
    Matrix,
    Opaque,
    Quantity,
    Ratio,
    Refused,
    Relation,
    Special,
    Words,
    check_evaluated,
    parse_answer,
)
from trl_score.rewards.real_sets import NoRealSet, inequality_symbol, real_set, same_real_set
from trl_score.rewards.units import Unit


@dataclass(frozen=True)
class MathPolicy:
    r"""
    What may differ between a right answer and the gold.

    Args:
        units (`str`, *optional*, defaults to `"lenient"`):
            `"lenient"`: a unit may be missing on either side, units of one dimension are converted (1 m = 100 cm), any
            other difference is wrong (9 cm is not 9 km). `"strict"`: as lenient, but a missing unit is wrong.
            `"ignore"`: only the number counts.
        percent (`str`, *optional*, defaults to `"lenient"`):
            `"lenient"`: 12.5% equals 0.125, and also 12.5 (above 1, where the number can only be meant in percent).
            `"value"`: 12.5% equals 0.125 only.
        list_order (`str`, *optional*, defaults to `"ignore"`):
            Whether the order of `1, 2, 3` counts: `"ignore"` or `"keep"`. It never counts in `\{1, 2\}` and always in
            `(1, 2)`.
        prose (`bool`, *optional*, defaults to `True`):
            Whether words may lead to the answer inside the box: `\boxed{\text{The answer is } 12}`.
        decimal_digits (`int`, *optional*, defaults to `6`):
            A decimal that is not exact is right if it is the gold correctly rounded, to at least this many significant
            digits and this many places (0.333333 for 1/3). `None` accepts exact decimals only.

    Example:

    ```python
    >>> same_answer(r"9\text{ cm}", "9"), same_answer(r"9\text{ cm}", "9", MathPolicy(units="strict"))
    (True, False)

    ```
    """

    units: Literal["lenient", "strict", "ignore"] = "lenient"
    percent: Literal["lenient", "value"] = "lenient"
    list_order: Literal["ignore", "keep"] = "ignore"
    prose: bool = True
    decimal_digits: int | None = 6

    def __post_init__(self) -> None:
        allowed = {
            "units": ("lenient", "strict", "ignore"),
            "percent": ("lenient", "value"),
            "list_order": ("ignore", "keep"),
        }
        for name, values in allowed.items():
            if asdict(self)[name] not in values:
                raise ValueError(f"Expected `{name}` to be one of {values}, got {asdict(self)[name]!r}.")
        if self.decimal_digits is not None and self.decimal_digits < 1:
            raise ValueError(f"Expected `decimal_digits` to be at least 1, or None, got {self.decimal_digits}.")


SecondOpinion = Callable[[str, str], bool]
"""Judges two texts of mathematics that the grammar here does not have: `(gold, answer) -> bool`."""


def _no_opinion(gold: str, answer: str) -> bool:
    return False


def same_answer(
    gold: str, answer: str, policy: MathPolicy = MathPolicy(), second_opinion: SecondOpinion = _no_opinion
) -> bool:
    r"""
    Says whether an answer is right.

    Args:
        gold (`str`):
            The right answer, out of its box.
        answer (`str`):
            The model's, out of its box.
        policy ([`MathPolicy`], *optional*):
            What may differ.
        second_opinion (`Callable`, *optional*):
            Asked where one of the two is mathematics outside the grammar. Without it they must be the same text.

    Returns:
        `bool`: whether it is right. A text that is no answer is wrong, not an error.

    Example:

    ```python
    >>> same_answer(r"\frac{1}{2}", "0.5"), same_answer("(0, 6)", r"\{0, 6\}"), same_answer("8", "7 = 8")
    (True, False, False)

    ```
    """
    gold_text, answer_text = normalize_latex(gold), normalize_latex(answer)
    is_gold_unevaluated = _is_unevaluated(gold_text)
    if _squeeze(gold_text) == _squeeze(answer_text):
        return True
    try:
        if not is_gold_unevaluated:
            check_evaluated(answer_text)
        comparison = _Comparison(policy, second_opinion)
        return comparison.same(parse_answer(gold, strip_prose=False), parse_answer(answer, strip_prose=policy.prose))
    except (Refused, TooLarge, RecursionError, OverflowError):
        return False  # beyond what any right answer needs


def _is_unevaluated(text: str) -> bool:
    try:
        check_evaluated(text)
    except Refused:
        return True
    return False


def _squeeze(text: str) -> str:
    """Without the spaces that mean nothing: one between digits, or between a command and a letter, stays."""
    if "\\text" in text:
        return re.sub(r"\s+", " ", text)
    text = re.sub(r"(?<=\d)\s+(?=\d)|(?<=[A-Za-z])\s+(?=[A-Za-z])", "\x00", text)
    return re.sub(r"\s+", "", text)


class _Comparison:
    def __init__(self, policy: MathPolicy, second_opinion: SecondOpinion) -> None:
        self.policy = policy
        self.second_opinion = second_opinion

    def same(self, gold: Answer, answer: Answer) -> bool:
        if isinstance(gold, Opaque) or isinstance(answer, Opaque):
            return self.same_opaque(gold, answer)
        if isinstance(gold, Choice) or isinstance(answer, Choice):
            return self.same_choice(gold, answer)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self.same_relation(gold, answer)
        if isinstance(gold, (Interval, Difference, Special)) or _is_union(gold) or _is_union(answer):
            return self.same_region(gold, answer)
        if isinstance(answer, (Interval, Difference, Special)):
            return self.same_region(gold, answer)
        if isinstance(gold, Collection) or isinstance(answer, Collection):
            return self.same_collection(gold, answer)
        if isinstance(gold, Quantity) and isinstance(answer, Quantity):
            return self.same_quantity(gold, answer)
        if isinstance(gold, Matrix) and isinstance(answer, Matrix):
            return self.same_matrix(gold, answer)
        if isinstance(gold, Ratio) or isinstance(answer, Ratio):
            return self.same_ratio(gold, answer)
        if isinstance(gold, BasedNumber) or isinstance(answer, BasedNumber):
            return _same_based(gold, answer)
        return isinstance(gold, Words) and gold == answer

    def same_opaque(self, gold: Answer, answer: Answer) -> bool:
        if isinstance(gold, Opaque) and isinstance(answer, Opaque) and _squeeze(gold.text) == _squeeze(answer.text):
            return True
        texts = [side.text for side in (gold, answer) if isinstance(side, (Opaque, Quantity))]
        return len(texts) == 2 and self.second_opinion(*texts)

    def same_choice(self, gold: Answer, answer: Answer) -> bool:
        if isinstance(gold, Choice):
            if isinstance(answer, Choice):
                return gold.letter == answer.letter and self.same_value_of_choices(gold.value, answer.value)
            if gold.value is not None and not _is_letter(answer, gold.letter):
                return self.same(gold.value, answer)
            return _is_letter(answer, gold.letter)
        assert isinstance(answer, Choice)
        if _is_letter(gold, answer.letter):
            return True
        return answer.value is not None and self.same(gold, answer.value)

    def same_value_of_choices(self, gold: Answer | None, answer: Answer | None) -> bool:
        return gold is None or answer is None or self.same(gold, answer)

    def same_relation(self, gold: Answer, answer: Answer) -> bool:
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            return self.same_two_relations(gold, answer)
        if isinstance(gold, Relation):
            if _is_assignment(gold):
                return self.same(gold.sides[-1], answer)
            return self.same_region(gold, answer)
        assert isinstance(answer, Relation)
        if set(answer.operators) == {"="}:
            value = self.stated_value(answer)
            return value is not None and self.same(gold, value)
        return self.same_region(gold, answer)

    def stated_value(self, relation: Relation) -> Answer | None:
        """
        What `x = 5`, `3 + 5 = 8` or `x = 3 + 5 = 8` states: the last side, if everything but a leading name equals it.
        """
        sides = relation.sides[1:] if _is_name(relation.sides[0]) else relation.sides
        if all(self.same_quantities(left, right) for left, right in pairwise(sides)):
            return sides[-1]
        return None

    def same_quantities(self, left: Answer, right: Answer) -> bool:
        return isinstance(left, Quantity) and isinstance(right, Quantity) and self.same_quantity(left, right)

    def same_two_relations(self, gold: Relation, answer: Relation) -> bool:
        if set(gold.operators) == {"="} == set(answer.operators):
            return self.same_equations(gold, answer)
        if "=" in gold.operators or "=" in answer.operators:
            return False
        if inequality_symbol(gold) is not None and inequality_symbol(gold) == inequality_symbol(answer):
            return self.same_region(gold, answer) or self.same_sides(gold, answer)
        return self.same_sides(gold, answer)

    def same_equations(self, gold: Relation, answer: Relation) -> bool:
        if len(answer.sides) > 2 and _is_name(answer.sides[0]):
            value = self.stated_value(answer)
            if value is None:
                return False
            answer = Relation((answer.sides[0], value), ("=",))
        if len(gold.sides) != len(answer.sides):
            return False
        if self.same_sides(gold, answer):
            return True
        if len(gold.sides) != 2:
            return False
        first, second = _zero_form(gold), _zero_form(answer)
        return first is not None and second is not None and _constant_ratio(first, second) is not None

    def same_sides(self, gold: Relation, answer: Relation) -> bool:
        """Side by side, in the one direction or the other; or for two sides, the difference up to a factor."""
        mirrored = Relation(answer.sides[::-1], tuple(_MIRRORED[operator] for operator in answer.operators[::-1]))
        for candidate in (answer, mirrored):
            if gold.operators == candidate.operators and all(map(self.same_side, gold.sides, candidate.sides)):
                return True
        return len(gold.sides) == 2 == len(answer.sides) and _same_inequality(gold, answer)

    def same_side(self, gold: Answer, answer: Answer) -> bool:
        return not isinstance(gold, Relation) and not isinstance(answer, Relation) and self.same(gold, answer)

    def same_region(self, gold: Answer, answer: Answer) -> bool:
        if isinstance(gold, Special) and isinstance(answer, Special):
            return gold == answer
        # A pair may be an interval, but neither a set nor a list is one.
        for one, other in ((gold, answer), (answer, gold)):
            if _is_kind(one, "tuple") and not _is_region(other):
                return False
        try:
            return same_real_set(real_set(gold), real_set(answer))
        except NoRealSet:
            return self.same_pieces(gold, answer)

    def same_pieces(self, gold: Answer, answer: Answer) -> bool:
        """Regions with letters in their ends: piece by piece."""
        if isinstance(gold, Interval) and isinstance(answer, Interval):
            is_same_form = (gold.is_low_closed, gold.is_high_closed) == (answer.is_low_closed, answer.is_high_closed)
            return is_same_form and self.same(gold.low, answer.low) and self.same(gold.high, answer.high)
        if isinstance(gold, Difference) and isinstance(answer, Difference):
            return self.same(gold.whole, answer.whole) and self.same(gold.removed, answer.removed)
        if _is_union(gold) and _is_union(answer):
            assert isinstance(gold, Collection) and isinstance(answer, Collection)
            return self.same_unordered(gold.items, answer.items)
        # [1, 2] may be a closed interval, and also a list in the way of programs.
        if isinstance(answer, Interval) and answer.is_low_closed and answer.is_high_closed and _is_kind(gold, "list"):
            return self.same_collection(gold, Collection("list", (answer.low, answer.high)))
        return False

    def same_collection(self, gold: Answer, answer: Answer) -> bool:
        if not isinstance(gold, Collection) or not isinstance(answer, Collection):
            return self.same_single(gold, answer)
        if (
            gold.kind == "list"
            and answer.kind == "list"
            and any(isinstance(item, Relation) for item in (*gold.items, *answer.items))
        ):
            return self.same_relation_lists(gold, answer)
        gold, answer = self.values_by_name(gold), self.values_by_name(answer)
        kinds = {gold.kind, answer.kind}
        if "set" in kinds:
            return kinds <= {"set", "list"} and self.same_as_sets(gold.items, answer.items)
        if kinds == {"list"} and self.policy.list_order == "ignore":
            return self.same_unordered(gold.items, answer.items)
        return self.same_ordered(gold.items, answer.items)

    def same_single(self, gold: Answer, answer: Answer) -> bool:
        """{5} for 5. A list of several is never one of them."""
        for one, other in ((gold, answer), (answer, gold)):
            if isinstance(one, Collection) and one.kind in ("set", "list") and len(one.items) == 1:
                return self.same(*((one.items[0], other) if one is gold else (other, one.items[0])))
        return False

    def same_relation_lists(self, gold: Collection, answer: Collection) -> bool:
        are_all_relations = all(isinstance(item, Relation) for item in (*gold.items, *answer.items))
        if are_all_relations:
            if self.same_unordered(gold.items, answer.items):
                return True
            has_equations = any(
                "=" in item.operators for item in (*gold.items, *answer.items) if isinstance(item, Relation)
            )
            return not has_equations and self.same_region(gold, answer)
        plain_gold, plain_answer = self.values_by_name(gold), self.values_by_name(answer)
        # x = 1, y = 2 is in the order of its letters, so a plain list must be in it too.
        if plain_gold.kind == "tuple" or plain_answer.kind == "tuple" or self.policy.list_order == "keep":
            return self.same_ordered(plain_gold.items, plain_answer.items)
        return self.same_unordered(plain_gold.items, plain_answer.items)

    def values_by_name(self, collection: Collection) -> Collection:
        """y = 2, x = 1 as the point (1, 2); x = 1, x = 2 as the list 1, 2."""
        if collection.kind != "list" or not all(map(_is_assignment, collection.items)):
            return collection
        relations = [item for item in collection.items if isinstance(item, Relation)]
        names = [_name_of(relation.sides[0]) for relation in relations]
        values = [relation.sides[-1] for relation in relations]
        if len(set(names)) == 1:
            return Collection("list", tuple(values))
        if len(set(names)) < len(names):
            return collection
        order = sorted(range(len(names)), key=lambda place: names[place])
        return Collection("tuple", tuple(values[place] for place in order))

    def same_ordered(self, gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
        return len(gold) == len(answer) and all(map(self.same, gold, answer))

    def same_unordered(self, gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
        if len(gold) != len(answer):
            return False
        left = list(answer)
        for item in gold:
            match = next((place for place, candidate in enumerate(left) if self.same(item, candidate)), None)
            if match is None:
                return False
            del left[match]
        return True

    def same_as_sets(self, gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
        """Every item has a partner, both ways: {1, 1, 2} is {1, 2}."""
        return all(any(self.same(item, other) for other in answer) for item in gold) and all(
            any(self.same(item, other) for item in gold) for other in answer
        )

    def same_matrix(self, gold: Matrix, answer: Matrix) -> bool:
        return gold.delimiter == answer.delimiter and (
            len(gold.rows) == len(answer.rows) and all(map(self.same_ordered, gold.rows, answer.rows))
        )

    def same_ratio(self, gold: Answer, answer: Answer) -> bool:
        gold_parts, answer_parts = _ratio_parts(gold), _ratio_parts(answer)
        if gold_parts is None or answer_parts is None or len(gold_parts) != len(answer_parts):
            return False
        if any(isinstance(side, Ratio) and side.is_clock for side in (gold, answer)):
            both = isinstance(gold, Ratio) and isinstance(answer, Ratio)
            return both and self.same_clock(gold, answer)  # type: ignore[arg-type]
        nodes = [[part.node for part in parts if isinstance(part, Quantity)] for parts in (gold_parts, answer_parts)]
        if any(len(found) != len(gold_parts) for found in nodes):
            return False
        scaled = [Node("multiply", (nodes[0][0], node)) for node in nodes[1]]
        wanted = [Node("multiply", (nodes[1][0], node)) for node in nodes[0]]
        return all(map(same_value, wanted, scaled)) and not same_value(nodes[0][0], _ZERO)

    def same_clock(self, gold: Ratio, answer: Ratio) -> bool:
        has_marker = not gold.marker or gold.marker == answer.marker
        return gold.is_clock and answer.is_clock and has_marker and self.same_ordered(gold.parts, answer.parts)

    def same_quantity(self, gold: Quantity, answer: Quantity) -> bool:
        factor = self.unit_factor(gold.unit, answer.unit)
        if factor is None:
            return False
        if gold.is_percent or answer.is_percent:
            return self.same_percent(gold, answer)
        return self.same_number(gold, _in_other_unit(answer, factor))

    def same_number(self, gold: Quantity, answer: Quantity) -> bool:
        if same_value(gold.node, answer.node):
            return True
        return self.policy.decimal_digits is not None and _is_rounded(gold, answer, self.policy.decimal_digits)

    def unit_factor(self, gold: Unit | None, answer: Unit | None) -> Fraction | None:
        """What the answer's number is multiplied with to be in the gold's unit; `None` if the units differ in kind."""
        if self.policy.units == "ignore":
            return Fraction(1)
        gold_dimensions = gold.dimensions if gold else frozenset()
        answer_dimensions = answer.dimensions if answer else frozenset()
        if gold and answer and gold_dimensions == answer_dimensions:
            return answer.factor / gold.factor
        if gold_dimensions and answer_dimensions:
            return None
        is_missing = bool(gold_dimensions) != bool(answer_dimensions)
        return None if is_missing and self.policy.units == "strict" else Fraction(1)

    def same_percent(self, gold: Quantity, answer: Quantity) -> bool:
        if gold.is_percent and answer.is_percent:
            return self.same_number(gold, answer)
        percent, plain = (gold, answer) if gold.is_percent else (answer, gold)
        if plain.unit is not None and self.policy.units != "ignore":
            return False
        value = Node("divide", (percent.node, Node("number", value=Fraction(100))))
        if same_value(value, plain.node):
            return True
        is_above_one = _is_above_one(plain.node)
        return self.policy.percent == "lenient" and is_above_one and self.same_number(gold, answer)


_MIRRORED = {"=": "=", "<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne"}
_ZERO = Node("number", value=Fraction(0))
_NAME = re.compile(
    r"(?:\\angle\s*|m\s*\\angle\s*)?(?:[A-Za-z]|\\[a-z]+|[A-Z]{2,4}|\\(?:overline|vec|hat|bar)\s*\{[A-Za-z]+\}|\\text\s*\{[^{}]*\})"
    r"(?:\s*_\s*(?:\{[^{}]*\}|\w))?'*(?:\s*\^\s*\{?-1\}?)?(?:\s*\([^()=]*\))?",
)


def _in_other_unit(quantity: Quantity, factor: Fraction) -> Quantity:
    """The same quantity with its number converted; its text then no longer shows the number's digits."""
    if factor == 1:
        return quantity
    return Quantity("", Node("multiply", (Node("number", value=factor), quantity.node)), quantity.unit)


def _is_kind(answer: Answer, kind: str) -> bool:
    return isinstance(answer, Collection) and answer.kind == kind


def _is_union(answer: Answer) -> bool:
    return _is_kind(answer, "union")


def _is_region(answer: Answer) -> bool:
    return isinstance(answer, (Interval, Relation, Difference, Special)) or _is_union(answer)


def _is_letter(answer: Answer, letter: str) -> bool:
    if isinstance(answer, Quantity):
        return answer.unit is None and not answer.is_percent and answer.node == Node("symbol", name=letter)
    return isinstance(answer, Words) and answer.words == (letter,)


def _name_of(answer: Answer) -> str:
    if isinstance(answer, (Quantity, Opaque)):
        return re.sub(r"\s", "", answer.text)
    if isinstance(answer, Collection):
        return ",".join(map(_name_of, answer.items))
    return " ".join(answer.words) if isinstance(answer, Words) else ""


def _is_name(answer: Answer) -> bool:
    """Whether a side only names what the next one gives: x, f(x), AB, S_{10}, \\angle A, words."""
    if isinstance(answer, Words):
        return True
    if isinstance(answer, Collection):
        return answer.kind == "tuple" and all(map(_is_name, answer.items))
    if isinstance(answer, Quantity) and not symbols_of(answer.node):
        return False
    return isinstance(answer, (Quantity, Opaque)) and _NAME.fullmatch(answer.text.strip()) is not None


def _is_assignment(answer: Answer) -> bool:
    return (
        isinstance(answer, Relation)
        and set(answer.operators) == {"="}
        and len(answer.sides) == 2
        and _is_name(answer.sides[0])
    )


def _same_based(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, BasedNumber) and isinstance(answer, BasedNumber):
        return gold == answer
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, BasedNumber) and one.base == 10 and isinstance(other, Quantity) and other.unit is None:
            return same_value(parse_expression(one.digits), other.node)
    return False


def _ratio_parts(answer: Answer) -> tuple[Answer, ...] | None:
    """Of 3:4, and of the fraction that it is."""
    if isinstance(answer, Ratio):
        return answer.parts
    if isinstance(answer, Quantity) and answer.unit is None and not answer.is_percent and answer.node.kind == "divide":
        return tuple(Quantity("", child) for child in answer.node.children)
    return None


def _zero_form(relation: Relation) -> Node | None:
    left, right = relation.sides
    if not isinstance(left, Quantity) or not isinstance(right, Quantity) or left.unit or right.unit:
        return None
    return Node("add", (left.node, Node("negative", (right.node,))))


def _constant_ratio(first: Node, second: Node) -> Value | None:
    """By what the first expression is a multiple of the second, or `None`. Both must have the same letters."""
    symbols = symbols_of(first)
    if not symbols or symbols != symbols_of(second):
        return None
    points = sample_points(symbols)
    pairs = list(zip(values_at(first, points), values_at(second, points), strict=True))
    with mpmath.workdps(DIGITS):
        ratios = [to_real(a) / to_real(b) for a, b in pairs if a is not None and b is not None and a != 0 and b != 0]
    if len(ratios) < 3 or not all(agree(ratios[0], ratio) for ratio in ratios):
        return None
    return ratios[0]


def _same_inequality(gold: Relation, answer: Relation) -> bool:
    first, second = _zero_form(gold), _zero_form(answer)
    if first is None or second is None:
        return False
    ratio = _constant_ratio(first, second)
    if ratio is None or isinstance(ratio, mpmath.mpc):
        return False
    operator = answer.operators[0] if ratio > 0 else _MIRRORED[answer.operators[0]]
    return gold.operators[0] == operator


_DECIMAL = re.compile(r"[-+]?(\d*)\.(\d+)(?:e([-+]?\d+))?")


def _is_rounded(gold: Quantity, answer: Quantity, digits: int) -> bool:
    """Whether one is a decimal that rounds the other correctly, long enough to be no coincidence."""
    try:
        values = evaluate(gold.node), evaluate(answer.node)
    except (KeyError, ZeroDivisionError, NotAnExpression):
        return False
    return _rounds(answer.text, *values[::-1], digits) or _rounds(gold.text, *values, digits)


def _rounds(text: str, decimal: Value, exact: Value, digits: int) -> bool:
    match = _DECIMAL.fullmatch(text)
    if match is None or isinstance(decimal, mpmath.mpc) or isinstance(exact, mpmath.mpc):
        return False
    places = len(match.group(2)) - int(match.group(3) or 0)
    significant = len((match.group(1) + match.group(2)).lstrip("0"))
    if places < digits or significant < digits:
        return False
    with mpmath.workdps(DIGITS):
        return bool(abs(to_real(decimal) - to_real(exact)) <= mpmath.mpf(10) ** -places / 2)


def _is_above_one(node: Node) -> bool:
    try:
        value = evaluate(node)
    except (KeyError, ZeroDivisionError, NotAnExpression):
        return False
    return not isinstance(value, mpmath.mpc) and bool(value > 1)
