r"""What a final answer says: a number with its unit, a list, a point, an interval, an equation, a matrix, words.

Second step of grading mathematics, between the text (`answer_text`) and the expressions at the leaves
(`latex_expressions`). Reading the structure first is what keeps wrong answers out: an interval is never compared with a
set, a ratio never with a clock time, centimetres never with kilometres.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import Literal, TypeAlias

from trl_score.rewards.answer_text import normalize_latex
from trl_score.rewards.latex_expressions import MAX_DEPTH, Node, NotAnExpression, TooLarge, parse_expression
from trl_score.rewards.units import Unit, parse_unit


class Refused(ValueError):
    """The answer is one that no answer may be: unevaluated, or a false equality."""


@dataclass(frozen=True)
class Quantity:
    """A number or expression, with its unit. `text` is the expression as it was read."""

    text: str
    node: Node
    unit: Unit | None = None
    is_percent: bool = False


@dataclass(frozen=True)
class Collection:
    """
    Several answers. `kind`: `"list"` (1, 2), `"set"` {1, 2}, `"tuple"` (1, 2), `"bracket"` [1, 2], `"union"`.
    """

    kind: Literal["list", "set", "tuple", "bracket", "union"]
    items: tuple["Answer", ...]
    joiner: Literal[",", "and", "or"] = ","


@dataclass(frozen=True)
class Interval:
    """Two ends, of which at least one is marked closed or half-open: `[2, 5)`."""

    low: "Answer"
    high: "Answer"
    is_low_closed: bool
    is_high_closed: bool


@dataclass(frozen=True)
class Difference:
    """One set without another: `\\mathbb{R} \\setminus \\{1\\}`."""

    whole: "Answer"
    removed: "Answer"


@dataclass(frozen=True)
class Matrix:
    """Rows of entries. Round and square brackets are the same; bars are a determinant."""

    delimiter: str
    rows: tuple[tuple["Answer", ...], ...]


@dataclass(frozen=True)
class Relation:
    """Sides and the operators between them: `=`, `<`, `>`, `\\le`, `\\ge`, `\\ne`."""

    sides: tuple["Answer", ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Ratio:
    """Parts of `2:3`, as written. `is_clock` says that it may be a time; `marker` is am, pm or empty."""

    parts: tuple["Answer", ...]
    is_clock: bool
    marker: str = ""


@dataclass(frozen=True)
class BasedNumber:
    """Digits in a base: `1011_2`."""

    digits: str
    base: int


@dataclass(frozen=True)
class Choice:
    """A choice letter, and the value beside it if there is one: `(C) 12`."""

    letter: str
    value: "Answer | None"


@dataclass(frozen=True)
class Special:
    """`"reals"` or `"empty"` or `"undefined"`."""

    name: str


@dataclass(frozen=True)
class Words:
    """Text, in lower case and without punctuation."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Opaque:
    """Mathematics outside the grammar; equal only to the same text, or by another engine's judgement."""

    text: str


Answer: TypeAlias = (
    Quantity
    | Collection
    | Interval
    | Difference
    | Matrix
    | Relation
    | Ratio
    | BasedNumber
    | Choice
    | Special
    | Words
    | Opaque
)

