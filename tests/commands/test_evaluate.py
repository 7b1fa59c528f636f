"""`trl-score evaluate`: what it prints and keeps, a kill in the middle, an endpoint, own data, and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import ChatServer, refusing_url

from trl_score.cli import main
from trl_score.data import adder
from trl_score.data.tasks import TASKS
from trl_score.evaluation import evaluate_self_correction, load_model, load_tokenizer

ROOT = Path(__file__).parents[2]
SAMPLED = ["--model=adder", "--task=adder", "--num_problems=24", "--batch_size=4", "--num_samples=2", "--do_sample"]
FILES = ("evaluation.json", "metrics.json", "records.jsonl")

REWARDS = """
def is_even(completions, **kwargs):
    texts = [completion if isinstance(completion, str) else completion[0]["content"] for completion in completions]
    return [float(len(text) % 2 == 0) for text in texts]


def never(completions, **kwargs):
    return [None] * len(completions)
"""


def evaluate(folder, *options):
    return main(["evaluate", *map(str, options), f"--output_dir={folder}"])


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def settings(folder):
    return json.loads((folder / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a sampled evaluation of the embedded model that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    assert evaluate(folder, *SAMPLED) == 0
    return folder


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    """A user's working folder, with a module of rewards and data of their own."""
    (tmp_path / "my_eval_rewards.py").write_text(REWARDS)
    rows = [{"question": f"What is {number} + 1?", "answer": str(number + 1), "hard": number} for number in range(6)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_eval_rewards", None)


# What it gives


def test_it_is_the_evaluation_in_python(whole):
    evaluation = evaluate_self_correction(
        load_model(str(adder.adder_base_path())),
        load_tokenizer(str(adder.adder_base_path())),
        adder.adder_dataset(24, seed=0, split="eval"),
        adder.adder_reward,
        max_completion_length=adder.MAX_COMPLETION_LENGTH,
        correction_prompt=adder.CORRECTION_PROMPT,
        do_sample=True,
        num_samples=2,
        batch_size=4,
    )
    assert [tuple(record["turns"]) for record in records(whole)] == [record.turns for record in evaluation.records]
    metrics = json.loads((whole / "metrics.json").read_text())
    expected = {name: interval.as_dict() for name, interval in evaluation.metrics.items()}
    assert expected.items() <= metrics["pairs"]["t1_t2"].items()
    assert settings(whole)["model"] == "adder"
    assert settings(whole)["problems"] == {"tasks": {"adder": "eval"}, "num_left_out": 0}


def test_a_killed_run_goes_on_to_the_same_files(whole, tmp_path):
    command = [sys.executable, "-m", "trl_score", "evaluate", *SAMPLED, f"--output_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    file = tmp_path / "records.jsonl"
    give_up = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < give_up:
        if file.is_file() and file.read_bytes().count(b"\n") >= 12:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL
    expected = contents(whole)
    done = file.read_bytes()
    assert expected["records.jsonl"].startswith(done) and len(done) < len(expected["records.jsonl"])
    assert not (tmp_path / "metrics.json").exists()
    # A kill may also come in the middle of a line.
    file.write_bytes(done[: len(done) - 100])
    assert evaluate(tmp_path, *SAMPLED) == 0
    assert contents(tmp_path) == expected


def test_a_finished_run_is_shown_again_and_not_made_again(whole, capsys):
    before = contents(whole)
    assert evaluate(whole, *SAMPLED) == 0
    written = capsys.readouterr().out
    assert contents(whole) == before
    pair = json.loads(before["metrics.json"])["pairs"]["t1_t2"]
    assert "Sampled, 24 problems" in written
    assert f"{100 * pair['accuracy_t1']['value']:.1f}" in written
    assert f"{100 * pair['delta_t1_t2']['value']:+.1f}" in written
    assert "pass@k of each turn" in written and "maj@k of each turn" in written
    assert written.endswith(f"Records and metrics: {whole}\n")
    assert max(map(len, written.splitlines()[:-1])) <= 80


def test_overwrite_makes_it_anew(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    assert evaluate(tmp_path, *SAMPLED, "--seed=1") == 2
    assert contents(tmp_path) == contents(whole)
    assert evaluate(tmp_path, *SAMPLED, "--seed=1", "--overwrite") == 0
    assert settings(tmp_path)["seed"] == 1
    assert contents(tmp_path)["records.jsonl"] != contents(whole)["records.jsonl"]


def test_another_model_on_the_same_problems_is_compared(whole, tmp_path, capsys):
    assert evaluate(tmp_path, *SAMPLED[:-2], f"--compare={whole}") == 0
    written = capsys.readouterr().out
    assert "This model less the other, 24 answers of both" in written
    # Greedy against the first sample of each problem.
    wrong_a = {row["problem"] for row in records(whole)[:24] if row["rewards"][1] == 0}
    wrong_b = {row["problem"] for row in records(tmp_path) if row["rewards"][1] == 0}
    assert f"{len(wrong_a - wrong_b)} : {len(wrong_b - wrong_a)}" in written


# What is asked of whom


def test_an_endpoint_answers(tmp_path, capsys):
    def answer(body, num_before):
        addends = [int(number) for number in body["messages"][0]["content"].rstrip("=?").split("+")]
        right = adder.AdderProblem(tuple(addends)).answer
        return right if len(body["messages"]) > 1 else right[:-1]

    options = ["--model=m", "--task=adder", "--num_problems=5", "--batch_size=2"]
    with ChatServer(answer) as server:
        assert evaluate(tmp_path, *options, f"--endpoint={server.url}") == 0
        assert len(server.seen) == 10
        assert "+100.0" in capsys.readouterr().out
        assert evaluate(tmp_path, *options, f"--endpoint={server.url}") == 0
        assert len(server.seen) == 10
        assert evaluate(tmp_path, *options, f"--endpoint={server.url}", "--overwrite") == 0
        assert len(server.seen) == 20
    assert {body["max_tokens"] for body in (one.body for one in server.seen)} == {adder.MAX_COMPLETION_LENGTH}
    assert server.seen[-1].body["messages"][2]["content"] == adder.CORRECTION_PROMPT


def test_a_model_is_asked_as_it_was_trained_unless_said_otherwise(local_model, user_folder):
    model = user_folder / "model"
    shutil.copytree(local_model("qwen2"), model)
    trained = {"correction_prompt": "As trained.", "max_completion_length": [6, 4]}
    (model / "score_config.json").write_text(json.dumps(trained))
    options = [f"--model={model}", "--task=own-maths", "--path=sums.jsonl", "--columns", "problem=question"]
    assert evaluate(user_folder / "a", *options, "--num_turns=3") == 0
    as_trained = settings(user_folder / "a")
    assert as_trained["correction_prompt"] == "As trained."
    assert as_trained["max_completion_length"] == [6, 4, 4]
    assert as_trained["problems"]["columns"] == {"problem": "question"}
    said = ["--correction_prompt=Said.", "--max_new_tokens", "3", "2"]
    assert evaluate(user_folder / "b", *options, *said) == 0
    assert settings(user_folder / "b")["correction_prompt"] == "Said."
    assert settings(user_folder / "b")["max_completion_length"] == [3, 2]
    assert len(records(user_folder / "b")) == 6


def test_own_rows_and_an_own_reward(local_model, user_folder):
    options = [f"--model={local_model('qwen2')}", "--path=sums.jsonl", "--columns", "prompt=question", "level=hard"]
    assert evaluate(user_folder / "a", *options, "--reward_funcs=my_eval_rewards.is_even", "--max_new_tokens=5") == 0
    lines = records(user_folder / "a")
    assert [line["prompt"] for line in lines] == [f"What is {number} + 1?" for number in range(6)]
    assert [line["level"] for line in lines] == list(range(6))
    assert all(line["rewards"] == [float(len(text) % 2 == 0) for text in line["turns"]] for line in lines)


@pytest.fixture
def two_adders(monkeypatch):
    """A second task beside the embedded one, which is asked in another way."""
    spec = TASKS["adder"]
    monkeypatch.setitem(TASKS, "adder-two", replace(spec, name="adder-two", max_completion_length=5))
    return ["--model=adder", "--task", "adder", "adder-two", "--num_problems=3"]


def test_each_of_several_tasks_is_asked_as_suits_it(two_adders, tmp_path, capsys):
    assert evaluate(tmp_path / "a", *two_adders) == 0
    lines = records(tmp_path / "a")
    assert sorted(line["task"] for line in lines) == ["adder"] * 3 + ["adder-two"] * 3
    assert {line["task"] for line in lines if any(line["truncated"])} == {"adder-two"}
    assert "By task, greedy" in capsys.readouterr().out
    # What is said for all goes before what suits each.
    assert evaluate(tmp_path / "b", *two_adders, "--max_new_tokens=2") == 0
    assert all(all(line["truncated"]) for line in records(tmp_path / "b"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature=0.5"], "`--temperature` is of sampling"),
        (["--api_key_env=KEY"], "`--api_key_env` is an endpoint's"),
        (["--endpoint=http://localhost:1/v1", "--tokenizer=x"], "`--tokenizer` is of a model that is loaded here"),
        (["--task_options", "shown_tests"], "`--task_options` takes NAME=VALUE, got 'shown_tests'"),
        (["--task_options", "shown_tests=none"], "has no option shown_tests"),
    ],
)
def test_options_that_do_not_go_together_are_refused_at_once(tmp_path, capsys, options, message):
    assert evaluate(tmp_path / "a", "--model=adder", "--task=adder", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_options_of_the_task_are_json_where_they_can_be(tmp_path):
    assert evaluate(tmp_path, "--model=adder", "--task=adder", "--task_options", "num_rows=3", "seed=7") == 0
    assert len(records(tmp_path)) == 3
    assert settings(tmp_path)["problems"].items() >= {"num_rows": 3, "seed": 7}.items()
    assert settings(tmp_path)["seed"] == 0


# Bad input, through the command itself


@pytest.fixture(scope="module")
def bad(tmp_path_factory, local_model):
    """Runs command lines that must fail, all in one process, and gives the exit code and the words of each."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "my_eval_rewards.py").write_text(REWARDS)
    (folder / "empty.jsonl").write_text("")
    (folder / "no_answer.jsonl").write_text(json.dumps({"problem": "2 + 2?"}) + "\n")
    golds = ["4", "x^^2", "6"]
    rows = [json.dumps({"problem": f"{number}?", "answer": gold}) for number, gold in enumerate(golds)]
    (folder / "one_unreadable.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "all_unreadable.jsonl").write_text(rows[1] + "\n")
    shutil.copytree(local_model("qwen2"), folder / "no_tokenizer", ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    (folder / "cut.jsonl").write_text('{"prompt": "2 + 2?", "turns": ["4", "4"], "rew')
    line = {"prompt": "2 + 2?", "turns": ["4"], "rewards": [1.0]}
    (folder / "another.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "records.jsonl").write_text('{"prompt": "2 + 2?"}\n')
    own = ["--model=adder", "--task=own-maths"]
    adder_task = ["--model=adder", "--task=adder", "--num_problems=2"]
    lines = {
        "unknown task": ["--model=adder", "--task=gsm8"],
        "no task": ["--model=adder"],
        "missing column": [*own, "--path=no_answer.jsonl"],
        "no such file": [*own, "--path=nowhere.jsonl"],
        "empty": [*own, "--path=empty.jsonl"],
        "unreadable": [*own, "--path=all_unreadable.jsonl"],
        "one unreadable": [*own, "--path=one_unreadable.jsonl", "--max_new_tokens=4"],
        "no prompt": ["--model=adder", "--path=no_answer.jsonl", "--reward_funcs=my_eval_rewards.is_even"],
        "no such column": [*own, "--path=no_answer.jsonl", "--columns", "answer=gold"],
        "no equals sign": [*own, "--path=no_answer.jsonl", "--columns", "answer"],
        "no such option": ["--model=adder", "--task=adder", "--task_options", "shown_tests=none"],
        "no such reward": [*adder_task, "--reward_funcs=my_eval_rewards.other"],
        "never scored": [*adder_task, "--reward_funcs=my_eval_rewards.never"],
        "no problems": ["--model=adder", "--task=adder", "--num_problems=0"],
        "no tokenizer": ["--model=no_tokenizer", "--task=adder", "--num_problems=2"],
        "no such model": ["--model=nowhere/at_all", "--task=adder", "--num_problems=2"],
        "refuses": [*adder_task[1:], "--model=m", f"--endpoint={refusing_url()}", "--max_tries=1"],
        "no address": [*adder_task[1:], "--model=m", "--endpoint=localhost"],
        "cut records": [*adder_task, "--compare=cut.jsonl"],
        "other problems": [*adder_task, "--compare=another.jsonl"],
        "foreign records": [*adder_task, "--output_dir=foreign"],
        "greedy temperature": [*adder_task, "--temperature=0.5"],
        "greedy samples": [*adder_task, "--num_samples=2"],
        "key without endpoint": [*adder_task, "--api_key_env=KEY"],
        "tokenizer of endpoint": [*adder_task, "--endpoint=http://localhost:1/v1", "--tokenizer=x"],
        "budgets": [*adder_task, "--max_new_tokens", "3", "3", "3"],
        "column of first turns": [*adder_task, "--offline_turn_1_column=turn_1"],
    }
    code = """
import contextlib, io, json, sys
from trl_score.cli import main
for name, line in json.loads(sys.argv[1]).items():
    words = io.StringIO()
    out = [] if any(option.startswith("--output_dir") for option in line) else [f"--output_dir=out/{name}"]
    with contextlib.redirect_stderr(words):
        code = main(["evaluate", *line, *out])
    print("\\0" + json.dumps([name, code, words.getvalue()]), flush=True)
"""
    command = [sys.executable, "-c", code, json.dumps(lines)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("\0")]
    assert [name for name, _, _ in results] == list(lines)
    return {name: (exit_code, words, done.stderr) for name, exit_code, words in results}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unknown task", "There is no task 'gsm8'. The nearest names are: gsm8k."),
        ("no task", "Expected the name of a task, or a path with a reward function"),
        ("missing column", "no_answer.jsonl has no column 'answer', it has ['problem']."),
        ("no such file", "nowhere.jsonl does not exist."),
        ("empty", "empty.jsonl has no rows."),
        ("unreadable", "All 1 problems have a gold answer that cannot be read: row 0: 'x^^2'."),
        ("no prompt", "no_answer.jsonl has no column 'prompt', it has ['problem']."),
        ("no such column", "no_answer.jsonl has no column 'gold'"),
        ("no equals sign", "`--columns` takes NAME=VALUE, got 'answer'."),
        ("no such option", "The task 'adder' has no option shown_tests; it has num_rows, seed."),
        ("no such reward", "Expected a reward function by its dotted path"),
        ("never scored", "Expected at least one problem that is scorable at turns 1 and 2, got none among 2."),
        ("no problems", "Expected at least one problem, got `num_problems` 0."),
        ("no tokenizer", "Expected a model with a tokenizer that can be read in 'no_tokenizer', got a folder without"),
        ("no such model", "Expected a model with a tokenizer that can be read in 'nowhere/at_all'"),
        (
            "refuses",
            "Expected replies from the endpoint, got none to 2 problems. The first failure: ClientConnectorError",
        ),
        ("no address", "`base_url` must be an address such as 'http://localhost:8000/v1', got 'localhost'."),
        ("cut records", "Expected a whole JSON object on line 1 of 'cut.jsonl'"),
        (
            "other problems",
            "Expected records of the same problems with 2 turns to compare with, got 0 problems in common",
        ),
        ("foreign records", "Expected evaluation.json beside the records in 'foreign'"),
        ("greedy temperature", "`--temperature` is of sampling, got one without `--do_sample`."),
        ("greedy samples", "`num_samples` must be 1 for greedy decoding"),
        ("key without endpoint", "`--api_key_env` is an endpoint's, got one without `--endpoint`."),
        ("tokenizer of endpoint", "`--tokenizer` is of a model that is loaded here, got one with `--endpoint`."),
        ("budgets", "one for each of 2 turns (`num_turns`), got [3, 3, 3]."),
        ("column of first turns", "a `prompt` and the column 'turn_1', got 2 rows with the columns"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(bad, name, message):
    code, words, _ = bad[name]
    assert code == 2, words
    (sentence,) = [line for line in words.splitlines() if line.startswith("trl-score evaluate: ")]
    assert message in sentence
    assert "Traceback" not in words


def test_problems_whose_gold_cannot_be_read_are_left_out_counted_and_listed(bad):
    code, words, stderr = bad["one unreadable"]
    assert code == 0, words
    assert "1 of 3 problems have a gold answer that cannot be read: row 1: 'x^^2'. They are left out." in words + stderr
