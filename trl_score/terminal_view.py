"""
The turns of an answer as a person reads them in a terminal: side by side where there is room, with the words marked
that changed.

What a model wrote is untrusted: no character of it reaches the terminal that could move the cursor, change colours or
turn the direction of the text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trl_score.metrics.changed_words import mark_turns

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LEAST_COLUMN = 36
"""Characters of a turn's column below which turns stand below each other."""

_LONGEST_ANSWER = 60
_STYLES = ("underline red", "underline green")
_BRACKETS = (("[-", "-]"), ("{+", "+}"))
_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


def print_turns(
    console: "Console", question: str, turns: Sequence[str], answers: Sequence[str], truncated: Sequence[bool]
) -> None:
    """
    Prints the turns of one answer.

    Where the output is no terminal, such as a file, brackets stand in for colours: `[-41-]` was taken out, `{+42+}` was
    put in.

    Args:
        console (`Console`):
            Where to.
        question (`str`):
            What was asked.
        turns (`Sequence[str]`):
            The text of each turn.
        answers (`Sequence[str]`):
            The final answer of each turn.
        truncated (`Sequence[bool]`):
            Whether the length budget ended the turn.

    Example:
        >>> from rich.console import Console
        >>> console = Console(width=60, force_terminal=False)
        >>> print_turns(console, "What is 6 * 7?", ["It is 41."], ["It is 41."], [False])
        What is 6 * 7?
        turn 1 ─...
        It is 41.
    """
    from rich.text import Text

    console.print(Text(printable(question), style="bold"))
    headings = [f"turn {number}{', cut off' if is_cut else ''}" for number, is_cut in enumerate(truncated, start=1)]
    texts = _marked_texts(turns, console.is_terminal)
    if len(turns) > 1 and console.width // len(turns) >= LEAST_COLUMN:
        _print_beside(console, headings, texts)
    else:
        _print_below(console, headings, texts)
    if len(turns) > 1:
        console.print(Text(printable(_verdict(answers)), style="bold"))


def printable(text: str) -> str:
    r"""
    Replaces every character that a terminal would obey rather than show.

    Args:
        text (`str`):
            Any text.

    Returns:
        `str`: The same with line breaks, tabs and what can be printed; anything else is `\ufffd`.

    Example:
        >>> printable("a\tb\n\x1b[31mred")
        'a\tb\n\ufffd[31mred'
    """
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _UNPRINTABLE for letter in text)


def _marked_texts(turns: Sequence[str], has_styles: bool) -> list["Text"]:
    from rich.text import Text

    texts = []
    for number, pieces in enumerate(mark_turns(turns)):
        kind = min(number, 1)  # turn 1 shows what is taken out of it, every later one what it puts in
        opening, closing = ("", "") if has_styles else _BRACKETS[kind]
        text = Text()
        for piece in pieces:
            written = printable(piece.text)
            if piece.is_changed:
                text.append(f"{opening}{written}{closing}", style=_STYLES[kind])
            else:
                text.append(written)
        texts.append(text)
    return texts


def _print_beside(console: "Console", headings: Sequence[str], texts: Sequence["Text"]) -> None:
    from rich.box import HORIZONTALS
    from rich.table import Table

    table = Table(*headings, box=HORIZONTALS, expand=True)
    for column in table.columns:
        column.ratio, column.overflow = 1, "fold"
    table.add_row(*texts)
    console.print(table)


def _print_below(console: "Console", headings: Sequence[str], texts: Sequence["Text"]) -> None:
    from rich.rule import Rule

    for heading, text in zip(headings, texts, strict=True):
        console.print(Rule(heading, align="left", style="dim"))
        console.print(text, overflow="fold")


def _verdict(answers: Sequence[str]) -> str:
    first, last = answers[0], answers[-1]
    verdict = "answer unchanged" if first == last else "answer changed"
    if max(len(first), len(last)) > _LONGEST_ANSWER:  # it is the whole text, which stands above
        return verdict
    return f"{verdict}: {last}" if first == last else f"{verdict}: {first} -> {last}"