_SPECIALS = {
    "no solution": "empty", "no solutions": "empty", "empty set": "empty", "the empty set": "empty", "none": "empty",
    "\\emptyset": "empty", "\\{\\}": "empty", "\\{ \\}": "empty",
    "\\mathbb{r}": "reals", "\\r": "reals", "all real numbers": "reals", "all reals": "reals", "real numbers": "reals",
    "undefined": "undefined", "does not exist": "undefined", "dne": "undefined",
}  # fmt: skip
_NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_UNEVALUATED = re.compile(
    r"\\(?:sum|int|iint|iiint|oint|prod|lim|limsup|liminf|max|min|sup|inf|gcd|lcm|det|bmod|pmod|mod|partial|Re|Im|arg|deg)"
    r"(?![A-Za-z])|\\frac\s*\{?\s*d\s*(?:\^[^{}]*)?\}?\s*\{\s*d[A-Za-z]|(?<![A-Za-z\\])(?:gcd|lcm|mod|max|min|sum|lim)(?=\s*[(_\d])"
)
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_OPENERS = frozenset(("(", "[", "{", "\\{", "\\langle", "\\begin"))
_CLOSERS = frozenset((")", "]", "}", "\\}", "\\rangle", "\\end"))
_SCAN = re.compile(r"\\[A-Za-z]+|\\.|[A-Za-z]+|.", re.DOTALL)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)(?!,\d)")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_JOINING_TEXT = re.compile(r"\\text\s*\{\s*,?\s*(and|or)\s*\}")
_INNER_JOINING_TEXT = re.compile(r"\\text\s*\{([^{}]*)\b(and|or)\b([^{}]*)\}")
_RELATIONS = ("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in")
_PLAIN_RELATIONS = (("<=", "\\le "), (">=", "\\ge "), ("!=", "\\ne "), ("==", "="))
_MATRIX = re.compile(
    r"(.*?)\\begin\{([bpvBV]?)(?:small)?(?:matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{[bpvBV]?(?:small)?(?:matrix|array)\}"
    r"\s*(?:\)|\]|\\\})?",
    re.DOTALL,
)
_CHOICE = re.compile(r"(?:\\text\s*\{\s*)?\(?\s*([A-J])\s*([).:])\s*\}?\s*(.*)", re.DOTALL)
_NAMED_CHOICE = re.compile(r"\s*(?:[Oo]ption|[Cc]hoice)\s*\(?([A-J])\)?\s*")
_BASED = re.compile(r"([0-9A-Z]+)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*)?(\d+|[a-z]+)[\s}]*")
_BASES = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "sixteen": 16,
}
_CLOCK = re.compile(r"(\d{1,2})\s*:\s*(\d{2})\s*(?:\\text\s*\{)?\s*([ap])?\s*\.?\s*(m)?\.?\s*\}?", re.IGNORECASE)
_WORDED_RATIO = re.compile(r"\s*(\d+)\s+to\s+(\d+)\s*")
_LEAD_IN = re.compile(
    r"(?:(?:[A-Za-z']+[\s,]+){0,8}(?:is|are|equals|equal|be|was)\b(?:\s+(?:equal\s+)?to\b)?[\s:]*|(?:the\s+)?(?:final\s+)?answer\s*:\s*|(?:therefore|thus|so|hence)[\s,:]+)",
    re.IGNORECASE,
)
_NEGATIONS = frozenset(
    [
        "not",
        "no",
        "never",
        "isn't",
        "aren't",
        "nor",
        "neither",
        "between",
        "least",
        "most",
        "less",
        "more",
        "approximately",
        "about",
        "roughly",
        "either",
        "if",
        "unless",
        "than",
        "around",
        "nearly",
        "almost",
    ]
)
_CURRENCIES = {"\\$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee", "US\\$": "dollar"}
_DEGREES = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*(?:\\text\s*\{\s*([CF])\s*\}|([CF]))?$")
_PERCENT = re.compile(r"(?:\s*%|\s*(?:\\text\s*\{)?\s*(?:percent|per cent|pct|percentage)\s*\}?)$", re.IGNORECASE)
_TEXT_UNIT = re.compile(r"(?P<value>.*?[^\s{(\\])\s*(?P<unit>\\text\s*\{[^{}]*[A-Za-z][^{}]*\}.*)", re.DOTALL)
_PLAIN_UNIT = re.compile(
    r"(?P<value>.*?[\d})!])\s*(?P<unit>[A-Za-z][A-Za-z.]*(?:\s*\^\s*\{?-?\d\}?)?(?:(?:\s*[/*-]\s*|\s+)[A-Za-z.]+(?:\s*\^\s*\{?-?\d\}?)?){0,5})",
    re.DOTALL,
)
_SPACED_MIXED = re.compile(r"(-?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)")
_SPACED_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline|bar)\s*\{(\d+)\}")
_SCIENTIFIC = re.compile(r"(-?\d+(?:\.\d*)?)\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*(-?\+?\d+)\s*\}?")


