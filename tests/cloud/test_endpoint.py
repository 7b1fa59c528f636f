"""The client against a real server on this machine, which refuses, delays, answers garbage, and recovers."""

import asyncio
import json
import os
import re
import time

import pytest
from chat_server import Answer, ChatServer, refusing_url

from trl_score.cloud import endpoint as endpoint_module
from trl_score.cloud.chat import ChatError, ChatReply, ChatRequest, Journal, Sampling, ask
from trl_score.cloud.endpoint import ChatEndpoint

SAMPLING = Sampling(max_tokens=16)


def requests_for(*questions, sampling=SAMPLING, draw=0):
    return [
        ChatRequest(f"row-{index}", [{"role": "user", "content": question}], sampling, draw)
        for index, question in enumerate(questions)
    ]


def question_of(body):
    return body["messages"][-1]["content"]


def upper(body, num_before):
    return question_of(body).upper()


def client(url, **options):
    return ChatEndpoint(url, "judge", **{"backoff_s": 0.0, "timeout_s": 5.0, "max_tries": 3, **options})


def ask_all(model, folder, *questions, **options):
    with Journal(folder / "journal.jsonl") as journal:
        replies = ask(requests_for(*questions), model, journal, **options)
    return [reply and reply.text for reply in replies]


def errors_in(folder):
    return [json.loads(line) for line in (folder / "journal.errors.jsonl").read_text().splitlines()]


def test_replies_and_the_request_that_is_sent(tmp_path):
    with ChatServer(upper) as server:
        assert ask_all(client(server.url), tmp_path, "a", "b", "c") == ["A", "B", "C"]
    assert sorted(server.questions) == ["a", "b", "c"]
    request = server.seen[0]
    assert request.path == "/v1/chat/completions"
    assert "Authorization" not in request.headers
    assert request.body == {
        "model": "judge",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 16,
        "temperature": 0.0,
    }


