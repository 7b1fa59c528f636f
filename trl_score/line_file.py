"""
A file of JSON lines that only grows, and outlives a kill: what a run has paid for is never lost.

One process writes at a time. A line is on the disk when `append` returns. A run that was killed can leave half a line
at the end, which is cut off when the file is opened again. Loads nothing.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

logger = logging.getLogger(__name__)


class LineFile:
    """
    JSON lines on disk, open for writing.

    Args:
        path (`str` or `Path`):
            The file, made with its folder where it does not exist.

    Raises:
        `BlockingIOError`: On entering, if another process has it open.

    Example:

    ```python
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, LineFile(Path(folder, "a.jsonl")) as file:
    ...     file.append([{"turn": 1}, {"turn": 2}])
    ...     [json.loads(line) for line in file.lines()]
    [{'turn': 1}, {'turn': 2}]

    ```
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = -1

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A descriptor, not a file object: a buffer would hold lines back, and a lock belongs to what is open.
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self._cut_half_a_line()
        except OSError:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    def lines(self) -> Iterator[bytes]:
        """
        Reads the file from its beginning.

        Returns:
            `Iterator[bytes]`: its lines, each with the line break at its end.
        """
        with self.path.open("rb") as lines:
            yield from lines

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """
        Adds lines, on the disk when this returns.

        Args:
            entries (`Iterable[Mapping]`):
                An object for each line.
        """
        append_lines(self._file, entries)

    def cut(self, num_bytes: int) -> None:
        """
        Drops what stands behind some number of bytes.

        Args:
            num_bytes (`int`):
                What is kept, whole lines.
        """
        os.ftruncate(self._file, num_bytes)
        os.fsync(self._file)

    def _lock(self) -> None:
        try:
            # Held by the open file: the system gives it back when the process ends, in whatever way.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                error.errno,
                "Expected a file that nobody else writes, but another process has it open: wait for that run to end, "
                "or choose another folder",
                str(self.path),
            ) from error

    def _cut_half_a_line(self) -> None:
        whole = 0
        for line in self.lines():
            if not line.endswith(b"\n"):
                # Only the last line can lack its end. Cut off, or the next one would be written behind it.
                logger.warning("Cut half a line off %s: a run was killed while it wrote it.", self.path)
                self.cut(whole)
            whole += len(line)


def append_lines(file: int, entries: Iterable[Mapping[str, Any]]) -> None:
    """
    Adds JSON lines to an open file, on the disk when this returns.

    Args:
        file (`int`):
            Its descriptor, opened to append.
        entries (`Iterable[Mapping]`):
            An object for each line.
    """
    # ASCII only: no line break but the one at the end, whatever a model writes (there are others than "\n").
    rest = memoryview(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
    while rest:  # a short write is gone on with, so that no line is torn but by a kill
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def write_json(path: str | Path, content: Any) -> None:
    """
    Writes a file whole or not at all: a kill in the middle leaves what was there before.

    Args:
        path (`str` or `Path`):
            The file.
        content:
            What JSON can hold; a NaN is refused.

    Example:

    ```python
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_json(Path(folder, "a.json"), {"turns": 2})
    ...     [path.name for path in Path(folder).iterdir()]
    ['a.json']

    ```
    """
    unfinished = Path(path).with_name(Path(path).name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
