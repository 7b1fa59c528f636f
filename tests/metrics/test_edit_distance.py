"""Tests of the edit-distance ratio against a slow second implementation and by hand."""

import random

import pytest

from trl_score.metrics import edit_distance_ratio, edit_distance_ratios


def slow_distance(a, b, substitution_cost):
    """The textbook table, one row at a time."""
    row = list(range(len(b) + 1))
    for i, item_a in enumerate(a, start=1):
        above, row = row, [i]
        for j, item_b in enumerate(b, start=1):
            substituted = above[j - 1] + (0 if item_a == item_b else substitution_cost)
            row.append(min(above[j] + 1, row[j - 1] + 1, substituted))
    return row[-1]


@pytest.mark.parametrize(("kind", "substitution_cost"), [("levenshtein", 1), ("indel", 2)])
def test_agrees_with_a_slow_second_implementation(kind, substitution_cost):
    rng = random.Random(0)
    for _ in range(200):
        a, b = ("".join(rng.choices("abc", k=rng.randrange(9))) for _ in range(2))
        expected = slow_distance(a, b, substitution_cost) / max(1, len(a) + len(b))
        assert edit_distance_ratio(a, b, kind=kind) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "levenshtein", "indel"),
    [
        ("", "", 0.0, 0.0),
        ("same", "same", 0.0, 0.0),
        ("", "abc", 1.0, 1.0),
        ("abcd", "wxyz", 0.5, 1.0),  # 4 substitutions, or 4 deletions and 4 insertions, over 8
        ("kitten", "sitting", 3 / 13, 5 / 13),  # k->s, e->i, +g; a substitution counts twice under indel
        ("a", "aaaa", 0.6, 0.6),  # 3 insertions over 5
    ],
)
def test_by_hand(a, b, levenshtein, indel):
    assert edit_distance_ratio(a, b) == pytest.approx(levenshtein, abs=1e-12)
    assert edit_distance_ratio(a, b, kind="indel") == pytest.approx(indel, abs=1e-12)
    assert edit_distance_ratio(b, a) == edit_distance_ratio(a, b)


def test_levenshtein_never_exceeds_the_longer_over_the_sum():
    rng = random.Random(1)
    for _ in range(200):
        a, b = ("".join(rng.choices("abcdef", k=rng.randrange(1, 9))) for _ in range(2))
        assert edit_distance_ratio(a, b) <= max(len(a), len(b)) / (len(a) + len(b))


def test_token_ids_are_compared_one_by_one():
    assert edit_distance_ratio([5, 6, 7], [5, 7]) == 0.2


def test_each_problem_in_order():
    assert edit_distance_ratios(["ab", "x"], ["ab", "y"], kind="indel") == [0.0, 1.0]


def test_bad_input():
    with pytest.raises(ValueError, match=r"`kind` to be one of \['indel', 'levenshtein'\], got 'jaro'"):
        edit_distance_ratio("a", "b", kind="jaro")
    with pytest.raises(ValueError, match="got 2 of turn 1, 1 of turn 2"):
        edit_distance_ratios(["a", "b"], ["a"])
