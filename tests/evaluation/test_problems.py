"""Problems by the name of a task or from a file: which rows, which split, which reward, and what is left out."""

import json
from dataclasses import replace

import pytest

from trl_score.data.columns import TURN_1_COLUMN
from trl_score.data.sources import TaskDataError
from trl_score.data.tasks import TASKS
from trl_score.evaluation.problems import load_problems
from trl_score.rewards import MathReward


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def always(completions, **kwargs):
    return [1.0] * len(completions)


@pytest.fixture
def golds(tmp_path):
    """A file of maths problems, of which one has a gold answer that nobody can read."""
    rows = [{"problem": f"{number}?", "answer": gold} for number, gold in enumerate(["4", "x^^2", "6"])]
    return write(tmp_path / "golds.jsonl", *rows)


def test_the_split_for_measuring_is_taken_unless_another_is_named():
    held_out = load_problems(["adder"], num_problems=5)
    trained = load_problems(["Adder"], split="train", num_problems=5)
    assert held_out.about == {"tasks": {"adder": "eval"}, "num_left_out": 0}
    assert trained.about["tasks"] == {"adder": "train"}
    assert not set(held_out.dataset["solution"]) & set(trained.dataset["solution"])
    assert (held_out.correction_prompt, held_out.max_completion_length) == ("check it", 12)
    assert held_out.reward_func(completions=["x"], solution=["x"], task=["adder"]) == [1.0]


def test_the_first_problems_are_taken_of_each_task(monkeypatch, golds):
    monkeypatch.setitem(TASKS, "adder-two", replace(TASKS["adder"], name="adder-two", max_completion_length=20))
    problems = load_problems(["adder", "adder-two"], num_problems=4)
    assert sorted(problems.dataset["task"]) == ["adder"] * 4 + ["adder-two"] * 4
    budgets = dict(zip(problems.dataset["task"], problems.dataset["max_completion_length_t1"], strict=True))
    assert budgets == {"adder": 12, "adder-two": 20}
    assert set(problems.dataset["correction_prompt"]) == {"check it"}
    assert problems.about["tasks"] == {"adder": "eval", "adder-two": "eval"}
    assert load_problems(["own-maths"], path=golds, num_problems=1).dataset["problem_id"][:] == ["0"]
    assert len(load_problems(["own-maths"], path=golds, num_problems=9).dataset) == 2


def test_gold_answers_that_cannot_be_read_are_left_out_and_listed(golds, caplog):
    problems = load_problems(["own-maths"], path=golds)
    assert problems.dataset["solution"][:] == ["4", "6"]
    assert problems.about == {"tasks": {"own-maths": None}, "path": golds, "num_left_out": 1}
    assert "1 of 3 problems have a gold answer that cannot be read: row 1: 'x^^2'. They are left out." in caplog.text


def test_another_reward_reads_golds_in_its_own_way(golds):
    assert len(load_problems(["own-maths"], path=golds, reward_func=always).dataset) == 3
    with pytest.raises(ValueError, match="1 of 3 rows have a `solution` without an answer that can be compared"):
        load_problems(["own-maths"], path=golds, reward_func=MathReward())


def test_all_unreadable_is_an_error(tmp_path):
    path = write(tmp_path / "a.jsonl", {"problem": "?", "answer": "x^^2"})
    with pytest.raises(TaskDataError, match=r"All 1 problems have a gold answer that cannot be read: row 0: 'x\^\^2'"):
        load_problems(["own-maths"], path=path)


def test_columns_and_options_of_the_task(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "2 + 2?", "answer": "4"})
    given = {"columns": {"problem": "question"}, "options": {"system_prompt": "Be short."}}
    problems = load_problems(["own-maths"], path=path, **given)
    assert problems.dataset[0]["prompt"][0] == {"role": "system", "content": "Be short."}
    assert problems.about["columns"] == {"problem": "question"} and problems.about["system_prompt"] == "Be short."


def test_wrong_programs_to_repair_are_given_as_first_turns(tmp_path):
    row = {"task_id": 1, "text": "Add.", "test_list": ["assert add(1, 1) == 2"], "wrong_code": "def add(a, b): pass"}
    problems = load_problems(["mbpp-r"], path=write(tmp_path / "a.jsonl", row))
    assert problems.offline_turn_1_column == TURN_1_COLUMN in problems.dataset.column_names
    assert load_problems(["adder"], num_problems=1).offline_turn_1_column is None


def test_rows_of_ones_own(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "2 + 2?"}, {"question": "1 + 1?", "gold": "2"})
    problems = load_problems(path=path, columns={"prompt": "question"}, reward_func=always)
    assert problems.dataset.to_list() == [{"gold": None, "prompt": "2 + 2?"}, {"gold": "2", "prompt": "1 + 1?"}]
    assert problems.reward_func is always
    assert (problems.correction_prompt, problems.max_completion_length) == (None, None)
    assert (
        len(load_problems(path=path, columns={"prompt": "question"}, reward_func=always, num_problems=1).dataset) == 1
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Expected the name of a task, or a path with a reward function"),
        ({"path": "a.jsonl"}, "Expected the name of a task, or a path with a reward function"),
        ({"reward_func": always}, "Expected the name of a task, or a path with a reward function"),
        ({"path": "a.jsonl", "reward_func": always, "options": {"a": 1}}, "and no further options"),
        (
            {"tasks": ["adder", "gsm8k"], "path": "a.jsonl"},
            "Several tasks are loaded as they are, got adder, gsm8k with path",
        ),
        (
            {"tasks": ["adder"], "options": {"shown_tests": "none"}},
            "'adder' has no option shown_tests; it has num_rows, seed",
        ),
        ({"tasks": ["gsm"]}, "There is no task 'gsm'. The nearest names are: gsm8k"),
        ({"tasks": ["adder"], "num_problems": 0}, "at least one problem, got `num_problems` 0"),
    ],
)
def test_what_does_not_go_together_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_problems(**arguments)


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"prompt": "gold"}, "has no column gold, it has"), (None, "has no column 'prompt', it has .*question")],
)
def test_a_column_that_is_missing_is_named_with_those_there_are(tmp_path, columns, message):
    path = write(tmp_path / "a.jsonl", {"question": "2 + 2?"})
    with pytest.raises(TaskDataError, match=message):
        load_problems(path=path, columns=columns, reward_func=always)
