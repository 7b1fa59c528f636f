"""Live lines on a real pseudo-terminal: what else is written goes above them, whole and once."""

import fcntl
import logging
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from trl_score.live_lines import LineStream, LiveLines, is_live_terminal


class Terminal:
    """A pseudo-terminal in the place of this process's streams, and what a person would see of it."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._raw = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self.master, 4096)
            except OSError:  # closed
                return
            self._raw += piece

    @contextmanager
    def attached(self) -> Iterator[None]:
        """What is written goes here. In a fixture it would not, as pytest takes the streams back after it."""
        with redirect_stdout(self.stream), redirect_stderr(self.stream):
            yield

    def close(self) -> None:
        if not self.stream.closed:
            self.stream.close()
            self._reader.join(timeout=10)
            os.close(self.master)

    def lines(self) -> list[str]:
        """The lines that stand there once all is drawn; closes the terminal."""
        self.close()
        screen, row, column = [""], 0, 0
        for code, letter in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z])|([\s\S])", self._raw.decode()):
            if code.endswith("A"):
                row -= int(code[2:-1])
            elif code == "\x1b[2K":
                screen[row] = ""
            elif letter == "\r":
                column = 0
            elif letter == "\n":
                row += 1
                screen += [""] * (row == len(screen))
            elif letter:
                screen[row] = screen[row].ljust(column)[:column] + letter + screen[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in screen if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    yield terminal
    terminal.close()


@contextmanager
def live_lines(terminal: Terminal) -> Iterator[LiveLines]:
    live = LiveLines(lambda: Text("first\nsecond"))
    with terminal.attached():
        live.start()
        yield live
        live.stop()


def test_prints_of_all_kinds_go_above(terminal):
    logger = logging.getLogger("tests.live_lines")
    handler = logging.StreamHandler(terminal.stream)  # made before, as those of libraries are
    logger.addHandler(handler)
    with live_lines(terminal) as live:
        for number in range(3):
            sys.stdout.write(f"print {number}\n")
            logger.warning("log %d", number)
            live.refresh()
            Console().print(f"table {number}", style="bold")
        sys.stderr.write("no end of line")
        kept = sys.stderr
    kept.write("by one who kept the stream\n")
    logger.warning("afterwards")
    logger.removeHandler(handler)
    above = [f"{kind} {number}" for number in range(3) for kind in ("print", "log", "table")]
    afterwards = ["by one who kept the stream", "afterwards"]
    assert terminal.lines() == [*above, "no end of line", "first", "second", *afterwards]
    assert handler.stream is terminal.stream


def test_bar_of_tqdm_stands_below_while_it_moves(terminal):
    with live_lines(terminal) as live:
        bar = tqdm(total=3, desc="kept", mininterval=0)
        for _ in range(3):
            bar.update()
            assert live._streams["stderr"].open_line.startswith("kept:")
        bar.close()
        assert live._streams["stderr"].open_line == ""
        list(tqdm(range(3), desc="not kept", leave=False, mininterval=0))
    lines = terminal.lines()
    assert len(lines) == 3 and lines[0].startswith("kept: 100%") and lines[1:] == ["first", "second"]


def test_cursor_stays_visible(terminal):
    with live_lines(terminal):
        pass
    terminal.close()
    raw = bytes(terminal._raw)
    hidden, shown = raw.rfind(b"\x1b[?25l"), raw.find(b"\x1b[?25h")
    assert hidden < shown  # it is shown again at once, and not only when the lines are taken away
    assert raw.count(b"\x1b[?25h") == 2


def test_lines_follow_what_they_show(terminal):
    value = {"now": "one"}
    live = LiveLines(lambda: Text(value["now"]))
    with terminal.attached():
        live.start()
        value["now"] = "two"
        live.stop()
        live.stop()
        assert sys.stdout is sys.stderr is terminal.stream
    assert terminal.lines() == ["two"]


def test_forked_worker_writes_straight_to_the_terminal(terminal):
    with live_lines(terminal) as live:
        held = threading.Event()
        threading.Thread(target=hold, args=(live._live.console._lock, held), daemon=True).start()
        held.wait()
        worker = os.fork()
        if worker == 0:
            signal.alarm(20)  # where it waits for that lock for ever
            sys.stdout.write("Traceback of a worker\nValueError: ")
            sys.stdout.write("last line\n")
            os._exit(0)
        _, status = os.waitpid(worker, 0)
        assert status == 0
    lines = terminal.lines()
    assert lines.count("Traceback of a worker") == lines.count("ValueError: last line") == 1
    assert lines[-2:] == ["first", "second"]


def hold(lock: Any, held: threading.Event) -> None:
    """What a thread that is drawing does when another one forks."""
    with lock:
        held.set()
        time.sleep(0.5)


@pytest.mark.parametrize("term", ["dumb", "unknown", "", None])
def test_what_is_no_live_terminal(term, terminal, monkeypatch, tmp_path):
    assert is_live_terminal(terminal.stream)
    assert not is_live_terminal(None)
    with (tmp_path / "log.txt").open("w") as file:
        assert not is_live_terminal(file)
    monkeypatch.delenv("TERM") if term is None else monkeypatch.setenv("TERM", term)
    assert not is_live_terminal(terminal.stream)


# The stream


@pytest.fixture
def written() -> tuple[list[str], Callable[[str], Any]]:
    lines: list[str] = []
    return lines, LineStream(sys.stdout, lines.append).write


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a\nb", "c\n\n"], ["a", "bc", ""]),
        (["10%\r", "20%\r", "done\n"], ["done"]),  # carriage returns at the ends
        (["\r10%", "\r20%", "\n"], ["20%"]),  # or at the beginnings
        (["windows\r\n"], ["windows"]),
        (["\r50%\r     \r", "next\n"], ["next"]),  # a bar that is taken away
    ],
)
def test_of_a_line_drawn_again_and_again_the_last_drawing_stays(pieces, expected, written):
    lines, write = written
    assert [write(piece) for piece in pieces] == [len(piece) for piece in pieces]
    assert lines == expected


def test_stream_is_else_the_terminal(terminal):
    stream = LineStream(terminal.stream, print)
    assert stream.isatty() and stream.fileno() == terminal.stream.fileno() and stream.encoding == "utf-8"
