"""An endpoint that answers in an evaluation: what it is asked, what becomes of a failure, and what is asked again."""

import json

import pytest
from chat_server import Answer, ChatServer, refusing_url
from datasets import Dataset

from trl_score.cloud.chat import ChatError, Journal
from trl_score.cloud.endpoint import ChatEndpoint
from trl_score.evaluation.endpoint import EndpointRespondent
from trl_score.evaluation.run import run_evaluation
from trl_score.evaluation.settings import EvaluationSettings

CORRECTION = "Look again."
DATASET = Dataset.from_dict(
    {
        "prompt": [[{"role": "user", "content": f"{number} + 1?"}] for number in range(6)],
        "gold": [str(number + 1) for number in range(6)],
    }
)


def adder(body, num_before):
    """Right at its second turn, one too low at its first."""
    number = int(body["messages"][0]["content"].split()[0])
    num_turns = sum(message["role"] == "assistant" for message in body["messages"])
    return str(number + min(num_turns, 1))


def is_gold(completions, gold, **kwargs):
    texts = [completion[0]["content"] if isinstance(completion, list) else completion for completion in completions]
    return [float(text == right) for text, right in zip(texts, gold, strict=True)]


def evaluate(url, folder, dataset=DATASET, **options):
    settings = EvaluationSettings(
        **{"max_completion_length": (16, 8), "correction_prompt": CORRECTION, "batch_size": 4, **options}
    )
    endpoint = ChatEndpoint(url, "m", max_tries=2, backoff_s=0.0)
    with Journal(folder / "replies.jsonl") as journal:
        respondent = EndpointRespondent(endpoint, settings, journal)
        return run_evaluation(respondent, dataset, is_gold, settings, output_dir=folder)


def test_each_turn_is_asked_with_all_that_stands_before_it(tmp_path):
    with ChatServer(adder) as server:
        records = evaluate(server.url, tmp_path).records
    assert [record.turns for record in records] == [(str(number), str(number + 1)) for number in range(6)]
    assert {record.outcome for record in records} == {"fixed"}
    assert len(server.seen) == 12
    bodies = {
        (body["messages"][0]["content"], len(body["messages"])): body for body in (one.body for one in server.seen)
    }
    first, second = bodies["3 + 1?", 1], bodies["3 + 1?", 3]
    assert first == {"model": "m", "messages": DATASET[3]["prompt"], "max_tokens": 16, "temperature": 0.0}
    assert second["messages"] == [
        *DATASET[3]["prompt"],
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": CORRECTION},
    ]
    assert second["max_tokens"] == 8
    assert json.loads((tmp_path / "evaluation.json").read_text())["endpoint"] == {"model": "m", "extra_body": {}}


def test_samples_have_seeds_of_their_own(tmp_path):
    with ChatServer(adder) as server:
        options = {"do_sample": True, "temperature": 0.7, "num_samples": 2, "seed": 5}
        records = evaluate(server.url, tmp_path, **options).records
    assert [record.sample for record in records] == [0] * 6 + [1] * 6
    assert {(one.body["temperature"], one.body["seed"]) for one in server.seen} == {(0.7, 5), (0.7, 212330081)}
    assert len(server.seen) == 24


def test_rows_of_their_own_plain_prompts_and_given_first_turns(tmp_path):
    dataset = Dataset.from_dict(
        {
            "prompt": ["0 + 1?", "1 + 1?", "2 + 1?"],
            "gold": ["1", "2", "3"],
            "turn_1": [None, "7", None],
            "correction_prompt": [None, None, "Sing."],
            "max_completion_length_t2": [None, None, 3],
        }
    )
    with ChatServer(adder) as server:
        records = evaluate(server.url, tmp_path, dataset, offline_turn_1_column="turn_1").records
    assert [record.turns for record in records] == [("0", "1"), ("7", "2"), ("2", "3")]
    assert [record.is_turn_1_offline for record in records] == [False, True, False]
    second = {one.body["messages"][0]["content"]: one.body for one in server.seen if len(one.body["messages"]) == 3}
    assert [second[f"{number} + 1?"]["messages"][2]["content"] for number in range(3)] == [CORRECTION] * 2 + ["Sing."]
    assert [second[f"{number} + 1?"]["max_tokens"] for number in range(3)] == [8, 8, 3]
    assert len(server.seen) == 5


