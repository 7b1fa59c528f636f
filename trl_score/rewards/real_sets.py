r"""Sets of real numbers with known ends: `[2, 5)`, `x < 3`, `\mathbb{R} \setminus \{1\}`, in one canonical form.

What lets an interval be compared with the inequality that describes it. Ends are numbers or infinite; sets with letters
in their ends are compared piece by piece elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key

import mpmath

from trl_score.rewards.latex_expressions import (
    Node,
    NotAnExpression,
    Value,
    agree,
    evaluate,
    signed_infinity,
    symbols_of,
    to_real,
)
from trl_score.rewards.math_answers import Answer, Collection, Difference, Interval, Quantity, Relation, Special

_MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}


class NoRealSet(ValueError):
    """The answer is no set of real numbers with known ends."""


@dataclass(frozen=True)
class Piece:
    """
    An interval or a point.

    Args:
        low, high (`Value`):
            The ends; `mpmath.inf` where there is none.
        has_low, has_high (`bool`):
            Whether the ends belong to it.
    """

    low: Value
    high: Value
    has_low: bool
    has_high: bool


_ALL = (Piece(-mpmath.inf, mpmath.inf, False, False),)


def _order(left: Value, right: Value) -> int:
    if _same_end(left, right):
        return 0
    return -1 if to_real(left) < to_real(right) else 1


def _same_end(left: Value, right: Value) -> bool:
    if mpmath.isinf(to_real(left)) or mpmath.isinf(to_real(right)):
        return bool(to_real(left) == to_real(right))
    return agree(left, right)


def _starts_before(left: Piece, right: Piece) -> int:
    return _order(left.low, right.low) or int(right.has_low) - int(left.has_low)


def _is_empty(piece: Piece) -> bool:
    order = _order(piece.low, piece.high)
    return order > 0 or (order == 0 and not (piece.has_low and piece.has_high))


def _canonical(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Sorted, without empty pieces, and joined where they touch."""
    ordered = sorted((piece for piece in pieces if not _is_empty(piece)), key=cmp_to_key(_starts_before))
    joined: list[Piece] = []
    for piece in ordered:
        gap = _order(joined[-1].high, piece.low) if joined else -1
        if not joined or gap < 0 or (gap == 0 and not (joined[-1].has_high or piece.has_low)):
            joined.append(piece)
            continue
        last, order = joined[-1], _order(joined[-1].high, piece.high)
        high, has_high = (piece.high, piece.has_high) if order < 0 else (last.high, last.has_high)
        joined[-1] = Piece(last.low, high, last.has_low, has_high or (order == 0 and piece.has_high))
    return tuple(joined)