def check_evaluated(text: str) -> None:
    r"""
    Refuses sums, integrals, limits and the like: boxing the question must not pay.

    Args:
        text (`str`):
            A normalised answer.

    Raises:
        [`Refused`]: If one is in it.

    Example:

    ```python
    >>> check_evaluated(r"\sum_{k=1}^{100} k")
    Traceback (most recent call last):
        ...
    trl_score.rewards.math_answers.Refused: '\\sum' is not evaluated

    ```
    """
    match = _UNEVALUATED.search(text)
    if match is not None:
        raise Refused(f"{match.group()!r} is not evaluated")


def split_top_level(
    text: str, separators: tuple[str, ...], *, keep_thousands: bool = False
) -> tuple[list[str], list[str]]:
    r"""
    Splits at separators that stand outside of all brackets.

    Args:
        text (`str`):
            A normalised answer.
        separators (`tuple[str, ...]`):
            Characters, commands or words.
        keep_thousands (`bool`, *optional*, defaults to `False`):
            Whether the comma in 1,234 is a part of the number.

    Returns:
        `tuple[list[str], list[str]]`: the parts, and the separators between them.

    Example:

    ```python
    >>> split_top_level("(1,2), 3", (",",))
    (['(1,2)', ' 3'], [','])

    ```
    """
    kept = (
        {match.start() + offset for match in _THOUSANDS.finditer(text) for offset in range(len(match.group()))}
        if keep_thousands
        else set()
    )
    parts, found, start, depth = [], [], 0, 0
    for match in _SCAN.finditer(text):
        token = match.group()
        depth += (token in _OPENERS) - (token in _CLOSERS)
        if depth == 0 and token in separators and match.start() not in kept:
            parts.append(text[start : match.start()])
            found.append(token)
            start = match.end()
    return [*parts, text[start:]], found


def _encloses(text: str, opener: str, closer: str) -> bool:
    """Whether the first bracket is closed by the last one."""
    if not (text.startswith(opener) and text.endswith(closer)) or len(text) < len(opener) + len(closer):
        return False
    depth, last = 0, len(text) - len(closer)
    for match in _SCAN.finditer(text):
        token = match.group()
        depth += (token in _OPENERS) - (token in _CLOSERS)
        if depth == 0:
            return match.start() == last
    return False


def parse_answer(text: str, *, strip_prose: bool = True) -> Answer:
    r"""
    Reads the structure of an answer.

    Args:
        text (`str`):
            The answer as written, in or out of a box.
        strip_prose (`bool`, *optional*, defaults to `True`):
            Whether "The answer is 12" may stand for 12.

    Returns:
        `Answer`: what it says. Never fails on text that is merely strange: that is [`Words`] or [`Opaque`].

    Raises:
        [`TooLarge`]: If a number in it is unreasonably long, or brackets are nested unreasonably deep.

    Example:

    ```python
    >>> parse_answer(r"[2, 5)").is_low_closed
    True
    >>> parse_answer(r"\text{Monday}")
    Words(words=('monday',))

    ```
    """
    text = normalize_latex(text)
    if _nesting(text) > MAX_DEPTH:
        raise TooLarge("an answer with that many brackets in one another")
    text = text.removeprefix("=").strip()
    if strip_prose:
        text = _strip_lead_in(text)
    return _parse(text)


def _nesting(text: str) -> int:
    steps = ((token in _OPENERS) - (token in _CLOSERS) for token in _SCAN.findall(text))
    return max(accumulate(steps), default=0)


def _strip_lead_in(text: str) -> str:
    words = re.sub(r"\s+", " ", _TEXT.sub(r" \1 ", text)).strip()
    match = _LEAD_IN.match(words)
    if match is None or not match.group().strip() or _NEGATIONS & set(match.group().lower().split()):
        return text
    return words[match.end() :].strip(" :") or text


