r"""One mathematical expression in LaTeX, read and evaluated: `\frac{\sqrt{3}}{2}`, `2(x+1)`, `10^{-7}`.

The leaves of an answer. The grammar is small on purpose: numbers, letters, Greek, arithmetic, powers, roots,
logarithms, trigonometry, factorials, binomials, absolute values. What is not in it (sums, integrals, limits, words) is
refused with [`NotAnExpression`], and nothing is ever evaluated as a program. Numbers stay exact fractions as long as
they can; the rest is computed to 400 digits. What would take unreasonable work (towers, giant factorials) is refused
with [`TooLarge`] before it is computed.

Two expressions are equal if they are equal as exact fractions, or agree to 350 digits at several points: a necessary
and, short of an expression built to deceive at 350 digits, sufficient test that takes microseconds where a symbolic
simplification takes seconds or forever.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

import mpmath

DIGITS = 400
"""Working precision for what is not a fraction."""

AGREEMENT_DIGITS = 350
"""How many digits of two numbers must agree. The rest of `DIGITS` is room for rounding."""

MAX_BITS = 100_000
"""No number longer than this is computed: about thirty thousand digits."""

MAX_FACTORIAL = 3_000
MAX_NUMBER_CHARS = 2_000
MAX_DEPTH = 60
"""Of brackets in one another; keeps recursion far from Python's limit."""

MAX_TOKENS = 400

Value: TypeAlias = Fraction | mpmath.mpf | mpmath.mpc
"""Exact where it can be, else real or complex to `DIGITS` digits."""


class NotAnExpression(ValueError):
    """The text is not an expression of the grammar."""


class TooLarge(ValueError):
    """Evaluating would take unreasonable time or memory."""


