"""Tests of marking the words that differ between two turns."""

import itertools

import pytest

from trl_score.metrics.changed_words import Segment, changed_words, mark_turns


def changed(segments):
    return [segment.text for segment in segments if segment.is_changed]


@pytest.mark.parametrize(
    ("text_t1", "text_t2", "dropped", "added"),
    [
        ("It is 41.", "It is 42.", ["41"], ["42"]),
        ("47 + 86 = 33", "47 + 86 = 33", [], []),
        ("", "new", [], ["new"]),
        ("gone", "", ["gone"], []),
        ("", "", [], []),
        # A word is changed as a whole, though it shares letters; punctuation stands for itself.
        ("wrong!", "wring!", ["wrong"], ["wring"]),
        ("a\nb", "a b", ["\n"], [" "]),
        ("x = \\frac{1}{2}", "x = \\frac{1}{3}", ["2"], ["3"]),
        ("größer 7", "kleiner 7", ["größer"], ["kleiner"]),
    ],
)
def test_words_that_differ(text_t1, text_t2, dropped, added):
    first, second = changed_words(text_t1, text_t2)
    assert (changed(first), changed(second)) == (dropped, added)


def test_pieces_are_the_turns_and_neighbours_differ():
    first, second = changed_words("so 1 2 3, then 4", "so 2 5 3, and then 4 again")
    assert "".join(segment.text for segment in first) == "so 1 2 3, then 4"
    assert "".join(segment.text for segment in second) == "so 2 5 3, and then 4 again"
    for segments in (first, second):
        kinds = [segment.is_changed for segment in segments]
        assert all(one is not other for one, other in itertools.pairwise(kinds))


def test_the_fewest_words_are_marked():
    # "1 2 3 4" -> "2 3 4 1": keeping "2 3 4" moves one word, keeping "1" would move three.
    first, second = changed_words("1 2 3 4", "2 3 4 1")
    assert changed(first) == ["1 "]
    assert changed(second) == [" 1"]


def test_a_turn_that_repeats_itself_takes_no_time():
    text = "the " * 20_000
    assert changed_words(text, text) == ([Segment(text, False)], [Segment(text, False)])
    first, second = changed_words(text[:20_000], text[:16_000] + "end")
    assert "".join(segment.text for segment in first) == text[:20_000]
    assert changed(second) == ["end"]


def test_each_turn_is_marked_against_its_neighbour():
    marked = mark_turns(["1 2", "1 3", "4 3"])
    assert [changed(turn) for turn in marked] == [["2"], ["3"], ["4"]]
    assert mark_turns(["1 2"]) == [[Segment("1 2", False)]]
