"""A chat model behind an OpenAI-compatible endpoint: many requests at a time, patient with one that fails.

What a server can do to a run, and what becomes of it:

| the server | becomes |
|---|---|
| refuses the connection, hangs up, takes too long | tried again |
| answers 408, 409, 425, 429 or 5xx | tried again, no sooner than its `Retry-After` says |
| answers 200 with no chat completion, or a blank one | tried again |
| answers another 4xx (a prompt that is too long, for instance) | the request failed, the rest goes on |
| answers 401, 403, 404, 405 or a redirect | the run ends: every request would fail alike |

A request that failed at its last try is noted with its cause and left out. The key is read from the environment when
it is needed, and sent to the given address only; it is never in a file, a log, an error or a `repr`.

Not `huggingface_hub`'s client, which sends the user's Hub token to whatever address it is given, refuses even this
machine when `HF_HUB_OFFLINE` is set, and raises errors of a different library from version to version.
"""

import asyncio
import json
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from trl_score.cloud.chat import ChatError, ChatFailure, ChatReply, ChatRequest, Deliver

_END_OF_RUN = frozenset({401, 403, 404, 405})
_PASSING = frozenset({408, 409, 425, 429})  # beside all of 5xx
_MAX_REPLY_BYTES = 16 * 2**20  # far above any reply; a server that never ends must not fill the memory
_MAX_PAUSE_S = 60.0
_MAX_RETRY_AFTER_S = 600.0
_Post: TypeAlias = Callable[..., AbstractAsyncContextManager[aiohttp.ClientResponse]]
_OURS = ("model", "messages", "n", "stream")