def test_sampling_seed_and_further_fields_are_sent(tmp_path):
    sampling = Sampling(max_tokens=5, temperature=0.7, top_p=0.9, seed=40)
    extra = {"max_tokens": None, "max_completion_tokens": 5, "chat_template_kwargs": {"enable_thinking": False}}
    with ChatServer(upper) as server, Journal(tmp_path / "journal.jsonl") as journal:
        ask(requests_for("a", sampling=sampling, draw=2), client(server.url, extra_body=extra), journal)
    sent = {name: value for name, value in server.seen[0].body.items() if name not in ("model", "messages")}
    # The seed of draw 2 is made of 40 and 2: half of the first four bytes of SHA-256.
    assert sent == {
        "temperature": 0.7, "top_p": 0.9, "seed": 2015992661, "max_completion_tokens": 5,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip


def test_as_many_requests_at_a_time_as_allowed_and_no_more(tmp_path):
    with ChatServer(lambda body, num_before: Answer(delay_s=0.05)) as server:
        start = time.perf_counter()
        ask_all(client(server.url, max_concurrency=4), tmp_path, *map(str, range(24)))
        seconds = time.perf_counter() - start
    assert server.most_at_a_time == 4
    assert seconds < 24 * 0.05  # one by one it would take longer


def test_a_reply_that_was_cut_is_flagged(tmp_path):
    with ChatServer(lambda body, num_before: Answer("half a", "length")) as server:
        with Journal(tmp_path / "journal.jsonl") as journal:
            assert ask(requests_for("a"), client(server.url), journal) == [ChatReply("half a", is_truncated=True)]
        with Journal(tmp_path / "journal.jsonl") as journal:
            assert ask(requests_for("a"), client(server.url), journal) == [ChatReply("half a", is_truncated=True)]


TROUBLE = {
    "429": (Answer(status=429, body=b"slow down"), "HTTP 429: slow down"),
    "500": (Answer(status=500, body=b"\xff oops"), "HTTP 500: \ufffd oops"),
    "503": (Answer(status=503, body=b""), "HTTP 503:"),
    "hangs up": (Answer(hangs_up=True), "ServerDisconnectedError"),
    "too slow": (Answer(delay_s=2.0), r"No answer within 0\.3 s"),
    "drips": (Answer(drip_s=0.05), r"No answer within 0\.3 s"),  # never silent for long, and never done
    "not JSON": (Answer(body=b"<html>nginx</html>"), "Expected a chat completion, got '<html>"),
    "not a completion": (Answer(body=b'{"choices": []}'), "Expected a chat completion, got"),
    "a list": (Answer(body=b"[1, 2]"), "Expected a chat completion, got"),
    "choices of text": (Answer(body=b'{"choices": ["x"]}'), "Expected a chat completion, got"),
    "a deep list": (Answer(body=b"[" * 100_000), "Expected a chat completion, got"),
    "empty": (Answer(body=b""), "Expected a chat completion, got ''"),
    "blank": (Answer(" \n"), r"Expected a reply with text in it, got ' \\n' \(finish reason 'stop'\)"),
    "null": (Answer(None), "Expected a reply with text in it, got None"),
    "parts": (Answer(body=b'{"choices": [{"message": {"content": [{"text": "x"}]}}]}'), "text in it, got"),
    "half a character": (Answer("\ud83d"), "half a surrogate pair"),
    "cut short": (
        Answer(body=b'{"choi', headers={"Content-Length": "9999", "Connection": "close"}),
        "ClientPayloadError",
    ),
}


def timeout_of(trouble):
    """Short where time is the trouble; a busy machine may need a while for the rest."""
    return 0.3 if trouble in ("too slow", "drips") else 20.0


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_that_passes_is_got_over(tmp_path, trouble):
    bad, _ = TROUBLE[trouble]
    with ChatServer(lambda body, num_before: bad if num_before < 2 else "better") as server:
        assert ask_all(client(server.url, timeout_s=timeout_of(trouble)), tmp_path, "a") == ["better"]
    assert len(server.seen) == 3
    assert errors_in(tmp_path) == []


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_that_stays_is_reported_and_the_rest_kept(tmp_path, trouble):
    bad, cause = TROUBLE[trouble]
    with ChatServer(lambda body, num_before: bad if question_of(body) == "b" else upper(body, 0)) as server:
        model = client(server.url, timeout_s=timeout_of(trouble))
        assert ask_all(model, tmp_path, "a", "b", "c") == ["A", None, "C"]
        assert server.questions.count("b") == 3
    (error,) = errors_in(tmp_path)
    assert (error["row_id"], error["num_tries"]) == ("row-1", 3)
    assert re.search(cause, error["cause"])
    # The server has been mended: only what failed is asked again.
    with ChatServer(upper) as server:
        assert ask_all(client(server.url), tmp_path, "a", "b", "c") == ["A", "B", "C"]
    assert server.questions == ["b"]


def test_an_endpoint_that_refuses_connections(tmp_path):
    url = refusing_url()
    assert ask_all(client(url), tmp_path, "a", "b") == [None, None]
    causes = {error["cause"].split(":")[0] for error in errors_in(tmp_path)}
    assert causes == {"ClientConnectorError"}
    with pytest.raises(ChatError, match=r"2 requests failed in a row.*ClientConnectorError"):
        ask_all(client(url), tmp_path / "new", "a", "b", max_failures_in_a_row=2)


def test_a_row_that_the_server_cannot_take_is_asked_once(tmp_path):
    too_long = Answer(status=400, body=b"prompt is too long")
    with ChatServer(lambda body, num_before: too_long if question_of(body) == "b" else "fine") as server:
        assert ask_all(client(server.url), tmp_path, "a", "b", "c") == ["fine", None, "fine"]
    assert server.questions.count("b") == 1
    assert errors_in(tmp_path) == [{"row_id": "row-1", "cause": "HTTP 400: prompt is too long", "num_tries": 1}]


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 405])
def test_what_every_request_would_meet_ends_the_run(tmp_path, status):
    with ChatServer(upper) as elsewhere:
        answer = Answer(status=status, body=b"no", headers={"Location": f"{elsewhere.url}/chat/completions"})
        with ChatServer(lambda body, num_before: "A" if question_of(body) == "a" else answer) as server:
            model = client(server.url, max_concurrency=1)
            with pytest.raises(ChatError, match=f"'HTTP {status}: no' for the model 'judge'.*Check the address"):
                ask_all(model, tmp_path, "a", "b", "c", "d")
    assert server.questions == ["a", "b"]
    assert elsewhere.seen == []
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert [reply.text for reply in journal.replies.values()] == ["A"]