def _parse(text: str) -> Answer:
    text = text.strip()
    for plain, command in _PLAIN_RELATIONS:
        text = text.replace(plain, command)
    exact, found = split_top_level(text, ("\\approx",))
    if found and exact[0].strip():
        text = exact[0].strip()  # the decimals after it only illustrate
    for reader in _READERS:
        answer = reader(text)
        if answer is not None:
            return answer
    return _read_words(text)


def _read_special(text: str) -> Answer | None:
    plain = _TEXT.sub(r"\1", text).strip().lower()
    return Special(_SPECIALS[plain]) if plain in _SPECIALS else None


def _read_braces(text: str) -> Answer | None:
    """LaTeX groups, text commands and parentheses around one thing mean nothing."""
    words = _TEXT.fullmatch(text)
    if words is not None:
        return _parse(words.group(1))
    if _encloses(text, "{", "}"):
        return _parse(text[1:-1])
    if _encloses(text, "(", ")") and len(text) > 3 and not split_top_level(text[1:-1], (",", ";"))[1]:
        return _parse(text[1:-1]) if _CHOICE.fullmatch(text) is None else None
    return None


def _read_plus_minus(text: str) -> Answer | None:
    if _PLUS_MINUS.search(text) is None:
        return None
    upper = re.sub(r"\\mp(?![A-Za-z])", "-", re.sub(r"\\pm(?![A-Za-z])", "+", text))
    lower = re.sub(r"\\mp(?![A-Za-z])", "+", re.sub(r"\\pm(?![A-Za-z])", "-", text))
    items = [_parse(re.sub(r"(^|[=(,{])\s*\+", r"\1", branch)) for branch in (upper, lower)]
    return _flatten("list", items, ",")


def _flatten(kind: Literal["list", "set"], items: list[Answer], joiner: str) -> Collection:
    flat: list[Answer] = []
    for item in items:
        flat.extend(item.items if isinstance(item, Collection) and item.kind == "list" else [item])
    return Collection(kind, tuple(flat), joiner)  # type: ignore[arg-type]


def _read_matrix(text: str) -> Answer | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    factor, delimiter, body = match.groups()
    for opener in ("(", "[", "\\{"):
        factor = factor.removesuffix(opener)
    if "\\begin" in body:
        return Opaque(text)
    rows = [split_top_level(row, ("&",))[0] for row in re.split(r"\\\\|\\cr", body) if row.strip()]
    entries = tuple(tuple(_parse(f"{factor}({entry})" if factor.strip() else entry) for entry in row) for row in rows)
    return Matrix("|" if delimiter in ("v", "V") else "", entries)


def _read_choice(text: str) -> Answer | None:
    named = _NAMED_CHOICE.fullmatch(_TEXT.sub(r"\1", text))
    if named is not None:
        return Choice(named.group(1), None)
    match = _CHOICE.fullmatch(text)
    if match is None or ("(" in match.group(3) and ")" not in match.group(3)):
        return None
    letter, _, rest = match.groups()
    rest = rest.strip(" .}") if "\\" not in rest else rest.strip(" .")
    return Choice(letter, _parse(rest) if rest else None)


def _read_list(text: str) -> Answer | None:
    text = _JOINING_TEXT.sub(r" \1 ", text)
    text = _INNER_JOINING_TEXT.sub(r"\\text{\1} \2 \\text{\3}", text).replace("\\text{}", "")
    parts, found = split_top_level(text, (",", ";", "and", "or", "\\wedge", "\\vee"), keep_thousands=True)
    if not found:
        return None
    joiner = "or" if {"or", "\\vee"} & set(found) else "and" if {"and", "\\wedge"} & set(found) else ","
    items = [_parse(part) for part in parts if part.strip()]
    if len(items) < 2:
        return items[0] if items else Opaque(text)
    return _flatten("list", _repeat_left_side(items), joiner)


def _repeat_left_side(items: list[Answer]) -> list[Answer]:
    """x = 1, 2 says that x = 1 and x = 2."""
    first = items[0]
    if (
        isinstance(first, Relation)
        and first.operators == ("=",)
        and all(isinstance(item, Quantity) for item in items[1:])
    ):
        return [first, *(replace(first, sides=(first.sides[0], item)) for item in items[1:])]
    return items


