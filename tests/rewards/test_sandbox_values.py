"""Typed JSON: what goes over comes back with its type, and what is not plain does not go over."""

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from trl_score.rewards.sandbox_values import MAX_DEPTH, UnsupportedValue, decode, encode, mutable_containers, refill

Point = namedtuple("Point", "x y")


def across(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**62),
        2**63,
        -(10**400),
        0.1,
        -0.0,
        5e-324,
        float("inf"),
        1 + 2j,
        complex(float("inf"), -0.0),
        "",
        "\x00\n\ud800 π",
        b"\x00\xff",
        bytearray(b"ab"),
        [],
        [1, [True, [None]]],
        (1, (2,), []),
        pytest.param({1, "a", (2, 3)}, id="a set of three types"),  # its own text depends on the hash seed
        frozenset({1}),
        {},
        {"a": 1, 2: [3], (1, 2): {4: 5}, None: True},
        OrderedDict([(2, 1), (1, 2)]),
        Counter("aab"),
        deque([1, 2]),
        range(0, 10**30, 7),
        Decimal("1.50"),
        Fraction(-3, 7),
        date(2020, 2, 29),
        datetime(2020, 2, 29, 12, 30, 1, 5, UTC),
        time(1, 2, 3),
        timedelta(days=-1, microseconds=3),
        int,
        str,
        dict,
    ],
    ids=repr,
)
def test_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    back = across(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_nan_and_the_signs_of_zero() -> None:
    assert math.isnan(across(float("nan")))
    assert math.copysign(1, across(-0.0)) == -1


def test_true_is_not_one() -> None:
    assert [type(item) for item in across([True, 1, 1.0])] == [bool, int, float]


def test_a_named_tuple_crosses_as_a_tuple_with_names() -> None:
    back = across(across(Point(1, [2])))
    assert isinstance(back, tuple)
    assert back == (1, [2])
    assert (back.x, back.y) == (1, [2])
    assert back._asdict() == {"x": 1, "y": [2]}
    with pytest.raises(AttributeError, match="no 'z' among x, y"):
        _ = back.z


def test_names_that_do_not_fit_are_left_out() -> None:
    fewer = type("Fewer", (tuple,), {"_fields": ("x",)})
    assert type(across(fewer((1, 2)))) is tuple


def test_the_views_of_a_dictionary_cross() -> None:
    value = {"a": [1], "b": [2]}
    assert across(value.keys()) == value.keys() == {"a", "b"}
    assert list(across(value.items())) == [("a", [1]), ("b", [2])]
    assert list(across(value.values())) == [[1], [2]]


def test_a_container_that_the_other_side_holds_crosses_as_its_number() -> None:
    row = [1]
    grid = [row, [2], ([3],)]
    numbers = {id(container): number for number, container in enumerate(mutable_containers(grid))}
    assert encode([grid[1], row], arguments=numbers) == [{"argument": 2}, {"argument": 1}]
    assert encode(list(grid), arguments=numbers) == [{"argument": 1}, {"argument": 2}, {"tuple": [{"argument": 3}]}]


@pytest.mark.parametrize(
    ("container", "value"),
    [
        ([1], [2, 3]),
        (bytearray(b"a"), bytearray(b"xyz")),
        ({"a": 1}, {"b": 2}),
        ({1}, {2}),
        (deque([1]), deque([2])),
        (Counter("aa"), Counter("b")),
    ],
    ids=repr,
)
def test_refill(container: Any, value: Any) -> None:
    refill(container, value)
    assert container == value


def test_a_defaultdict_crosses_without_its_factory() -> None:
    value = defaultdict(list, {1: [2]})
    assert across(value) == {1: [2]}
    assert type(across(value)) is defaultdict
    with pytest.raises(KeyError):
        across(value)[5]


class Liar:
    """Overrides all that a reader might ask."""

    def __eq__(self, other: object) -> bool:
        return True

    def __len__(self) -> int:
        return 99

    def __iter__(self) -> Any:
        return iter([9, 9])

    def __contains__(self, item: object) -> bool:
        return True

    def _lie(self, *args: Any) -> Any:
        return 99

    __hash__ = object.__hash__
    __int__ = __index__ = __add__ = __getitem__ = items = keys = __str__ = __float__ = _lie


@pytest.mark.parametrize("value", [3, 2.5, "abc", b"xy", [1, 2], (1, 2), {1, 2}, frozenset({1}), {"a": 1}], ids=repr)
def test_of_a_subclass_the_builtin_value_crosses(value: Any) -> None:
    base = type(value)
    lying = type("Lying", (Liar, base), {})(value) if base is not dict else _lying_dict()
    back = across([lying])[0]
    assert type(back) is base
    assert back == value


def _lying_dict() -> Any:
    lying = type("Lying", (Liar, dict), {})()
    dict.__setitem__(lying, "a", 1)
    return lying


def test_a_slice_crosses() -> None:
    assert across(slice(0, 3)) == slice(0, 3, None)


@pytest.mark.parametrize(
    "value",
    [object(), iter([]), len, (x for x in ()), type("Own", (), {})()],
)
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(UnsupportedValue, match="no plain value"):
        encode([value])


def test_what_is_not_plain_crosses_as_a_handle() -> None:
    owned: list[Any] = []

    def make_handle(value: Any) -> dict[str, Any]:
        owned.append(value)
        return {"handle": len(owned) - 1}

    value = object()
    data = encode((1, value), make_handle)
    assert data == {"tuple": [1, {"handle": 0}]}
    assert decode(data, lambda tag, content: owned[content])[1] is value


def test_depth_is_bounded() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert across(value) == value
    with pytest.raises(UnsupportedValue, match="nested deeper than 100"):
        encode([value])
    assert decode(encode([value], depth=-1), max_depth=MAX_DEPTH + 1) == [value]
    with pytest.raises(UnsupportedValue, match="nested too deep"):
        decode([[value]])
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(UnsupportedValue, match="nested deeper"):
        encode(cyclic)


@pytest.mark.parametrize(
    "data",
    [
        {"int": "zz"},
        {"int": 5},
        {"float": "east"},
        {"tuple": 5},
        {"set": [[1]]},
        {"dict": [[1]]},
        {"dict": [[[1], 2]]},
        {"unknown": 1},
        {"tuple": [], "set": []},
        {},
        {"Decimal": "x"},
        {"Fraction": ["0x1", "0x0"]},
        {"Fraction": "1e999999999"},
        {"type": "eval"},
        {"range": [1]},
        {"datetime": "yesterday"},
    ],
    ids=json.dumps,
)
def test_nonsense_is_refused(data: Any) -> None:
    with pytest.raises(UnsupportedValue, match="data that is no value"):
        decode(data)


def test_deep_nonsense_is_refused() -> None:
    data: Any = 1
    for _ in range(100_000):
        data = [data]
    with pytest.raises(UnsupportedValue, match="nested too deep"):
        decode(data)
