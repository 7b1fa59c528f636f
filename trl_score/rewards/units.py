"""Units of measurement in answers: `5 cm`, `12 miles per hour`, `\\$3`, `9 apples`, and what one is of another."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

_F = Fraction
_WORDS: dict[str, tuple[str, int, Fraction]] = {}
"""Word -> base unit, its power, and how many of the base unit the word stands for."""


def _define(base: str, power: int, **factors: Fraction | int) -> None:
    for words, factor in factors.items():
        for word in words.split("_"):
            _WORDS[word] = (base, power, _F(factor))


_define("meter", 1, m_meter_metre=1, cm_centimeter_centimetre=_F(1, 100), mm_millimeter_millimetre=_F(1, 1000))
_define("meter", 1, km_kilometer_kilometre=1000, inch_in=_F(254, 10000), foot_ft_feet=_F(3048, 10000))
_define("meter", 1, yard_yd=_F(9144, 10000), mile_mi=_F(1609344, 1000))
_define("meter", 3, l_liter_litre=_F(1, 1000), ml_milliliter_millilitre_cc=_F(1, 10**6))
_define("gram", 1, g_gram=1, kg_kilogram=1000, mg_milligram=_F(1, 1000), lb_lbs_pound=_F(45359237, 100000))
_define("gram", 1, oz_ounce=_F(45359237, 1600000))
_define("second", 1, s_sec_second=1, min_minute=60, h_hr_hour=3600, day=86400, week=604800)
_define("dollar", 1, dollar_usd_buck=1, cent=_F(1, 100))
_define("month", 1, month=1, year_yr=12)
_define("degree", 1, deg_degree=1)
_define("radian", 1, rad_radian=1)
_define("euro", 1, euro_eur=1)
_SHORTHANDS = {
    "mph": "mile / hour",
    "kph": "km / hour",
    "kmh": "km / hour",
    "kmph": "km / hour",
    "sq": "square",
    "cu": "cubic",
}
_IRREGULAR = {
    "people": "person",
    "children": "child",
    "men": "man",
    "women": "woman",
    "mice": "mouse",
    "inches": "inch",
}
_IGNORED = frozenset(("of", "the", "a", "an", "unit", "units", "in total", "total", "each", "long"))
_NOT_UNITS = frozenset(
    [
        "not",
        "no",
        "less",
        "more",
        "than",
        "least",
        "most",
        "or",
        "and",
        "about",
        "approximately",
        "between",
        "plus",
        "minus",
        "times",
        "half",
        "either",
        "if",
        "only",
        "never",
        "is",
        "are",
        "was",
        "be",
        "over",
        "under",
        "after",
        "before",
        "except",
        "without",
        "none",
        "wrong",
        "right",
        "at",
    ]
)
_POWERS = {"square": 2, "squared": 2, "cubic": 3, "cubed": 3}
_PIECE = re.compile(r"([A-Za-z]+)\.?(?:\s*\^\s*\{?\s*(-?\d)\s*\}?)?|(/)|([\s*-]+|\\cdot)")


@dataclass(frozen=True)
class Unit:
    """
    A unit as powers of base units.

    Args:
        dimensions (`frozenset`):
            `(base unit, power)` pairs; empty for a bare "units".
        factor (`Fraction`):
            How many of the product of base units it is.
        is_known (`bool`):
            Whether every word is in the table, and none is just a noun.
    """

    dimensions: frozenset[tuple[str, int]]
    factor: Fraction
    is_known: bool


@lru_cache(maxsize=512)
def parse_unit(phrase: str) -> Unit | None:
    """
    Reads a unit. A word that is not in the table is a unit of its own, by its singular.

    Args:
        phrase (`str`):
            The words after a number.

    Returns:
        [`Unit`], *optional*: the unit, or `None` if the phrase cannot be one.

    Example:

    ```python
    >>> parse_unit("square cm") == parse_unit("cm^2"), parse_unit("apples") == parse_unit("apple")
    (True, True)
    >>> parse_unit("apples and pears") is None
    True

    ```
    """
    phrase = re.sub(
        r"\bper\b|\ba(?=\s)",
        "/",
        re.sub(r"[A-Za-z]+", lambda word: _SHORTHANDS.get(word.group(), word.group()), phrase),
    )
    dimensions: dict[str, int] = {}
    factor, sign, prefix, is_known, position = Fraction(1), 1, 1, True, 0
    last: tuple[str, int, Fraction] | None = None
    while position < len(phrase):
        match = _PIECE.match(phrase, position)
        if match is None:
            return None
        position = match.end()
        word, power, slash, _ = match.groups()
        if slash:
            sign = -1
        if not word or word.lower() in _IGNORED:
            continue
        if word.lower() in _NOT_UNITS:
            return None
        if word.lower() in _POWERS:
            if word.lower().endswith("ed") and last is not None:
                extra = sign * last[1] * (_POWERS[word.lower()] - 1)
                dimensions[last[0]] += extra
                factor *= last[2] ** (sign * (_POWERS[word.lower()] - 1))
            else:
                prefix = _POWERS[word.lower()]
            continue
        last = _lookup(word)
        is_known = is_known and _is_in_table(word)
        exponent = sign * prefix * int(power or 1)
        prefix = 1
        dimensions[last[0]] = dimensions.get(last[0], 0) + exponent * last[1]
        factor *= last[2] ** exponent
    return Unit(frozenset((base, power) for base, power in dimensions.items() if power), factor, is_known)


def _singular(word: str) -> str:
    word = word.lower()
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word


def _is_in_table(word: str) -> bool:
    return word in _WORDS or word.lower() in _WORDS or _singular(word) in _WORDS


def _lookup(word: str) -> tuple[str, int, Fraction]:
    for spelling in (word, word.lower(), _singular(word)):
        if spelling in _WORDS:
            return _WORDS[spelling]
    return _singular(word), 1, Fraction(1)