@dataclass(frozen=True)
class _Refusal:
    """An answer that holds no reply. `is_passing`: trying again may help."""

    cause: str
    is_passing: bool = True
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class ChatEndpoint:
    """
    A model at `<base_url>/chat/completions`.

    Args:
        base_url (`str`):
            The address up to `/v1`, such as `http://localhost:8000/v1`.
        model (`str`):
            The model's name, as the server knows it.
        api_key_env (`str`, *optional*):
            Name of the environment variable that holds the key. No key is sent by default.
        max_concurrency (`int`, *optional*, defaults to `16`):
            Most requests at a time.
        timeout_s (`float`, *optional*, defaults to `600.0`):
            Seconds for one try, from connecting to the last byte.
        max_tries (`int`, *optional*, defaults to `5`):
            Tries of one request.
        backoff_s (`float`, *optional*, defaults to `1.0`):
            Pause after the first try, in seconds; it doubles with each, up to a minute, and is shortened at random by
            up to a half, so that requests that failed together do not come back together.
        extra_body (`dict`, *optional*):
            Further fields of the request, which override ours; `None` takes a field out.

    Raises:
        `ValueError`: If the address is none, holds a password, or goes too far; if a number is out of range; if the
            environment variable is not set; or if `extra_body` sets what is ours to set.

    Example:

    ```python
    >>> endpoint = ChatEndpoint("http://localhost:8000/v1/", "my-judge")
    >>> endpoint.url
    'http://localhost:8000/v1/chat/completions'

    ```
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    max_concurrency: int = 16
    timeout_s: float = 600.0
    max_tries: int = 5
    backoff_s: float = 1.0
    extra_body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_address()
        if not self.model.strip():
            raise ValueError(f"`model` must be the name of a model that the endpoint serves, got {self.model!r}.")
        for name, least in {"max_concurrency": 1, "max_tries": 1, "timeout_s": 0.001, "backoff_s": 0.0}.items():
            if (value := self.__dict__[name]) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if taken := sorted(set(self.extra_body) & set(_OURS)):
            raise ValueError(f"`extra_body` must leave {list(_OURS)} alone, got {taken}. Take them out.")
        self._headers()  # a key that is missing is better found now

    @property
    def url(self) -> str:
        """`str`: Where requests go."""
        return self.base_url.rstrip("/") + "/chat/completions"

    @property
    def identity(self) -> dict[str, Any]:
        """`dict`: The model and the further fields; not the address, because a server may move."""
        return {"model": self.model, "extra_body": self.extra_body}

    def answer(self, requests: Iterator[ChatRequest], deliver: Deliver) -> None:
        """
        Answers all requests.

        Args:
            requests (`Iterator[ChatRequest]`):
                Drawn as fast as the endpoint answers.
            deliver (`Callable`):
                Takes each request with its outcome.

        Raises:
            `ChatError`: If the endpoint refuses all requests: a wrong key, a wrong address, an unknown model.
        """
        _run(self._answer_all(requests, deliver))

    async def _answer_all(self, requests: Iterator[ChatRequest], deliver: Deliver) -> None:
        # In all, not between two bytes: a server that drips would never be late.
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        connector = aiohttp.TCPConnector(limit=self.max_concurrency)
        async with aiohttp.ClientSession(headers=self._headers(), timeout=timeout, connector=connector) as session:
            # A redirect could take the key elsewhere.
            post = partial(session.post, self.url, allow_redirects=False, proxy=_proxy_for(self.url))
            workers = [asyncio.create_task(self._work(post, requests, deliver)) for _ in range(self.max_concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:  # one has failed or the user has had enough: the others must not go on asking
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, post: _Post, requests: Iterator[ChatRequest], deliver: Deliver) -> None:
        for request in requests:  # all workers draw from one iterator, between two awaits
            deliver(request, await self._ask_patiently(post, request))

    async def _ask_patiently(self, post: _Post, request: ChatRequest) -> ChatReply | ChatFailure:
        outcome, num_tries = await self._ask_once(post, request), 1
        while isinstance(outcome, _Refusal) and outcome.is_passing and num_tries < self.max_tries:
            pause_s = min(self.backoff_s * 2 ** (num_tries - 1), _MAX_PAUSE_S) * random.uniform(0.5, 1.0)
            await asyncio.sleep(max(pause_s, outcome.retry_after_s))
            outcome, num_tries = await self._ask_once(post, request), num_tries + 1
        return outcome if isinstance(outcome, ChatReply) else ChatFailure(outcome.cause, num_tries)

    async def _ask_once(self, post: _Post, request: ChatRequest) -> ChatReply | _Refusal:
        try:
            async with post(json=self._body(request)) as response:
                body = await _read_at_most(response, _MAX_REPLY_BYTES)
        except TimeoutError:
            return _Refusal(f"No answer within {self.timeout_s} s.")
        except aiohttp.ClientError as error:
            return _Refusal(f"{type(error).__name__}: {error}.")
        if key := self._key():  # some servers repeat the key that they refuse
            body = body.replace(key.encode(), b"<key>")
        return self._outcome(response, body)

    def _outcome(self, response: aiohttp.ClientResponse, body: bytes) -> ChatReply | _Refusal:
        status = response.status
        if status == HTTPStatus.OK:
            return _read_completion(body)
        cause = f"HTTP {status}: {body[:500].decode(errors='replace').strip()}"
        if status in _END_OF_RUN or 300 <= status < 400:
            raise ChatError(
                f"{self.url} answered {cause!r} for the model {self.model!r}, a chat completion was expected. Check "
                "the address (up to /v1), the model's name and the key's environment variable. What was answered so "
                "far is kept; run again to go on."
            )
        return _Refusal(cause, status in _PASSING or status >= 500, _retry_after_s(response))

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        sampling = request.sampling
        fields = {
            "model": self.model,
            "messages": request.messages,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            # Left out where they change nothing: some servers refuse fields that they do not know.
            "top_p": None if sampling.top_p == 1.0 else sampling.top_p,
            "seed": sampling.seed_of_draw(request.draw),
            **self.extra_body,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            # Whoever gives the key itself by mistake must not find it in a log.
            raise ValueError(
                "`api_key_env` must name an environment variable that holds a key, but the one named is not set, "
                "blank, or holds something else. Export it, and give its name here, never the key itself."
            )
        return key

    def _headers(self) -> dict[str, str]:
        return {} if (key := self._key()) is None else {"Authorization": f"Bearer {key}"}

    def _check_address(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"`base_url` must be an address such as 'http://localhost:8000/v1', got {self.base_url!r}."
            )
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "`base_url` must hold no user name, password or query, because addresses are shown in errors. Pass "
                "the key through `api_key_env`."
            )
        if parts.path.rstrip("/").endswith("/completions"):
            raise ValueError(f"`base_url` must end before '/chat/completions', got {self.base_url!r}. Cut it there.")


def _read_completion(body: bytes) -> ChatReply | _Refusal:
    """Reads the answer of a server that said that all is well, which need not be true."""
    # Shown as a `repr`, so that neither line breaks nor control characters get into reports.
    shown = repr(body[:200].decode(errors="replace"))
    try:
        choice = json.loads(body)["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return _Refusal(f"Expected a chat completion, got {shown}.")
    # A refusal, a call of a tool, or a reply that went wholly into hidden reasoning has no text.
    if not isinstance(text, str) or not text.strip():
        return _Refusal(f"Expected a reply with text in it, got {text!r} (finish reason {reason!r}).")
    if not _is_unicode(text):
        return _Refusal(f"Expected a reply in Unicode, got half a surrogate pair in {shown}.")
    return ChatReply(text, is_truncated=reason == "length")


def _is_unicode(text: str) -> bool:
    """JSON can spell half a character, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        body += chunk
        if len(body) > limit:
            raise aiohttp.ClientPayloadError(f"The answer is longer than {limit} bytes")
    return bytes(body)


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    """Seconds; the header may also be a date, for which our own pause is good enough."""
    value = response.headers.get("Retry-After", "").strip()
    return min(float(value), _MAX_RETRY_AFTER_S) if value.isdecimal() and value.isascii() else 0.0


def _proxy_for(url: str) -> str | None:
    """What the environment says (`HTTPS_PROXY`, `NO_PROXY`); aiohttp's own way would read ~/.netrc too."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Runs to the end, also in a notebook, where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(asyncio.run, work).result()
