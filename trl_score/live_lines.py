"""
Lines at the bottom of a terminal that are drawn anew as a run goes on, while all other output passes above them.

Whatever Python writes to the terminal meanwhile goes above whole line by whole line: prints, log messages of handlers
that were made before, tables of rich. The line that a progress bar of tqdm draws again and again stands below the live
lines until it ends. What other programs and compiled code write, past Python, may be drawn over.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESHES_PER_SECOND = 2.0

MOST_LINES = 5
"""How many live lines there may be, with those that bars of tqdm draw."""


def is_live_terminal(stream: Any) -> bool:
    """
    Tells whether lines can be drawn anew on a stream: on a terminal that knows how, and neither in a file, nor a pipe,
    nor a notebook.

    Args:
        stream (`TextIO`):
            Where to write.

    Returns:
        `bool`: whether they can.

    Example:

    ```python
    >>> import io
    >>> is_live_terminal(io.StringIO())
    False

    ```
    """
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


class LineStream:
    """
    Stands for a terminal's stream: gives on each line once it is whole, and keeps the one that is not.

    Args:
        stream (`TextIO`):
            The terminal.
        on_line (`Callable[[str], None]`):
            Gets each line, without its end.

    Example:

    ```python
    >>> lines = []
    >>> stream = LineStream(sys.stdout, lines.append)
    >>> _ = stream.write("one, t")
    >>> _ = stream.write("wo\\r 10%\\r 20%")
    >>> lines, stream.open_line
    ([], ' 20%')
    >>> _ = stream.write("\\r 30%\\nnext")
    >>> lines, stream.open_line
    ([' 30%'], 'next')

    ```
    """

    def __init__(self, stream: TextIO, on_line: Callable[[str], None]) -> None:
        self.stream = stream
        self.on_line = on_line
        self._rest = ""
        self._process: int | None = os.getpid()
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def open_line(self) -> str:
        """`str`: What a person would see of the line that is not whole."""
        return self._rest.rstrip()

    def write(self, text: str) -> int:
        """
        Takes a piece of text.

        Args:
            text (`str`):
                The text.

        Returns:
            `int`: its length.
        """
        if self._process is None:
            return self.stream.write(text)
        if os.getpid() != self._process:  # a forked worker, of whose lines nobody knows
            return self._write_from_worker(text)
        with self._lock:
            *lines, rest = (self._rest + text).split("\n")
            self._rest = _last_drawn(rest)
            for line in lines:
                self.on_line(_last_drawn(line).rstrip("\r"))
        return len(text)

    def release(self) -> str:
        """
        Ends it: what somebody who still has it writes from now on goes straight to the terminal.

        Returns:
            `str`: the line that is not whole.
        """
        with self._lock:
            line, self._rest, self._process = self.open_line, "", None
        return line

    def _write_from_worker(self, text: str) -> int:
        """Writes whole lines, and makes room below them for the live lines, which are drawn next."""
        written, end, self._rest = (self._rest + text).rpartition("\n")
        if end:
            self.stream.write(f"\n{written}" + "\n" * MOST_LINES)
            self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """Does nothing while it stands for the terminal: what is whole is shown already."""
        if self._process is None:
            self.stream.flush()


def _last_drawn(line: str) -> str:
    """Of a line that is drawn again and again, with carriage returns between or at the ends, the last drawing."""
    return line[line.rstrip("\r").rfind("\r") + 1 :]


class LiveLines:
    """
    Keeps lines at the bottom of the terminal from `start` to `stop`.

    Args:
        render (`Callable[[], RenderableType]`):
            Gives the lines as they are now; called in another thread.
    """

    def __init__(self, render: "Callable[[], RenderableType]") -> None:
        self.render = render
        self._live: Any = None
        self._streams: dict[str, LineStream] = {}
        self._handlers: list[tuple[logging.StreamHandler[Any], TextIO]] = []

    def start(self) -> None:
        """Draws the lines for the first time, and sends above them what is written to the terminal."""
        from rich.console import Console
        from rich.live import Live

        console = Console(file=sys.stdout, force_terminal=True)
        self._live = Live(
            console=console,
            get_renderable=self._all_lines,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        for name in ("stdout", "stderr"):
            if is_live_terminal(getattr(sys, name)):
                self._streams[name] = LineStream(getattr(sys, name), self._print_above)
                setattr(sys, name, self._streams[name])
        self._redirect_handlers()
        self._live.start(refresh=True)
        console.show_cursor(True)  # it would stay hidden if the process was killed

    def _redirect_handlers(self) -> None:
        """Log handlers keep the stream that they were made with."""
        replaced = {id(stream.stream): stream for stream in self._streams.values()}
        loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
        for handler in {handler for logger in loggers for handler in getattr(logger, "handlers", [])}:
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in replaced:
                self._handlers.append((handler, handler.stream))
                handler.setStream(replaced[id(handler.stream)])

    def stop(self) -> None:
        """Draws the lines for the last time, and gives the terminal back."""
        if self._live is None:
            return
        for handler, stream in self._handlers:
            handler.setStream(stream)
        for name, line_stream in self._streams.items():
            if getattr(sys, name) is line_stream:
                setattr(sys, name, line_stream.stream)
            if line := line_stream.release():
                self._print_above(line)
        self._live.stop()
        self._live = None
        self._streams, self._handlers = {}, []

    def refresh(self) -> None:
        """Draws the lines anew now."""
        if self._live is not None:
            self._live.refresh()

    def _all_lines(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        open_lines = [stream.open_line for stream in self._streams.values() if stream.open_line]
        bars = [Text.from_ansi(line, no_wrap=True, overflow="crop") for line in open_lines]
        return Group(self.render(), *bars)

    def _print_above(self, line: str) -> None:
        from rich.text import Text

        self._live.console.print(Text.from_ansi(line), soft_wrap=True)