def _complement(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    rest, low, has_low = [], -mpmath.inf, False
    for piece in pieces:
        rest.append(Piece(low, piece.low, has_low, not piece.has_low and not mpmath.isinf(to_real(piece.low))))
        low, has_low = piece.high, not piece.has_high and not mpmath.isinf(to_real(piece.high))
    return _canonical([*rest, Piece(low, mpmath.inf, has_low, False)])


def _intersection(left: tuple[Piece, ...], right: tuple[Piece, ...]) -> tuple[Piece, ...]:
    return _complement(_canonical([*_complement(left), *_complement(right)]))


def real_set(answer: Answer) -> tuple[Piece, ...]:
    """
    Reads a set of real numbers.

    Args:
        answer (`Answer`):
            An interval, a union, an inequality in one letter, a set of numbers, a pair (as an open interval).

    Returns:
        `tuple[Piece, ...]`: its pieces in order.

    Raises:
        [`NoRealSet`]: If it is none, or one that is beyond linear inequalities.
    """
    if isinstance(answer, Special) and answer.name in ("reals", "empty"):
        return _ALL if answer.name == "reals" else ()
    if isinstance(answer, Interval):
        return _canonical([Piece(_end(answer.low), _end(answer.high), *_closed(answer))])
    if isinstance(answer, Difference):
        return _intersection(real_set(answer.whole), _complement(real_set(answer.removed)))
    if isinstance(answer, Relation):
        return _relation_set(answer)
    if isinstance(answer, Collection):
        return _collection_set(answer)
    raise NoRealSet


def _closed(interval: Interval) -> tuple[bool, bool]:
    ends = (_end(interval.low), _end(interval.high))
    flags = (interval.is_low_closed, interval.is_high_closed)
    if any(flag and mpmath.isinf(to_real(end)) for flag, end in zip(flags, ends, strict=True)):
        raise NoRealSet  # [2, \infty] holds no such number: it is no set of reals
    return flags


def _collection_set(answer: Collection) -> tuple[Piece, ...]:
    if answer.kind == "tuple" and len(answer.items) == 2:
        low, high = map(_end, answer.items)
        return _canonical([Piece(low, high, False, False)])
    if answer.kind == "set":
        return _canonical([_point(item) for item in answer.items])
    if answer.kind == "union" or (answer.kind == "list" and answer.joiner == "or"):
        return _canonical([piece for item in answer.items for piece in real_set(item)])
    if answer.kind == "list" and answer.joiner == "and":
        pieces: tuple[Piece, ...] = _ALL
        for item in answer.items:
            pieces = _intersection(pieces, real_set(item))
        return pieces
    if answer.kind == "list" and all(
        isinstance(item, Relation) and set(item.operators) == {"\\ne"} for item in answer.items
    ):
        return real_set(Collection("list", answer.items, "and"))
    raise NoRealSet


def _point(item: Answer) -> Piece:
    end = _end(item)
    return Piece(end, end, True, True)


def _end(item: Answer) -> Value:
    if not isinstance(item, Quantity) or item.unit is not None or item.is_percent:
        raise NoRealSet
    if signed_infinity(item.node):
        return signed_infinity(item.node) * mpmath.inf
    return _number(item.node)


def _number(node: Node, values: Mapping[str, Value] | None = None) -> Value:
    if symbols_of(node) - set(values or ()):
        raise NoRealSet
    try:
        value = evaluate(node, values)
    except (ZeroDivisionError, NotAnExpression) as error:
        raise NoRealSet from error
    if isinstance(value, mpmath.mpc):
        raise NoRealSet
    return value


def inequality_symbol(answer: Answer) -> str | None:
    """
    Finds the letter that an inequality bounds.

    Args:
        answer (`Answer`):
            Any answer.

    Returns:
        `str`, *optional*: the letter; `None` for what is no inequality, or has several letters.
    """
    if isinstance(answer, Collection):
        names = {inequality_symbol(item) for item in answer.items}
        return names.pop() if len(names) == 1 else None
    if not isinstance(answer, Relation):
        return None
    symbols = frozenset().union(*(symbols_of(side.node) for side in answer.sides if isinstance(side, Quantity)))
    return min(symbols) if len(symbols) == 1 else None


def _relation_set(relation: Relation) -> tuple[Piece, ...]:
    symbol = inequality_symbol(relation)
    if symbol is None or "=" in relation.operators:
        raise NoRealSet
    pieces: tuple[Piece, ...] = _ALL
    for left, operator, right in zip(relation.sides, relation.operators, relation.sides[1:], strict=False):
        if not isinstance(left, Quantity) or not isinstance(right, Quantity):
            raise NoRealSet
        pieces = _intersection(pieces, _inequality_set(left.node, operator, right.node, symbol))
    return pieces


def _inequality_set(left: Node, operator: str, right: Node, symbol: str) -> tuple[Piece, ...]:
    if signed_infinity(left) or signed_infinity(right):
        return _infinite_bound(left, operator, right)
    if right.kind == "absolute":
        left, right, operator = right, left, _MIRRORED[operator]
    if left.kind == "absolute" and symbol not in symbols_of(right):
        return _absolute_set(left.children[0], operator, right, symbol)
    difference = Node("add", (left, Node("negative", (right,))))
    return _linear_set(difference, operator, symbol)


def _infinite_bound(left: Node, operator: str, right: Node) -> tuple[Piece, ...]:
    """-infinity < x and x < infinity hold always."""
    is_true = (signed_infinity(left) < 0 or signed_infinity(right) > 0) and operator == "<"
    is_true = is_true or ((signed_infinity(left) > 0 or signed_infinity(right) < 0) and operator == ">")
    if not is_true:
        raise NoRealSet
    return _ALL


def _absolute_set(inner: Node, operator: str, bound: Node, symbol: str) -> tuple[Piece, ...]:
    if operator not in ("<", "\\le", ">", "\\ge"):
        raise NoRealSet
    below = Node("add", (inner, Node("negative", (bound,))))
    above = Node("add", (inner, bound))
    first, second = _linear_set(below, operator, symbol), _linear_set(above, _MIRRORED[operator], symbol)
    return _intersection(first, second) if operator in ("<", "\\le") else _canonical([*first, *second])


def _linear_set(node: Node, operator: str, symbol: str) -> tuple[Piece, ...]:
    """Where a linear expression is below, above or not zero."""
    at_0, at_1, at_far = (_number(node, {symbol: Fraction(x)}) for x in (0, 1, Fraction(1793, 7)))
    with mpmath.workdps(400):
        exact = all(isinstance(value, Fraction) for value in (at_0, at_1, at_far))
        start, step = (at_0, at_1 - at_0) if exact else (to_real(at_0), to_real(at_1) - to_real(at_0))
        far = start + step * (Fraction(1793, 7) if exact else mpmath.mpf(1793) / 7)
        if step == 0 or not agree(far, at_far):
            raise NoRealSet
        root = -start / step
    if step < 0:
        operator = _MIRRORED[operator]
    if operator == "\\ne":
        return _complement((Piece(root, root, True, True),))
    is_closed = operator in ("\\le", "\\ge")
    if operator in ("<", "\\le"):
        return (Piece(-mpmath.inf, root, False, is_closed),)
    return (Piece(root, mpmath.inf, is_closed, False),)


def same_real_set(left: tuple[Piece, ...], right: tuple[Piece, ...]) -> bool:
    """
    Says whether two sets are the same.

    Args:
        left (`tuple[Piece, ...]`):
            A set, from [`real_set`].
        right (`tuple[Piece, ...]`):
            Another.

    Returns:
        `bool`: whether they are equal.
    """
    return len(left) == len(right) and all(
        _same_end(a.low, b.low) and _same_end(a.high, b.high) and (a.has_low, a.has_high) == (b.has_low, b.has_high)
        for a, b in zip(left, right, strict=True)
    )