def test_a_cut_reply_is_marked(tmp_path):
    with ChatServer(lambda body, before: Answer(adder(body, before), finish_reason="length")) as server:
        assert {record.truncated for record in evaluate(server.url, tmp_path).records} == {(True, True)}


def failing(*questions, at_turn=1):
    def respond(body, num_before):
        num_turns = 1 + sum(message["role"] == "assistant" for message in body["messages"])
        if body["messages"][0]["content"] in questions and num_turns == at_turn:
            return Answer(status=400, body=b"too long")
        return adder(body, num_before)

    return respond


@pytest.mark.parametrize("at_turn", [1, 2])
def test_a_failed_request_is_not_scored_and_not_asked_on(tmp_path, at_turn):
    with ChatServer(failing("2 + 1?", at_turn=at_turn)) as server:
        evaluation = evaluate(server.url, tmp_path, num_turns=3, max_completion_length=8)
    (failed,) = [record for record in evaluation.records if record.failure is not None]
    assert failed.failure == "HTTP 400: too long"
    assert failed.turns == (("", "", "") if at_turn == 1 else ("2", "", ""))
    assert failed.rewards == ((None, None, None) if at_turn == 1 else (0.0, None, None))
    assert len(server.seen) == 15 + at_turn
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["num_failed"], metrics["num_unscorable"]) == (1, 1)
    # Five of five, and not five of six.
    assert evaluation.metrics["accuracy_t3"].value == 1.0


def test_next_run_asks_what_failed_and_nothing_else(tmp_path):
    with ChatServer(failing("2 + 1?", "5 + 1?", at_turn=2)) as server:
        evaluate(server.url, tmp_path)
    with ChatServer(adder) as server:
        records = evaluate(server.url, tmp_path).records
    assert [one.body["messages"][0]["content"] for one in server.seen] == ["2 + 1?", "5 + 1?"]
    assert [record.turns for record in records] == [(str(number), str(number + 1)) for number in range(6)]
    assert json.loads((tmp_path / "metrics.json").read_text())["num_failed"] == 0


def test_an_endpoint_that_refuses_ends_the_run_although_batches_are_small(tmp_path):
    dataset = Dataset.from_dict({"prompt": [f"{number} + 1?" for number in range(40)], "gold": ["1"] * 40})
    with pytest.raises(ChatError, match=r"requests failed in a row, fewer than .* ClientConnectorError"):
        evaluate(refusing_url(), tmp_path, dataset)
    assert 0 < len((tmp_path / "records.jsonl").read_text().splitlines()) < 20
    assert not (tmp_path / "metrics.json").exists()


def test_rows_that_failed_before_do_not_end_the_run_again(tmp_path):
    questions = [f"{number} + 1?" for number in range(25)]
    dataset = Dataset.from_dict({"prompt": [*questions, "25 + 1?"], "gold": [str(number) for number in range(1, 27)]})
    with ChatServer(failing(*questions)) as server:
        with pytest.raises(ChatError, match="requests failed in a row"):
            evaluate(server.url, tmp_path, dataset)
        evaluation = evaluate(server.url, tmp_path, dataset)
    assert [record.failure is None for record in evaluation.records] == [False] * 25 + [True]


def test_a_rows_name_says_what_failed(tmp_path):
    with ChatServer(failing("2 + 1?", at_turn=2)) as server:
        evaluate(server.url, tmp_path)
    (error,) = [json.loads(line) for line in (tmp_path / "replies.errors.jsonl").read_text().splitlines()]
    assert error["row_id"] == "2 + 1?, turn 2, sample 0"


def test_arguments_of_the_template_are_the_servers(tmp_path):
    with pytest.raises(ValueError, match=r"`chat_template_kwargs` must be empty for an endpoint, .* got \{'a': 1\}"):
        evaluate("http://localhost:1/v1", tmp_path, chat_template_kwargs={"a": 1})
