"""Turns in a terminal: beside each other where there is room, changed words marked, nothing that a terminal obeys."""

import io
import re

import pytest
from rich.console import Console

from trl_score.terminal_view import print_turns, printable

TURNS = ["It is 41 km.", "It is 42 km."]


def show(turns=TURNS, *, width=100, is_terminal=False, answers=("41", "42"), truncated=None):
    console = Console(
        file=io.StringIO(), width=width, force_terminal=is_terminal, color_system="standard" if is_terminal else None
    )
    print_turns(console, "How far?", turns, answers, truncated or [False] * len(turns))
    return console.file.getvalue()


def test_two_turns_stand_side_by_side():
    lines = show().splitlines()
    assert lines[0] == "How far?"
    assert [line.split() for line in lines if "turn 1" in line] == [["turn", "1", "turn", "2"]]
    (line,) = [line for line in lines if "km." in line]
    assert re.fullmatch(r"\s+It is \[-41-\] km\.\s+It is \{\+42\+\} km\.\s+", line)
    assert lines[-1] == "answer changed: 41 -> 42"


@pytest.mark.parametrize(("num_turns", "width"), [(2, 71), (3, 107), (9, 200)])
def test_turns_stand_below_each_other_where_a_column_would_be_narrow(num_turns, width):
    turns = ["It is 41 km."] * num_turns
    lines = show(turns, width=width).splitlines()
    headings = [index for index, line in enumerate(lines) if line.startswith("turn ")]
    assert len(headings) == num_turns
    assert [lines[index + 1].strip() for index in headings] == turns
    beside = show(turns, width=36 * num_turns).splitlines()
    assert sum("turn 1" in line for line in beside) == sum(f"turn {num_turns}" in line for line in beside) == 1


def test_nothing_is_wider_than_the_terminal():
    long = "word " * 40 + "x" * 300
    for width in (20, 80, 200):
        for is_terminal in (False, True):
            written = show([long, long], width=width, is_terminal=is_terminal)
            visible = re.sub(r"\x1b\[[0-9;]*m", "", written)
            assert max(map(len, visible.splitlines())) <= width
            assert visible.count("x") == 600


def test_a_terminal_has_colours_in_place_of_brackets():
    written = show(is_terminal=True)
    assert "\x1b[4;31m41\x1b[0m" in written and "\x1b[4;32m42\x1b[0m" in written
    assert "[-" not in written


def test_later_turns_show_what_they_add_to_the_one_before():
    written = show(["1 2 3", "1 2 4", "5 2 4"], width=40, answers=("3", "4", "4"))
    assert [line for line in written.splitlines() if " 2 " in line and "turn" not in line] == [
        "1 2 [-3-]",
        "1 2 {+4+}",
        "{+5+} 2 4",
    ]


def test_a_turn_that_was_cut_off_says_so():
    assert "turn 2, cut off" in show(truncated=[False, True])
    assert "turn 1, cut off" in show(truncated=[True, True], width=40)


def test_a_single_turn_has_no_verdict():
    assert show(["It is 41 km."], answers=("41",)).splitlines()[1:] == [
        f"turn 1 {'─' * 93}",
        "It is 41 km.",
    ]


def test_the_verdict_leaves_out_what_is_no_short_answer():
    assert show(answers=("42", "42")).splitlines()[-1] == "answer unchanged: 42"
    assert show(answers=("x" * 61, "42")).splitlines()[-1] == "answer changed"
    assert show(answers=("x" * 61, "x" * 61)).splitlines()[-1] == "answer unchanged"


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("width", [40, 100])
def test_a_model_cannot_steer_the_terminal(width, is_terminal):
    attack = "\x1b[2J\x1b]0;title\x07\r\x08\x9b31m\u202e\u2066 [bold red]text[/bold red]\n\tend"
    written = show([attack, attack + "!"], width=width, is_terminal=is_terminal, answers=(attack, "\x1b[2J"))
    assert not set(written) & set("\x07\r\x08\x9b\u202e\u2066")
    assert set(re.findall(r"\x1b(?!\[[0-9;]*m)", written)) == set()  # only styles of our own
    assert "[bold red]" in written.replace("\n", "")


def test_printable_keeps_all_that_can_be_read():
    text = "π ≈ 3.14, „Ja“\n\t数学 🎉"
    assert printable(text) == text
