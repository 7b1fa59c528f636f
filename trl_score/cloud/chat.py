"""Questions to a chat model, and the journal that keeps its replies, so that a killed run goes on where it was.

    requests -> ask(...) -> replies in the same order, `None` where a request failed
                  |  ^
                  v  |  what is in the journal is not asked again
                journal

Which model answers does not matter here: an endpoint (`endpoint.py`) or a model on this machine (`local_chat.py`).
Torch-free.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

from tqdm.auto import tqdm

from trl_score.line_file import LineFile, append_lines
from trl_score.records import Message
from trl_score.user_errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """
    How a reply is drawn.

    Args:
        max_tokens (`int`):
            Most tokens of the reply.
        temperature (`float`, *optional*, defaults to `0.0`):
            Greedy at 0.
        top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus; 1 for all of the vocabulary.
        seed (`int`, *optional*):
            Seed of draw 0; each further draw has one that is made of it. An endpoint is sent none by default.

    Raises:
        `ValueError`: If one of them is out of range.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "Expected `max_tokens` of at least 1, `temperature` of at least 0 and `top_p` above 0 and at most 1, "
                f"got {self.max_tokens}, {self.temperature} and {self.top_p}."
            )

    def seed_of_draw(self, draw: int) -> int | None:
        """
        Gives the seed of one draw. Runs with neighbouring seeds share none.

        Args:
            draw (`int`):
                Which draw of the same request, from 0.

        Returns:
            `int`, *optional*: 31 bits made of the seed and the draw, the seed itself for draw 0, `None` without a seed.

        Example:

        ```python
        >>> from trl_score.cloud.chat import Sampling
        >>> sampling = Sampling(max_tokens=5, temperature=0.7, seed=40)
        >>> sampling.seed_of_draw(0), sampling.seed_of_draw(2)
        (40, 2015992661)

        ```
        """
        if self.seed is None or draw == 0:
            return self.seed
        return int.from_bytes(hashlib.sha256(f"{self.seed} {draw}".encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class ChatRequest:
    """
    One question to a chat model.

    Args:
        row_id (`str`):
            Names the row in reports of errors. It does not change what is asked.
        messages (`list[dict]`):
            The conversation that the model continues.
        sampling (`Sampling`):
            How the reply is drawn.
        draw (`int`, *optional*, defaults to `0`):
            Which of several replies to the same messages. A draw of its own is a request of its own.
    """

    row_id: str
    messages: list[Message]
    sampling: Sampling
    draw: int = 0


@dataclass(frozen=True)
class ChatReply:
    """
    What the model wrote.

    Args:
        text (`str`):
            The reply, never blank.
        is_truncated (`bool`):
            Whether `max_tokens` ended it, and not the model.
    """

    text: str
    is_truncated: bool


@dataclass(frozen=True)
class ChatFailure:
    """
    A request that has been given up.

    Args:
        cause (`str`):
            What went wrong at the last try.
        num_tries (`int`):
            How often it was asked.
    """

    cause: str
    num_tries: int


class ChatError(UserError, RuntimeError):
    """A run that cannot go on: every further request would fail alike. What was answered is in the journal."""


Deliver: TypeAlias = Callable[[ChatRequest, ChatReply | ChatFailure], None]
"""Takes each request with its outcome, in the order in which they are ready."""


class ChatModel(Protocol):
    """What can be asked. Two models with the same identity are taken to be the same by the journal."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """`dict`: What tells this model from another, as JSON can hold it; no address and no key."""
        ...

    def answer(self, requests: Iterator[ChatRequest], deliver: Deliver) -> None:
        """Answers all requests, each delivered once; draws them from the iterator no faster than it can ask."""
        ...


def request_key(request: ChatRequest, identity: Mapping[str, Any]) -> str:
    """
    Names a request by what is asked, and of whom.

    Args:
        request (`ChatRequest`):
            The request.
        identity (`dict`):
            The model's identity.

    Returns:
        `str`: a hash in hexadecimal, the same in every process.

    Example:

    ```python
    >>> first, again = (ChatRequest(row, [{"role": "user", "content": "2+2?"}], Sampling(8)) for row in ("a", "b"))
    >>> request_key(first, {"model": "m"}) == request_key(again, {"model": "m"})
    True
    >>> request_key(first, {"model": "m"}) == request_key(first, {"model": "another"})
    False

    ```
    """
    # Not the row's name: a row that is renamed, or moved to another split, has its reply already.
    asked = [dict(identity), request.messages, asdict(request.sampling), request.draw]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Journal:
    """
    Replies on disk: a JSON line each, in a file that is only appended to and synced after every line.

    A run that was killed can leave half a line at the end of the file; it is cut off when the file is opened again. One
    process writes at a time, with as many threads as it likes. Errors go into a file of their own, which holds those of
    the last run only, because the next run asks those requests again.

    Args:
        path (`Path`):
            The file, made with its folder where it does not exist. Errors go to `<name>.errors.jsonl` beside it.

    Attributes:
        replies (`dict[str, ChatReply]`): What has been answered, by [`request_key`].
        failures (`dict[str, ChatFailure]`): What failed in this run, by row.
        failed_before (`frozenset[str]`): The rows that failed in the last run.

    Raises:
        `BlockingIOError`: On entering, if another process has the journal open.
        `ValueError`: On entering, if a line before the last is not one of a journal.

    Example:

    ```python
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with Journal(Path(folder, "critiques.jsonl")) as journal:
    ...         journal.write("key", "row-0", ChatReply("Right.", is_truncated=False))
    ...     with Journal(Path(folder, "critiques.jsonl")) as journal:
    ...         journal.replies["key"].text
    'Right.'

    ```
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.errors_path = self.path.with_name(self.path.stem + ".errors.jsonl")
        self.replies: dict[str, ChatReply] = {}
        self.failures: dict[str, ChatFailure] = {}
        self.failed_before: frozenset[str] = frozenset()
        self._file = LineFile(self.path)
        self._errors_file = -1
        self._files = ExitStack()  # what is open, closed together however the run ends
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        with ExitStack() as files:
            files.enter_context(self._file)
            self.replies = self._read()
            self.failed_before = self._read_errors()
            # Emptied only now, with the lock: the errors of a run that still goes on are its own.
            self._errors_file = os.open(self.errors_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
            files.callback(os.close, self._errors_file)
            self._files = files.pop_all()  # all went well: from here on `__exit__` closes them
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def write(self, key: str, row_id: str, reply: ChatReply) -> None:
        """
        Keeps a reply, on the disk when this returns.

        Args:
            key (`str`):
                The request's key.
            row_id (`str`):
                The row that asked, for readers of the file.
            reply (`ChatReply`):
                The reply.
        """
        with self._writing:
            self._file.append([{"key": key, "row_id": row_id, **asdict(reply)}])
            self.replies[key] = reply

    def write_error(self, row_id: str, failure: ChatFailure) -> None:
        """
        Notes a request that failed.

        Args:
            row_id (`str`):
                The row that asked.
            failure (`ChatFailure`):
                Why, after how many tries.
        """
        with self._writing:
            append_lines(self._errors_file, [{"row_id": row_id, **asdict(failure)}])
            self.failures[row_id] = failure

    def clear(self) -> None:
        """Forgets all replies: everything is asked anew."""
        self._file.cut(0)
        self.replies = {}

    def _read(self) -> dict[str, ChatReply]:
        replies = {}
        for number, line in enumerate(self._file.lines(), start=1):
            try:
                entry = json.loads(line)
                replies[entry["key"]] = ChatReply(entry["text"], entry["is_truncated"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"Expected a journal with 'key', 'text' and 'is_truncated' in each line, got {line[:80]!r} in "
                    f"line {number} of {self.path}. Take that line out to have it asked again."
                ) from error
        return replies

    def _read_errors(self) -> frozenset[str]:
        """The rows that failed in the last run, but for a line that a kill left unfinished."""
        if not self.errors_path.exists():
            return frozenset()
        with self.errors_path.open("rb") as lines:
            return frozenset(json.loads(line)["row_id"] for line in lines if line.endswith(b"\n"))


def ask(
    requests: Iterable[ChatRequest],
    model: ChatModel,
    journal: Journal,
    *,
    total: int | None = None,
    progress: str | None = None,
    max_failures_in_a_row: int = 50,
) -> list[ChatReply | None]:
    """
    Asks a model everything that the journal does not hold yet.

    Args:
        requests (`Iterable[ChatRequest]`):
            The requests. They are drawn as they are asked, so a generator may build their texts. Equal ones are asked
            once.
        model (`ChatModel`):
            Who answers.
        journal (`Journal`):
            Open for writing.
        total (`int`, *optional*):
            Number of requests, for the progress bar.
        progress (`str`, *optional*):
            The progress bar's label; no bar by default.
        max_failures_in_a_row (`int`, *optional*, defaults to `50`):
            After so many requests in a row have failed, the run ends: an endpoint that is down would otherwise be
            asked everything in vain. Rows that failed in the last run as well do not count.

    Returns:
        `list[ChatReply | None]`: a reply per request, in order; `None` where it failed, see the journal's errors.

    Raises:
        `ChatError`: If the model cannot be asked at all, or too many requests in a row failed.
    """
    with tqdm(total=total, desc=progress, disable=progress is None, unit="reply") as bar:
        asking = _Asking(model, journal, bar, max_failures_in_a_row)
        model.answer(asking.unanswered(requests), asking.deliver)
    if asking.num_failed:
        logger.warning(
            "%d of %d requests failed, see %s. The next run asks them again.",
            asking.num_failed,
            len(asking.keys),
            journal.errors_path,
        )
    # By key and not as they came in: replies come in any order, and equal requests share one.
    return [journal.replies.get(key) for key in asking.keys]


class _Asking:
    """What one call of `ask` has asked so far. The model draws from `unanswered` and gives back to `deliver`."""

    def __init__(self, model: ChatModel, journal: Journal, bar: "tqdm[Any]", max_failures_in_a_row: int) -> None:
        self.keys: list[str] = []  # of all requests, in order
        self.num_failed = 0
        self._asked: set[str] = set()
        self._failures_in_a_row = 0
        self._model, self._journal, self._bar = model, journal, bar
        self._max_failures_in_a_row = max_failures_in_a_row

    def unanswered(self, requests: Iterable[ChatRequest]) -> Iterator[ChatRequest]:
        for request in requests:
            key = request_key(request, self._model.identity)
            self.keys.append(key)  # also of those that are not asked: they have a place in the result
            if key in self._journal.replies or key in self._asked:
                self._bar.update()
                continue
            self._asked.add(key)  # it may be on its way for a while, and must not be sent twice
            yield request

    def deliver(self, request: ChatRequest, outcome: ChatReply | ChatFailure) -> None:
        self._bar.update()
        if isinstance(outcome, ChatReply):
            # Kept before anything else is done with it: what is paid for is never lost.
            self._journal.write(request_key(request, self._model.identity), request.row_id, outcome)
            self._failures_in_a_row = 0
            return
        self._journal.write_error(request.row_id, outcome)
        self.num_failed += 1
        # A run that goes on asks what failed before, one after the other: so many in a row say nothing of the endpoint.
        self._failures_in_a_row += request.row_id not in self._journal.failed_before
        self._bar.set_postfix(failed=self.num_failed)
        if self._failures_in_a_row >= self._max_failures_in_a_row:
            raise ChatError(
                f"{self._failures_in_a_row} requests failed in a row, fewer than {self._max_failures_in_a_row} were "
                f"expected; the last, of row {request.row_id}: {outcome.cause} {len(self._journal.replies)} replies "
                f"are kept in {self._journal.path}, the errors in {self._journal.errors_path}. Put right what is "
                "wrong and run again to go on."
            )


def fenced(sections: Mapping[str, str]) -> str:
    """
    Lays out texts so that a reader can tell them apart, whatever they contain.

    Every border carries a mark that depends on all of the texts, so none of them can hold it but by chance.

    Args:
        sections (`dict[str, str]`):
            Name and text.

    Returns:
        `str`: the texts between their borders.

    Example:

    ```python
    >>> print(fenced({"question": "2+2?"}))
    <question ed723386>
    2+2?
    </question ed723386>

    ```
    """
    # Eight digits: a text would have to hold the hash of itself, and of its neighbours.
    mark = hashlib.sha256(json.dumps(list(sections.items())).encode()).hexdigest()[:8]
    return "\n\n".join(f"<{name} {mark}>\n{text}\n</{name} {mark}>" for name, text in sections.items())


def as_transcript(messages: Iterable[Message]) -> str:
    """
    Writes a conversation out as one text.

    Args:
        messages (`Iterable[dict]`):
            The conversation.

    Returns:
        `str`: the content of a lone message; of several, each preceded by its role.

    Example:

    ```python
    >>> as_transcript([{"role": "user", "content": "2+2?"}])
    '2+2?'
    >>> as_transcript([{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?"}])
    '[system]\\nBe short.\\n\\n[user]\\n2+2?'

    ```
    """
    messages = list(messages)
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)