def _read_union(text: str) -> Answer | None:
    parts, found = split_top_level(text, ("\\cup",))
    if found:
        return Collection("union", tuple(_parse(part) for part in parts))
    parts, found = split_top_level(text, ("\\setminus",))
    if len(found) == 1:
        return Difference(_parse(parts[0]), _parse(parts[1]))
    parts, found = split_top_level(text, ("-",))
    if len(found) == 1 and _read_special(parts[0]) == Special("reals"):
        return Difference(Special("reals"), _parse(parts[1]))
    return None


def _read_set(text: str) -> Answer | None:
    if not _encloses(text, "\\{", "\\}"):
        return None
    body = text[2:-2]
    parts, found = split_top_level(body, ("|", ":"))
    if len(found) == 1 and re.fullmatch(r"\s*[A-Za-z](?:\s*\\in\s*\\mathbb\{R\})?\s*", parts[0]):
        return _parse(parts[1])
    items = [_parse(part) for part in split_top_level(body, (",", ";"))[0]]
    return _flatten("set", items, ",")


def _read_brackets(text: str) -> Answer | None:
    for opener, closer in (("\\langle", "\\rangle"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if not _encloses(text, opener, closer):
            continue
        parts = split_top_level(text[len(opener) : -len(closer)], (",", ";"))[0]
        items = tuple(_parse(part) for part in parts)
        if (len(items) == 2 and "[" in opener + closer) or (len(items) == 2 and "]" in opener + closer):
            return Interval(items[0], items[1], opener == "[", closer == "]")
        if len(items) == 1:
            return None
        return Collection("bracket" if opener == "[" else "tuple", items)
    return None


def _read_relation(text: str) -> Answer | None:
    parts, found = split_top_level(text, _RELATIONS)
    if not found:
        return None
    if found == ["\\in"]:
        return _parse(parts[1])
    if "\\in" in found or not all(part.strip() for part in parts):
        return Opaque(text)
    return Relation(tuple(_parse(part) for part in parts), tuple(found))


def _read_ratio(text: str) -> Answer | None:
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        hours, minutes, marker, _ = clock.groups()
        parts = (_parse(hours), _parse(minutes))
        return Ratio(parts, int(hours) < 25 and int(minutes) < 60, (marker or "").lower())
    texts, found = split_top_level(text, (":",))
    worded = _WORDED_RATIO.fullmatch(_TEXT.sub(r" \1 ", text))
    if worded is not None:
        texts, found = list(worded.groups()), ["to"]
    if not found or not all(part.strip() for part in texts):
        return None
    return Ratio(tuple(_parse(part) for part in texts), is_clock=False)


def _read_based(text: str) -> Answer | None:
    match = _BASED.fullmatch(_TEXT.sub(r"\1", text))
    if match is None:
        return None
    digits, base_text = match.groups()
    base = int(base_text) if base_text.isdigit() and len(base_text) < 3 else _BASES.get(base_text, 0)
    if not 2 <= base <= 36 or not any(character.isdigit() for character in digits):
        return None
    if any(int(character, 36) >= base for character in digits):
        return None
    return BasedNumber(digits.lstrip("0") or "0", base)


def _read_quantity(text: str) -> Answer | None:
    for candidate in _quantity_readings(text):
        try:
            return replace(candidate, node=parse_expression(candidate.text))
        except NotAnExpression:
            continue
    return None


_NO_NODE = Node("symbol", name="?")


def _quantity_readings(text: str) -> Iterator[Quantity]:
    """Ways to cut a text into number and unit, the most specific first."""
    number = _plain_number(text)
    currency = next((symbol for symbol in _CURRENCIES if text.lstrip("-").startswith(symbol)), None)
    if currency is not None:
        sign = "-" if text.startswith("-") else ""
        rest = sign + text.lstrip("-")[len(currency) :].strip()
        scaled = _scaled(rest) or rest
        yield Quantity(
            _plain_number(_TEXT.sub("", scaled)), _NO_NODE, parse_unit(_CURRENCIES[currency].replace(" ", ""))
        )
    percent = _PERCENT.search(text)
    if percent is not None:
        yield Quantity(_plain_number(text[: percent.start()]), _NO_NODE, is_percent=True)
    degrees = _DEGREES.search(text)
    if degrees is not None:
        scale = degrees.group(1) or degrees.group(2) or "degree"
        unit = {"C": "celsius", "F": "fahrenheit"}.get(scale, "degree")
        yield Quantity(_plain_number(text[: degrees.start()]), _NO_NODE, parse_unit(unit))
    yield from _worded_readings(text, known_only=True)
    yield Quantity(number, _NO_NODE)
    yield from _worded_readings(text, known_only=False)
    plain = _TEXT.sub(r"\1", text).strip().lower()
    if plain in _NUMBER_WORDS:
        yield Quantity(str(_NUMBER_WORDS[plain]), _NO_NODE)


def _worded_readings(text: str, *, known_only: bool) -> Iterator[Quantity]:
    """Readings of `12 \\text{ cm}` and `12 cm`; of `12 apples` only where `known_only` is false."""
    for pattern in (_TEXT_UNIT, _PLAIN_UNIT):
        match = pattern.fullmatch(text)
        if match is None:
            continue
        phrase = _TEXT.sub(r" \1 ", match["unit"]).strip(" .")
        value = match["value"].strip()
        scaled = _scaled(f"{value} {phrase}")
        if scaled is not None:
            yield Quantity(scaled, _NO_NODE)
            continue
        if pattern is _PLAIN_UNIT and len(phrase) == 1 and not re.search(r"\d\s+[a-zA-Z]$", text):
            continue  # 5m is five times m
        unit = parse_unit(phrase)
        if unit is not None and unit.is_known == known_only:
            yield Quantity(_plain_number(value), _NO_NODE, unit)


def _scaled(text: str) -> str | None:
    """5 million -> 5*1000000."""
    match = re.fullmatch(r"(.*[\d}])\s*([A-Za-z]+)", _TEXT.sub(r" \1 ", text).strip())
    if match is None or match.group(2).lower() not in _SCALES:
        return None
    return f"{match.group(1)}*{_SCALES[match.group(2).lower()]}"


def _plain_number(text: str) -> str:
    """Spellings of one number that the grammar of expressions does not have."""
    text = _unwrap_text(text.strip())
    mixed = _SPACED_MIXED.fullmatch(text)
    if mixed is not None:
        return "{}({}+{}/{})".format(*mixed.groups())
    if _SPACED_THOUSANDS.fullmatch(text):
        return text.replace(" ", "")
    repeating = _REPEATING.fullmatch(text)
    if repeating is not None:
        return _repeating_fraction(*repeating.groups())
    scientific = _SCIENTIFIC.fullmatch(text)
    if scientific is not None:
        return f"{scientific.group(1)}e{scientific.group(2)}"
    return text


def _unwrap_text(text: str) -> str:
    match = _TEXT.fullmatch(text)
    return match.group(1).strip() if match else text


def _repeating_fraction(sign: str, whole: str, fixed: str, period: str) -> str:
    value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return f"{sign}\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _read_words(text: str) -> Answer:
    plain = re.sub(r"\\(triangle|angle)(?![A-Za-z])", r" \1 ", _TEXT.sub(r" \1 ", text))
    words = re.sub(r"[^\w\s]", " ", plain).split()
    if "\\" in plain or not words or re.search(r"[\^_=+*/<>|{}]", plain):
        return Opaque(text)
    if len(words) == 1 and len(words[0]) == 1:
        return Words(tuple(words))  # one letter: its case is its meaning
    return Words(tuple(word.lower() for word in words))


_READERS: tuple[Callable[[str], Answer | None], ...] = (
    _read_special,
    _read_braces,
    _read_plus_minus,
    _read_matrix,
    _read_choice,
    _read_list,
    _read_union,
    _read_set,
    _read_relation,
    _read_brackets,
    _read_based,
    _read_ratio,
    _read_quantity,
)