@dataclass(frozen=True)
class Node:
    """
    A node of an expression tree.

    Args:
        kind (`str`):
            `"number"`, `"symbol"`, `"constant"`, an operator or a function.
        children (`tuple[Node, ...]`, *optional*):
            The operands.
        value (`Fraction`, *optional*):
            Of a number.
        name (`str`, *optional*):
            Of a symbol or constant.
    """

    kind: str
    children: tuple["Node", ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""


FUNCTIONS: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "cot": mpmath.cot,
    "sec": mpmath.sec,
    "csc": mpmath.csc,
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
    "ln": mpmath.log,
    "exp": mpmath.exp,
}
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_GREEK = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Sigma",
        "Phi",
        "Psi",
        "Omega",
        "ell",
    ]
)
_ACCENTS = frozenset(["vec", "hat", "bar", "overline", "mathbf", "mathcal", "tilde", "dot"])
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<command>\\[A-Za-z]+|\\[{}|])|(?P<letter>[A-Za-z])|(?P<mark>[-+*/^_!|(){}\[\]']))"
)
_LETTER_RUNS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_PRODUCT_LETTERS = tuple(map(frozenset, ("xyzt", "abcd", "pqrs", "mnk", "uvw", "xn", "rh")))
_SHORT_WORDS = frozenset(("no", "on", "is", "or", "if", "it", "so", "by", "to", "up", "at", "of", "do", "go"))
_UNKNOWN_FUNCTIONS = frozenset("fghFGHP")


def tokenize(text: str) -> list[str]:
    r"""
    Splits an expression into tokens.

    Args:
        text (`str`):
            The expression.

    Returns:
        `list[str]`: the tokens.

    Raises:
        [`NotAnExpression`]: At a character that no expression has, or a run of letters that is a word.

    Example:

    ```python
    >>> tokenize(r"\frac{1}{2}x^2")
    ['\\frac', '{', '1', '}', '{', '2', '}', 'x', '^', '2']

    ```
    """
    tokens, position = [], 0
    text = text.rstrip()
    for run in _LETTER_RUNS.findall(re.sub(r"\\[A-Za-z]+(?:_?\{[A-Za-z]+\})?|_\{[^{}]*\}", " ", text)):
        if (
            run.isupper()
            or run.lower() in _SHORT_WORDS
            or (len(run) > 2 and not any(set(run) <= letters for letters in _PRODUCT_LETTERS))
        ):
            raise NotAnExpression(f"{run!r} is a word, not a product of letters")
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotAnExpression(f"{text[position]!r} is no part of an expression")
        tokens.append(match.group().strip())
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent; one method per rule, loosest first."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.open_bars = 0

    @property
    def next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.next
        if not token:
            raise NotAnExpression("it ends too early")
        self.position += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise NotAnExpression(f"expected {token!r}, got {self.tokens[self.position - 1]!r}")

    def parse(self) -> Node:
        node = self.sum()
        if self.next:
            raise NotAnExpression(f"{self.next!r} does not continue it")
        return node

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression("it is nested too deeply")
        node = self.product()
        while self.next in ("+", "-"):
            operator = self.take()
            right = self.product()
            node = Node("add", (node, right if operator == "+" else Node("negative", (right,))))
        self.depth -= 1
        return node

    def product(self) -> Node:
        node = self.signed()
        while True:
            if self.next in ("*", "\\cdot", "\\times"):
                self.take()
                node = Node("multiply", (node, self.signed()))
            elif self.next in ("/", "\\div"):
                self.take()
                node = Node("divide", (node, self.signed()))
            elif self.starts_factor():
                node = self.implicit_product(node)
            else:
                return node

    def implicit_product(self, left: Node) -> Node:
        is_digit_after_number = left.kind == "number" and self.next[0] in "0123456789."
        right = self.power()
        if is_digit_after_number:
            raise NotAnExpression("two numbers stand side by side")
        if _is_proper_fraction(right) and left.kind == "number" and left.value.denominator == 1:
            return Node("add", (left, right))  # a mixed number, 2\frac{1}{3}
        return Node("multiply", (left, right))

    def starts_factor(self) -> bool:
        token = self.next
        if token == "|":
            return self.open_bars == 0
        if token in ("(", "{", "["):
            return token != "["
        return bool(token) and (token[0].isalnum() or token[0] == "." or _is_operand_command(token))

    def signed(self) -> Node:
        if self.next == "-":
            self.take()
            return Node("negative", (self.mixed_after_sign(),))
        if self.next == "+":
            self.take()
        return self.power()

    def mixed_after_sign(self) -> Node:
        """-2\\frac{1}{3} is -(2 + 1/3): the mixed number is bound before its sign."""
        node = self.power()
        if node.kind == "number" and node.value.denominator == 1 and self.next == "\\frac":
            return self.implicit_product(node)
        return node

    def power(self) -> Node:
        node = self.postfixed()
        if self.next == "^":
            self.take()
            if self.next == "\\circ":
                self.take()
                return Node("degrees", (node,))
            if self.tokens[self.position : self.position + 3] == ["{", "\\circ", "}"]:
                self.position += 3
                return Node("degrees", (node,))
            return self.factorials(Node("power", (node, self.script())))
        return node

    def postfixed(self) -> Node:
        return self.factorials(self.atom())

    def factorials(self, node: Node) -> Node:
        if self.next == "!":
            self.take()
            node = Node("factorial", (node,))
        if self.next == "!":
            raise NotAnExpression("double factorials are not supported")
        return node

    def script(self) -> Node:
        """What follows `^`: a group, one digit or letter, a command, a parenthesis, or a signed one of them."""
        if self.next == "-":
            self.take()
            return Node("negative", (self.script(),))
        return self.atom()

    def group(self) -> Node:
        self.expect("{")
        node = self.sum()
        self.expect("}")
        return node

    def atom(self) -> Node:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return Node("number", value=parse_number(token))
        if token in ("(", "{"):
            node = self.sum()
            self.expect(")" if token == "(" else "}")
            return node
        if token in ("|", "\\lvert", "\\vert"):
            return self.absolute("|" if token == "|" else token.replace("\\l", "\\r"))
        if token.isalpha():
            return self.letter(token)
        if token.startswith("\\"):
            return self.command(token[1:])
        raise NotAnExpression(f"{token!r} cannot stand here")

    def absolute(self, closer: str) -> Node:
        outer, self.open_bars = self.open_bars, 1
        node = self.sum()
        self.open_bars = outer
        self.expect(closer)
        return Node("absolute", (node,))

    def letter(self, letter: str) -> Node:
        if letter in _UNKNOWN_FUNCTIONS and self.next == "(":
            return Node("symbol", name=letter + self.skip_parenthesis())
        name = letter + self.suffix()
        if name in ("e", "i"):
            return Node("constant", name=name)
        return Node("symbol", name=name)

    def suffix(self) -> str:
        """Subscript and primes of a letter, as a part of its name."""
        name = ""
        if self.next == "_":
            self.take()
            name = "_" + (self.skip_braces() if self.next == "{" else self.take())
        while self.next == "'":
            name += self.take()
        return name

    def skip_braces(self) -> str:
        return self.skip("{", "}")[1:-1]

    def skip_parenthesis(self) -> str:
        return self.skip("(", ")")

    def skip(self, opener: str, closer: str) -> str:
        start, depth = self.position, 0
        while True:
            token = self.take()
            depth += (token == opener) - (token == closer)
            if depth == 0:
                return (
                    " ".join(self.tokens[start : self.position])
                    .replace(f"{opener} ", opener)
                    .replace(f" {closer}", closer)
                )

    def command(self, name: str) -> Node:
        if name in _GREEK:
            return Node("symbol", name="\\" + name + self.suffix())
        if name == "pi":
            return Node("constant", name="pi")
        if name == "infty":
            return Node("constant", name="infinity")
        if name == "frac":
            return Node("divide", (self.argument(), self.argument()))
        if name == "binom":
            return Node("binomial", (self.argument(), self.argument()))
        if name == "sqrt":
            return self.root()
        if name == "log":
            return self.logarithm()
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("lfloor", "lceil"):
            node = self.sum()
            self.expect("\\r" + name[1:])
            return Node("floor" if name == "lfloor" else "ceiling", (node,))
        if name in _ACCENTS and self.next == "{":
            return Node("symbol", name=f"\\{name}{{{self.skip_braces()}}}{self.suffix()}")
        raise NotAnExpression(f"\\{name} is not supported")

    def argument(self) -> Node:
        """Of `\\frac`: a group, or the one digit or letter of `\\frac12`."""
        if self.next == "{":
            return self.group()
        token = self.next
        if token.isdigit() and len(token) > 1:
            self.tokens[self.position : self.position + 1] = list(token)
        return self.atom()

    def root(self) -> Node:
        index = Node("number", value=Fraction(2))
        if self.next == "[":
            self.take()
            index = self.sum()
            self.expect("]")
        return Node("root", (self.argument(), index))

    def logarithm(self) -> Node:
        base = Node("number", value=Fraction(10))
        if self.next == "_":
            self.take()
            base = self.argument()
        exponent = self.function_exponent()
        node = Node("divide", (Node("ln", (self.function_argument(),)), Node("ln", (base,))))
        return Node("power", (node, exponent)) if exponent is not None else node

    def function(self, name: str) -> Node:
        exponent = self.function_exponent()
        if exponent == Node("negative", (Node("number", value=Fraction(1)),)) and name in _INVERSES:
            name, exponent = _INVERSES[name], None
        node = Node(name, (self.function_argument(),))
        return Node("power", (node, exponent)) if exponent is not None else node

    def function_exponent(self) -> Node | None:
        if self.next != "^":
            return None
        self.take()
        return self.script()

    def function_argument(self) -> Node:
        """`(2x)`, `|x|`, or without brackets a product that ends at the next function, bracket, `+`, `-` or `/`."""
        is_bracketed = self.next in ("(", "|", "{")
        node = self.signed()
        while not is_bracketed and self.starts_factor() and self.next not in ("(", "|"):
            if self.next.lstrip("\\") in (*FUNCTIONS, "log"):
                break
            node = self.implicit_product(node)
        return node


def _is_operand_command(token: str) -> bool:
    name = token.removeprefix("\\")
    return token.startswith("\\") and (
        name in _GREEK
        or name in FUNCTIONS
        or name in _ACCENTS
        or name in ("pi", "infty", "frac", "binom", "sqrt", "log", "lfloor", "lceil", "lvert", "vert")
    )


def _is_proper_fraction(node: Node) -> bool:
    if node.kind != "divide" or any(child.kind != "number" for child in node.children):
        return False
    top, bottom = (child.value for child in node.children)
    return top.denominator == bottom.denominator == 1 and 0 < top < bottom


def parse_number(text: str) -> Fraction:
    """
    Reads a decimal literal exactly.

    Args:
        text (`str`):
            Digits with an optional point, thousands commas and exponent.

    Returns:
        `Fraction`: its value.

    Raises:
        [`TooLarge`]: If it has more than 2,000 characters or an exponent beyond 2,000.

    Example:

    ```python
    >>> parse_number("1,234.5"), parse_number("3.4e4")
    (Fraction(2469, 2), Fraction(34000, 1))

    ```
    """
    mantissa, _, exponent = text.replace(",", "").lower().partition("e")
    if len(mantissa) > MAX_NUMBER_CHARS or len(exponent) > 6 or abs(int(exponent or 0)) > MAX_NUMBER_CHARS:
        raise TooLarge(f"a number of {len(text)} characters")
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


@lru_cache(maxsize=1024)
def parse_expression(text: str) -> Node:
    r"""
    Reads an expression.

    Args:
        text (`str`):
            LaTeX, normalised by [`normalize_latex`].

    Returns:
        [`Node`]: its tree.

    Raises:
        [`NotAnExpression`]: If the text is outside the grammar.
        [`TooLarge`]: If a literal is.

    Example:

    ```python
    >>> evaluate(parse_expression(r"\frac{1}{2}+\frac{1}{3}"))
    Fraction(5, 6)

    ```
    """
    tokens = tokenize(text)
    if not tokens:
        raise NotAnExpression("it is empty")
    if len(tokens) > MAX_TOKENS:
        raise TooLarge(f"an expression of {len(tokens)} tokens")
    return _Parser(tokens).parse()


def symbols_of(node: Node) -> frozenset[str]:
    """
    Collects the letters of an expression.

    Args:
        node ([`Node`]):
            The expression.

    Returns:
        `frozenset[str]`: their names.

    Example:

    ```python
    >>> sorted(symbols_of(parse_expression("2x + y_1")))
    ['x', 'y_1']

    ```
    """
    if node.kind == "symbol":
        return frozenset((node.name,))
    return frozenset().union(*map(symbols_of, node.children))


def evaluate(node: Node, values: Mapping[str, Value] | None = None) -> Value:
    """
    Computes an expression, exactly where it is rational.

    Args:
        node ([`Node`]):
            The expression.
        values (`Mapping[str, Fraction]`, *optional*):
            A number for each symbol.

    Returns:
        `Fraction`, `mpmath.mpf` or `mpmath.mpc`: the value; to 400 digits where it is no fraction.

    Raises:
        [`TooLarge`]: If it would be unreasonably large.
        `ZeroDivisionError`: If it divides by zero.
        [`NotAnExpression`]: If an operation has no value there (infinity in arithmetic, a negative factorial).
    """
    if node.kind == "number":
        return node.value
    if node.kind == "symbol":
        return (values or {})[node.name]
    with mpmath.workdps(DIGITS):
        if node.kind == "constant":
            return _constant(node.name)
        operands = [evaluate(child, values) for child in node.children]
        return _OPERATIONS[node.kind](*operands) if node.kind in _OPERATIONS else _apply(node.kind, operands[0])


def _constant(name: str) -> Value:
    if name == "infinity":
        raise NotAnExpression("infinity is no number")
    return {"pi": +mpmath.pi, "e": +mpmath.e, "i": mpmath.mpc(0, 1)}[name]


def to_real(value: Value) -> Value:
    """
    Turns a fraction into a floating number of the working precision; leaves others.

    Args:
        value (`Fraction`, `mpmath.mpf` or `mpmath.mpc`):
            A value.

    Returns:
        `mpmath.mpf` or `mpmath.mpc`: the same value.
    """
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def _binary(
    exact: Callable[[Fraction, Fraction], Fraction], inexact: Callable[[Value, Value], Value]
) -> Callable[[Value, Value], Value]:
    def operate(left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return _checked(exact(left, right))
        return inexact(to_real(left), to_real(right))

    return operate


def _checked(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge("an intermediate number")
    return value


def _bits(value: Fraction) -> int:
    return max(abs(value.numerator), value.denominator).bit_length()


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            if abs(base) != 1 and base != 0 and abs(exponent) * _bits(base) > MAX_BITS:
                raise TooLarge("a power")
            return base**exponent.numerator
        if exponent == Fraction(1, 2):
            return _root(base, Fraction(2))
    base, exponent = to_real(base), to_real(exponent)
    if base == 0:
        if mpmath.re(exponent) <= 0:
            raise ZeroDivisionError
        return mpmath.mpf(0)
    if abs(exponent) * (abs(mpmath.log(abs(base), 2)) + 5) > MAX_BITS:
        raise TooLarge("a power")
    return base**exponent


def _root(radicand: Value, index: Value) -> Value:
    if not isinstance(index, Fraction) or index.denominator != 1 or not 2 <= index <= 1000:
        return _power(radicand, _divide(Fraction(1), index))
    degree = index.numerator
    if isinstance(radicand, Fraction) and degree == 2 and radicand >= 0:
        top, bottom = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
        if Fraction(top * top, bottom * bottom) == radicand:
            return Fraction(top, bottom)
    real = to_real(radicand)
    if degree % 2 and isinstance(real, mpmath.mpf) and real < 0:
        return -mpmath.root(-real, degree)  # the real root, as schools define it
    return mpmath.root(real, degree)


def _factorial(value: Value) -> Value:
    if abs(value) > MAX_FACTORIAL:
        raise TooLarge("a factorial")
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise NotAnExpression("the factorial of a negative number")
        return Fraction(math.factorial(value.numerator))
    return mpmath.gamma(to_real(value) + 1)


def _binomial(top: Value, bottom: Value) -> Value:
    if abs(top) > MAX_FACTORIAL or abs(bottom) > MAX_FACTORIAL:
        raise TooLarge("a binomial coefficient")
    if isinstance(top, Fraction) and isinstance(bottom, Fraction) and top.denominator == bottom.denominator == 1:
        if top < 0 or bottom < 0:
            raise NotAnExpression("a binomial coefficient of a negative number")
        return Fraction(math.comb(top.numerator, bottom.numerator))
    return mpmath.binomial(to_real(top), to_real(bottom))


def _absolute(value: Value) -> Value:
    return abs(value)


def _floor(value: Value) -> Value:
    return Fraction(math.floor(value)) if isinstance(value, Fraction) else mpmath.floor(value)


def _ceiling(value: Value) -> Value:
    return Fraction(math.ceil(value)) if isinstance(value, Fraction) else mpmath.ceil(value)


def _degrees(value: Value) -> Value:
    return to_real(value) * mpmath.pi / 180


def _apply(name: str, value: Value) -> Value:
    number = to_real(value)
    if name in ("exp", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc") and abs(number) > MAX_BITS:
        raise TooLarge(f"the argument of {name}")
    if name == "ln" and number == 0:
        raise ZeroDivisionError
    return FUNCTIONS[name](number)


_add = _binary(lambda left, right: left + right, lambda left, right: left + right)
_multiply = _binary(lambda left, right: left * right, lambda left, right: left * right)
_divide = _binary(lambda left, right: left / right, lambda left, right: left / right)
_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": _add,
    "multiply": _multiply,
    "divide": _divide,
    "negative": lambda value: -value,
    "power": _power,
    "root": _root,
    "factorial": _factorial,
    "binomial": _binomial,
    "absolute": _absolute,
    "floor": _floor,
    "ceiling": _ceiling,
    "degrees": _degrees,
}


def agree(left: Value, right: Value) -> bool:
    """
    Says whether two values are equal: exactly if both are fractions, else to 350 digits.

    Args:
        left (`Fraction`, `mpmath.mpf` or `mpmath.mpc`):
            A value.
        right (`Fraction`, `mpmath.mpf` or `mpmath.mpc`):
            Another.

    Returns:
        `bool`: whether they are equal.

    Example:

    ```python
    >>> agree(Fraction(41, 10**8), Fraction(43, 10**8))
    False

    ```
    """
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    with mpmath.workdps(DIGITS):
        left, right = to_real(left), to_real(right)
        bound = mpmath.mpf(10) ** -AGREEMENT_DIGITS * max(1, abs(left), abs(right))
        return bool(abs(left - right) <= bound)


_SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 1))
"""Signs that the symbols take in turn at each sample point: an identity must hold on both sides of zero."""


def sample_points(symbols: frozenset[str]) -> list[dict[str, Fraction]]:
    """
    Chooses where expressions are compared: fixed fractions that depend on the symbols' names only.

    Args:
        symbols (`frozenset[str]`):
            The symbols of both expressions.

    Returns:
        `list[dict[str, Fraction]]`: a number for each symbol, at each of five points; one empty point without symbols.
    """
    if not symbols:
        return [{}]
    names = sorted(symbols)
    return [
        {name: signs[place % 2] * _sample(name, trial) for place, name in enumerate(names)}
        for trial, signs in enumerate(_SIGNS)
    ]


def _sample(name: str, trial: int) -> Fraction:
    digest = hashlib.sha256(f"{name}/{trial}".encode()).digest()
    return Fraction(200 + int.from_bytes(digest[:2], "big") % 2800, 997)


def values_at(node: Node, points: list[dict[str, Fraction]]) -> list[Value | None]:
    """
    Evaluates an expression at several points.

    Args:
        node ([`Node`]):
            The expression.
        points (`list[dict[str, Fraction]]`):
            A number for each symbol.

    Returns:
        `list`: a value per point, `None` where there is none (a division by zero).
    """
    values: list[Value | None] = []
    for point in points:
        try:
            values.append(evaluate(node, point))
        except (ZeroDivisionError, NotAnExpression):
            values.append(None)
    return values


def same_value(left: Node, right: Node) -> bool:
    r"""
    Says whether two expressions are equal, for all values of their symbols.

    Args:
        left ([`Node`]):
            An expression.
        right ([`Node`]):
            Another.

    Returns:
        `bool`: whether they are equal.

    Raises:
        [`TooLarge`]: If one would be unreasonably large.

    Example:

    ```python
    >>> same_value(parse_expression("(x+1)^2"), parse_expression("x^2+2x+1"))
    True
    >>> same_value(parse_expression(r"\frac{1}{500!}"), parse_expression(r"\frac{1}{501!}"))
    False

    ```
    """
    infinities = [signed_infinity(node) for node in (left, right)]
    if any(infinities):
        return infinities[0] == infinities[1]
    points = sample_points(symbols_of(left) | symbols_of(right))
    pairs = list(zip(values_at(left, points), values_at(right, points), strict=True))
    defined = [(a, b) for a, b in pairs if a is not None and b is not None]
    # An expression without a value at most points proves nothing.
    if 2 * len(defined) <= len(pairs):
        return False
    return all(agree(a, b) for a, b in defined)


def signed_infinity(node: Node) -> int:
    """
    Recognises plus and minus infinity.

    Args:
        node ([`Node`]):
            An expression.

    Returns:
        `int`: 1, -1, or 0 for anything else.
    """
    if node.kind == "negative":
        return -signed_infinity(node.children[0])
    return int(node.kind == "constant" and node.name == "infinity")
