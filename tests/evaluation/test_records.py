"""What is kept of a problem: outcome, changes, names; and that it comes back from JSON as it was."""

import json

import pytest

from trl_score.evaluation.records import EvaluationRecord, make_records
from trl_score.evaluation.turns import AnsweredTurn

CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 2?"}]


def record(*rewards, turns=("4", "5"), **fields):
    return EvaluationRecord("2 + 2 =", turns, rewards, turns, "2 + 2 =", truncated=(False,) * len(turns), **fields)


@pytest.mark.parametrize(
    ("rewards", "correct", "outcome"),
    [
        ((0.0, 1.0), (0.0, 1.0), "fixed"),
        ((0.9, 0.5), (1.0, 0.0), "broken"),  # right is above one half
        ((0.51, 2.0), (1.0, 1.0), "right"),
        ((-1.0, 0.5), (0.0, 0.0), "wrong"),
        ((None, 1.0), (None, 1.0), "unscorable"),
        ((0.0, None), (0.0, None), "unscorable"),
    ],
)
def test_outcome_of_a_record(rewards, correct, outcome):
    assert record(*rewards).correct == correct
    assert record(*rewards).outcome == outcome


def test_record_is_json():
    saved = json.loads(json.dumps(record(0.0, None, task="sums", level=3, sample=1, is_turn_1_offline=True).as_dict()))
    assert saved == {
        "prompt": "2 + 2 =",
        "turns": ["4", "5"],
        "rewards": [0.0, None],
        "answers": ["4", "5"],
        "problem": "2 + 2 =",
        "task": "sums",
        "is_turn_1_offline": True,
        "truncated": [False, False],
        "level": 3,
        "sample": 1,
        "failure": None,
        "outcome": "unscorable",
        # One of two characters is another: 1 / 2.
        "changes": [{"answer": True, "edit_distance_ratio": 0.5, "removed": ["4"], "added": ["5"]}],
    }
    assert EvaluationRecord.from_dict(saved) == record(
        0.0, None, task="sums", level=3, sample=1, is_turn_1_offline=True
    )


def test_changes_are_against_the_turn_before():
    turns = ("It is \\boxed{4}.", "It is \\boxed{4}.", "So it is \\boxed{5}.")
    changed = EvaluationRecord("2 + 2 =", turns, (0.0, 0.0, 1.0), ("4", "4", "5"), "q").changes()
    assert changed[0] == {"answer": False, "edit_distance_ratio": 0.0, "removed": [], "added": []}
    # Of 16 and 19 characters: three put in, and I -> i and 4 -> 5 replaced.
    assert changed[1] == {
        "answer": True,
        "edit_distance_ratio": pytest.approx(5 / 35, abs=1e-4),
        "removed": ["It", "4"],
        "added": ["So", "it", "5"],
    }
    assert [change["edit_distance_ratio"] for change in record(0, 0, 0, turns=("1", "2", "2")).changes()] == [0.5, 0.0]
    assert record(1.0, turns=("4",)).changes() == []


def make(rows, texts=("4", "5"), failures=({}, {})):
    turns = [
        AnsweredTurn([text], [number == 1], None, failed)
        for number, (text, failed) in enumerate(zip(texts, failures, strict=True))
    ]
    return make_records(rows, turns, [[0.0], [1.0]], is_turn_1_offline=[True], sample=2)[0]


def test_a_record_of_bare_rows():
    made = make({"prompt": [CHAT]})
    assert (made.prompt, made.turns, made.rewards, made.truncated) == (CHAT, ("4", "5"), (0.0, 1.0), (False, True))
    assert (made.task, made.level, made.sample, made.is_turn_1_offline) == (None, None, 2, True)


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({}, "2 + 2?"),
        ({"problem_id": [None], "task": ["sums"]}, "2 + 2?"),
        ({"problem_id": ["7"]}, "7"),
        ({"problem_id": [7], "task": ["sums"]}, "sums/7"),  # another task may have a 7 too
    ],
)
def test_problem_is_called_by_its_id_or_by_what_it_asks(columns, name):
    assert make({"prompt": [CHAT], **columns}).problem == name


def test_plain_prompt_is_its_own_name():
    assert make({"prompt": ["2 + 2 ="], "level": [4]}).problem == "2 + 2 ="
    assert make({"prompt": ["2 + 2 ="], "level": [4]}).level == 4


def test_a_turn_without_a_reply_has_no_answer_and_a_cause():
    made = make({"prompt": ["2 + 2 ="]}, texts=("4", ""), failures=({}, {0: "HTTP 500"}))
    assert (made.answers, made.failure) == (("4", None), "HTTP 500")
    silent = make({"prompt": ["2 + 2 ="]}, texts=("4", ""))
    assert (silent.answers, silent.failure) == (("4", ""), None)