def test_pauses_grow_and_the_server_may_ask_for_longer_ones(tmp_path, monkeypatch):
    pauses = []

    async def note(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(endpoint_module.asyncio, "sleep", note)
    busy = Answer(status=429, headers={"Retry-After": "20"})
    dated = Answer(status=503, headers={"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})
    plain = Answer(status=500)
    with ChatServer(lambda body, num_before: [plain, plain, dated, busy, "A"][num_before]) as server:
        assert ask_all(client(server.url, backoff_s=1.0, max_tries=5), tmp_path, "a") == ["A"]
    # 1, 2, 4 seconds, each shortened by up to a half; our fourth pause would be 8 at most.
    for pause, (low, high) in zip(pauses, [(0.5, 1), (1, 2), (2, 4), (20, 20)], strict=True):
        assert low <= pause <= high


def test_an_endless_answer_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint_module, "_MAX_REPLY_BYTES", 1000)
    with ChatServer(lambda body, num_before: "x" * 1001) as server:
        assert ask_all(client(server.url), tmp_path, "a") == [None]
    assert "longer than 1000 bytes" in errors_in(tmp_path)[0]["cause"]


def test_the_key_is_sent_and_never_shown(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    repeats_it = Answer(status=400, body=b"Bad key sk-secret")
    with ChatServer(lambda body, num_before: repeats_it if question_of(body) == "b" else "fine") as server:
        model = client(server.url, api_key_env="MY_KEY")
        assert ask_all(model, tmp_path, "a", "b", progress="asking") == ["fine", None]
    assert {request.headers["Authorization"] for request in server.seen} == {"Bearer sk-secret"}
    assert errors_in(tmp_path)[0]["cause"] == "HTTP 400: Bad key <key>"
    refused = Answer(status=401, body=b"Bad key sk-secret")
    with ChatServer(lambda body, num_before: refused) as server, pytest.raises(ChatError) as caught:  # noqa: PT012
        model = client(server.url, api_key_env="MY_KEY")
        ask_all(model, tmp_path, "c")
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    shown = [str(caught.value), repr(model), str(model.identity), caplog.text, *capfd.readouterr()]
    assert "sk-secret" not in written + "".join(shown)
    assert "Bad key <key>" in str(caught.value)


@pytest.mark.parametrize("status", [200, 400])
def test_no_part_of_a_repeated_key_is_shown(tmp_path, monkeypatch, status):
    monkeypatch.setenv("MY_KEY", "sk-" + "s" * 50)
    body = b"x" * (180 if status == 200 else 480) + b"sk-" + b"s" * 50  # where the shown part ends
    with ChatServer(lambda _, num_before: Answer(status=status, body=body)) as server:
        ask_all(client(server.url, api_key_env="MY_KEY"), tmp_path, "a")
    cause = errors_in(tmp_path)[0]["cause"]
    assert "x<key>" in cause
    assert "ss" not in cause


@pytest.mark.parametrize("value", ["", "  ", "two\nlines", "ключ"])
def test_a_variable_that_holds_no_key(monkeypatch, value):
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ValueError, match="holds something else"):
        client("http://host/v1", api_key_env="MY_KEY")


def test_a_key_in_place_of_the_variable_is_not_shown():
    with pytest.raises(ValueError, match="never the key itself") as caught:
        client("http://host/v1", api_key_env="sk-secret")
    assert "secret" not in str(caught.value)


def test_a_hub_token_is_not_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with ChatServer(upper) as server:
        ask_all(client(server.url), tmp_path, "a")
    assert "secret" not in str(server.seen[0].headers)


def test_this_machine_is_reached_offline_and_past_a_proxy(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", refusing_url())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with ChatServer(upper) as server:
        assert ask_all(client(server.url), tmp_path, "a") == ["A"]
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        assert ask_all(client(server.url), tmp_path, "b") == [None]  # sent to the proxy, which refuses
    assert "ClientProxyConnectionError" in errors_in(tmp_path)[0]["cause"]


def test_within_a_running_loop_as_in_a_notebook(tmp_path):
    async def cell():
        return ask_all(client(server.url), tmp_path, "a", "b")

    with ChatServer(upper) as server:
        assert asyncio.run(cell()) == ["A", "B"]


def test_an_error_in_the_rows_comes_out_as_it_is(tmp_path):
    def rows():
        yield from requests_for("a", "b")
        raise ValueError("row 2 is broken")

    with (
        ChatServer(upper) as server,
        Journal(tmp_path / "journal.jsonl") as journal,
        pytest.raises(ValueError, match="row 2 is broken"),
    ):
        ask(rows(), client(server.url), journal)
    assert len(server.seen) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, r"`base_url` must be an address such as .*got 'localhost:8000/v1'"),
        ({"base_url": "ftp://host/v1"}, "`base_url` must be an address"),
        ({"base_url": "http://"}, "`base_url` must be an address"),
        ({"base_url": "http://me:pass@host/v1"}, "`base_url` must hold no user name"),
        ({"base_url": "http://host/v1?key=x"}, "`base_url` must hold no user name"),
        ({"base_url": "http://host/v1/chat/completions/"}, "`base_url` must end before '/chat/completions'"),
        ({"model": " "}, "`model` must be the name"),
        ({"max_concurrency": 0}, "`max_concurrency` must be at least 1, got 0"),
        ({"max_tries": 0}, "`max_tries` must be at least 1, got 0"),
        ({"timeout_s": 0.0}, "`timeout_s` must be at least"),
        ({"backoff_s": -1.0}, "`backoff_s` must be at least"),
        ({"api_key_env": "NO_SUCH_KEY"}, "must name an environment variable .* the one named is not set"),
        ({"extra_body": {"n": 2}}, r"`extra_body` must leave .* alone, got \['n'\]"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        ChatEndpoint(**{"base_url": "http://host/v1", "model": "judge", **arguments})
    assert "pass@" not in str(caught.value)
