"""The UltraLlama recipe from small local copies of both prompt sets and a real server, killed and left alone."""

import hashlib
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import pytest
from chat_server import Answer, ChatServer
from datasets import Dataset, DatasetDict, load_from_disk

from trl_score.cloud.chat import ChatError, Sampling
from trl_score.cloud.endpoint import ChatEndpoint
from trl_score.cloud.prompt_sets import load_prompt_set, read_prompts
from trl_score.cloud.recipe import (
    STEPS,
    RecipeConfig,
    StepCounts,
    collect_prompts,
    format_counts,
    run_recipe,
    save_folder,
)

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "build_cloud_data.py"


def save_prompt_sets(folder, num_feedback=30, num_interact=44):
    """Both sets in the columns of the Hub; UltraInteract has two pairs of every prompt, and later turns."""
    feedback = [
        {
            "source": "flan",
            "instruction": f"Tell me about thing {index}.",
            "models": ["a"],
            "completions": [{"model": "a", "response": "Yes."}],
            "correct_answers": ["None"],
            "incorrect_answers": ["None"],
        }
        for index in range(num_feedback)
    ]
    interact = []
    for index in range(num_interact):
        first_turn = [{"from": "user", "value": f"What is {index} + 1?"}]
        later_turn = [*first_turn, {"from": "assistant", "value": "?"}, {"from": "user", "value": "No."}]
        for pair, trajectory in enumerate((first_turn, first_turn, later_turn)):
            pair_id = {"id": f"{index}_{pair}", "parent_id": str(index)}
            interact.append(
                {
                    "task": "Math_CoT",
                    "dataset": "x",
                    "trajectory": trajectory,
                    "chosen": "a",
                    "rejected": "b",
                    **pair_id,
                }
            )
    DatasetDict({"train": Dataset.from_list(feedback)}).save_to_disk(folder / "UltraFeedback")
    Dataset.from_list(interact).save_to_disk(folder / "UltraInteract_pair")
    return str(folder / "UltraFeedback"), str(folder / "UltraInteract_pair")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """In this process; test_chat.py tests that it is waited for."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="module")
def prompt_sets(tmp_path_factory):
    return save_prompt_sets(tmp_path_factory.mktemp("prompt_sets"))


def config_for(folder, prompt_sets, **options):
    return RecipeConfig(str(folder / "run"), prompt_sets, **{"responses_per_prompt": 3, "held_out": 0.1, **options})


def number_of(text):
    """A number that looks random and is not."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def kind_of(body):
    content = body["messages"][0]["content"]
    return "judge" if "<answer-A " in content else "critique" if "<answer " in content else "response"


def section(body, name):
    found = re.search(rf"<{name} (\w+)>\n(.*?)\n</{name} \1>", body["messages"][0]["content"], re.DOTALL)
    return found[2]


def play_all_roles(body, num_before):
    """Responses depend on prompt and seed, the judge likes small numbers best, the oracle quotes."""
    if kind_of(body) == "response":
        return f"Response {number_of(body['messages'][0]['content'] + str(body['seed'])) % 4}."
    if kind_of(body) == "critique":
        return f"Critique of <{section(body, 'answer')}> to <{section(body, 'request')}>."
    first, second = section(body, "answer-A"), section(body, "answer-B")
    return "[[A=B]]" if first == second else "[[A>B]]" if first < second else "[[B>>A]]"


def run(config, url, **options):
    model = ChatEndpoint(url, "strong", backoff_s=0.0, max_tries=2, **options)
    return run_recipe(config, responder=model, judge=model, oracle=model)


def rows_of(config, step):
    return {split: list(rows) for split, rows in load_from_disk(str(config.folder(step))).items()}


def test_all_steps(tmp_path, prompt_sets):
    config = config_for(tmp_path, prompt_sets)
    with ChatServer(play_all_roles) as server:
        counts = run(config, server.url)
    assert list(counts) == list(STEPS)
    # 30 + 3 x 44 rows; of UltraInteract 44 later turns, 44 second pairs, and 44 - 30 beyond the equal share.
    assert counts["prompts"] == StepCounts(
        read=162,
        kept={"train": 54, "test": 6},  # 60 prompts, a tenth of each set held out
        dropped={"no_text": 0, "not_single_turn": 44, "duplicate": 44, "surplus": 14},
    )
    assert counts["responses"].kept == counts["prompts"].kept
    for earlier, later in itertools.pairwise(STEPS):  # nothing vanishes without a cause
        assert counts[later].read == sum(counts[earlier].kept.values())
        assert counts[later].read == sum(counts[later].kept.values()) + sum(counts[later].dropped.values())
    for rows in rows_of(config, "critiques").values():
        assert rows
        for row in rows:
            assert row["chosen"] < row["rejected"]
            for side in ("chosen", "rejected"):
                assert row[f"{side}_critique"] == f"Critique of <{row[side]}> to <{row['prompt']}>."
    page = (ROOT / "docs" / "critiques.md").read_text()
    assert [cause for step in STEPS for cause in counts[step].dropped if f"`{cause}`" not in page] == []
    # Rows without a winner are those whose responses are all alike.
    responses = {row["id"]: row["responses"] for rows in rows_of(config, "responses").values() for row in rows}
    alike = sum(len(set(texts)) == 1 for texts in responses.values())
    assert counts["judgements"].dropped["equal_responses"] == alike
    assert Counter(kind_of(request.body) for request in server.seen)["response"] == 3 * 60


def test_every_prompt_is_answered_several_times(tmp_path, prompt_sets):
    config = config_for(tmp_path, prompt_sets, num_prompts=4, last_step="responses")
    with ChatServer(play_all_roles) as server:
        run(config, server.url)
    asked = Counter((request.question, request.body["seed"]) for request in server.seen)
    prompts = [row["prompt"] for rows in rows_of(config, "prompts").values() for row in rows]
    seeds = [Sampling(max_tokens=1, seed=42).seed_of_draw(draw) for draw in range(3)]
    assert asked == {(prompt, seed): 1 for prompt in prompts for seed in seeds}
    assert {request.body["temperature"] for request in server.seen} == {1.0}
    assert {request.body["max_tokens"] for request in server.seen} == {2048}


@pytest.mark.parametrize(("num_prompts", "held_out", "test", "train"), [(None, 0.05, 2, 28), (20, 0.3, 3, 7)])
def test_equal_shares_and_a_held_out_split_apart(tmp_path, prompt_sets, num_prompts, held_out, test, train):
    config = config_for(tmp_path, prompt_sets, num_prompts=num_prompts, held_out=held_out)
    data, _ = collect_prompts(config)
    for split, share in (("test", test), ("train", train)):  # 5% of 30 is 1.5, rounded to 2; 30% of 10 is 3
        assert Counter(data[split]["source"]) == {"UltraFeedback": share, "UltraInteract_pair": share}
    assert set(data["train"]["prompt"]).isdisjoint(data["test"]["prompt"])
    everything = [*data["train"]["id"], *data["test"]["id"]]
    assert len(set(everything)) == len(everything)
    again, _ = collect_prompts(config)
    assert again["train"].to_list() == data["train"].to_list()
    other, _ = collect_prompts(config_for(tmp_path, prompt_sets, num_prompts=num_prompts, held_out=held_out, seed=1))
    assert set(other["test"]["prompt"]) != set(data["test"]["prompt"])
    assert data["train"]["source"][:] != sorted(data["train"]["source"])  # the sets are mixed


def test_equal_prompts_are_taken_once_over_all_sets(tmp_path):
    Dataset.from_dict({"prompt": ["one two", "three", "four"]}).save_to_disk(tmp_path / "a")
    Dataset.from_dict({"prompt": [" one\n two", "five", "", "six", None]}).save_to_disk(tmp_path / "b")
    config = config_for(tmp_path, (str(tmp_path / "a"), str(tmp_path / "b")), held_out=0.5)
    data, counts = collect_prompts(config)
    assert counts.dropped == {"no_text": 2, "not_single_turn": 0, "duplicate": 1, "surplus": 1}
    prompts = [*data["train"]["prompt"], *data["test"]["prompt"]]
    assert {"five", "six"} <= set(prompts)
    assert len(prompts) == 4


def test_prompts_of_all_known_columns():
    trajectory = [
        [{"from": "user", "value": " a "}],
        [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}],
    ]
    assert list(read_prompts(Dataset.from_dict({"trajectory": trajectory}), "x")) == ["a", None]
    messages = [[{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]]
    for column in ("messages", "prompt"):
        assert list(read_prompts(Dataset.from_dict({column: messages}), "x")) == ["a", None]
    assert list(read_prompts(Dataset.from_dict({"instruction": ["a\n"], "prompt": ["b"]}), "x")) == ["a"]
    with pytest.raises(ValueError, match=r"'x' has \['question'\]\. Rename the column"):
        list(read_prompts(Dataset.from_dict({"question": ["a"]}), "x"))


def test_local_copies_in_all_forms(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = Dataset.from_dict({"prompt": ["a", "b"]})
    rows.save_to_disk(tmp_path / "folder")
    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "plain").mkdir()
    rows.to_parquet(tmp_path / "plain" / "train.parquet")
    rows.to_json(tmp_path / "rows.jsonl")
    rows.to_csv(tmp_path / "rows.csv")
    for name in ("folder", "splits", "plain", "rows.jsonl", "rows.csv"):
        assert load_prompt_set(str(tmp_path / name))["prompt"][:] == ["a", "b"]
    DatasetDict({"first": rows, "second": rows}).save_to_disk(tmp_path / "unclear")
    with pytest.raises(ValueError, match=r"must have a split 'train', .* has \['first', 'second'\]"):
        load_prompt_set(str(tmp_path / "unclear"))


def test_failures_are_counted_kept_apart_and_asked_again(tmp_path, prompt_sets):
    config = config_for(tmp_path, prompt_sets, num_prompts=20)
    broken = "Tell me about thing"

    def sometimes(body, num_before):
        if kind_of(body) == "response" and broken in body["messages"][0]["content"]:
            return Answer(status=500)
        return play_all_roles(body, 0)

    with ChatServer(sometimes) as server:
        counts = run(config, server.url)
    assert counts["responses"].dropped == {"response_failed": 10, "response_cut": 0}
    errors = [json.loads(line) for line in (tmp_path / "run/journals/responses.errors.jsonl").read_text().splitlines()]
    assert len(errors) == 3 * 10
    assert {error["cause"] for error in errors} == {"HTTP 500: "}
    with ChatServer(play_all_roles) as server:
        counts = run(config, server.url)
    assert counts["responses"].dropped == {"response_failed": 0, "response_cut": 0}
    responses = [request for request in server.seen if kind_of(request.body) == "response"]
    assert len(responses) == 3 * 10
    assert all(broken in request.question for request in responses)


def test_cut_responses_are_left_out(tmp_path, prompt_sets):
    def cut(body, num_before):
        text = play_all_roles(body, 0)
        return Answer(text, "length") if kind_of(body) == "response" and body["seed"] == 42 else text

    config = config_for(tmp_path, prompt_sets, num_prompts=8, last_step="responses", responses_per_prompt=2)
    with ChatServer(cut) as server, pytest.raises(ValueError, match=r"No row .* 'responses': .*'response_cut': 8"):
        run(config, server.url)
    three = config_for(tmp_path, prompt_sets, num_prompts=8, last_step="responses")
    with ChatServer(cut) as server:
        counts = run(three, server.url)
    assert counts["responses"].dropped == {"response_failed": 0, "response_cut": 0}
    assert {len(row["responses"]) for row in rows_of(three, "responses")["train"]} == {2}


def test_an_endpoint_that_is_down_ends_the_run_and_the_next_goes_on(tmp_path, prompt_sets):
    config = config_for(tmp_path, prompt_sets)

    def until_the_judge(body, num_before):
        return play_all_roles(body, 0) if kind_of(body) == "response" else Answer(status=503)

    with ChatServer(until_the_judge) as server, pytest.raises(ChatError, match="50 requests failed in a row"):
        run(config, server.url)
    assert [step for step in STEPS if config.folder(step).is_dir()] == ["prompts", "responses"]
    with ChatServer(play_all_roles) as server:
        run(config, server.url)
    assert "response" not in {kind_of(request.body) for request in server.seen}


def test_steps_one_at_a_time(tmp_path, prompt_sets):
    whole = config_for(tmp_path / "whole", prompt_sets, num_prompts=20)
    with ChatServer(play_all_roles) as server:
        run(whole, server.url)
        model = ChatEndpoint(server.url, "strong")
        roles = {"responses": "responder", "judgements": "judge", "critiques": "oracle"}
        for step in STEPS:  # each with its own model only
            config = config_for(tmp_path / "steps", prompt_sets, num_prompts=20, first_step=step, last_step=step)
            run_recipe(config, **({roles[step]: model} if step in roles else {}))
    assert rows_of(config, "critiques") == rows_of(whole, "critiques")
    reports = [json.loads((Path(some.output_dir) / "counts.json").read_text()) for some in (whole, config)]
    assert reports[0]["steps"] == reports[1]["steps"]
    assert list(reports[1]["steps"]) == list(STEPS)
    assert reports[0]["models"]["judgements"] == {"model": "strong", "extra_body": {}}


def test_a_folder_is_written_in_whole_or_not_at_all(tmp_path, monkeypatch):
    first, second = (DatasetDict({"train": Dataset.from_dict({"x": [value]})}) for value in (1, 2))
    save_folder(first, tmp_path / "data")
    monkeypatch.setattr(DatasetDict, "save_to_disk", lambda self, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_folder(second, tmp_path / "data")
    assert load_from_disk(str(tmp_path / "data"))["train"]["x"][:] == [1]
    monkeypatch.undo()
    save_folder(second, tmp_path / "data")
    assert load_from_disk(str(tmp_path / "data"))["train"]["x"][:] == [2]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_table_names_every_cause():
    counts = {"judgements": StepCounts(9, {"train": 6, "test": 1}, {"verdict_unreadable": 2, "tied": 0})}
    table = format_counts(counts)
    assert "verdict_unreadable" in table
    assert "tied" not in table
    assert len({len(line) for line in table.splitlines()}) == 1  # the columns stand below each other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_step": "critique"}, "A step must be one of .* got 'critique'"),
        ({"first_step": "critiques", "last_step": "prompts"}, "`first_step` must not come after `last_step`"),
        ({"first_step": "judgements"}, r"must have been taken, but .*responses' does not exist"),
        ({"responses_per_prompt": 1}, "`responses_per_prompt` must be at least 2 .* got 1"),
        ({"held_out": 0.0}, "`held_out` must be a share between 0 and 1, got 0.0"),
        ({"held_out": 5}, "`held_out` must be a share"),
        ({"response_temperature": 0.0}, "`response_temperature` must be above 0"),
        ({"prompt_sets": ()}, "`prompt_sets` must be one or more"),
        ({"prompt_sets": ("a/same", "b/same")}, "with different last names"),
        ({"prompt_sets": ("./nowhere", "x/y")}, "'./nowhere' does not exist"),
        ({"prompt_sets": ("rows.jsonl",)}, "'rows.jsonl' does not exist"),
        ({"num_prompts": 3}, "`num_prompts` must be at least 4"),
        ({"response_max_tokens": 0}, "`response_max_tokens` must be at least 1, got 0"),
    ],
)
def test_bad_settings(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        RecipeConfig(**{"output_dir": str(tmp_path), "prompt_sets": ("x/a", "x/b"), **options})


def test_more_settings_that_cannot_be_met(tmp_path, prompt_sets):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`output_dir` must be a folder"):
        RecipeConfig(str(tmp_path / "file"), prompt_sets)
    with pytest.raises(ValueError, match=r"asks for 31 prompts of each set.*Ask for 60 at most"):
        collect_prompts(config_for(tmp_path, prompt_sets, num_prompts=62))
    Dataset.from_dict({"prompt": ["only one"]}).save_to_disk(tmp_path / "small")
    with pytest.raises(ValueError, match=r"at least two prompts .*got \{'small': 1\}"):
        collect_prompts(config_for(tmp_path, (str(tmp_path / "small"),)))
    with pytest.raises(ValueError, match=r"The steps \['responses', 'judgements'\] need a model each"):
        run_recipe(config_for(tmp_path, prompt_sets, last_step="judgements"))


# The script


def command(folder, prompt_sets, url, *more):
    options = {"--output-dir": folder / "run", "--responses-per-prompt": 3, "--held-out": 0.1, "--backoff": 0.01}
    for role in ("response", "judge"):
        options |= {f"--{role}-model": "strong", f"--{role}-url": url}
    flags = [str(part) for option in options.items() for part in option]
    return [sys.executable, str(SCRIPT), *flags, "--prompt-sets", *prompt_sets, *more]


@pytest.fixture(scope="module")
def script():
    """The script as a module, so that not every test needs a process."""
    spec = importlib.util.spec_from_file_location("build_cloud_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(script, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", arguments[1:])
    script.main()


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was_and_nothing_is_written_twice(tmp_path, prompt_sets):
    def slowly(body, num_before):
        return Answer(play_all_roles(body, 0), delay_s=0.005)

    config = config_for(tmp_path / "whole", prompt_sets, num_prompts=20)
    with ChatServer(slowly) as server:
        counts = run(config, server.url)
    num_requests = len(server.seen)
    more = ("--num-prompts", "20", "--max-concurrency", "4")
    with ChatServer(slowly) as server:
        running = command(tmp_path / "killed", prompt_sets, server.url, *more)
        for share in (0.2, 0.5, 0.9):  # among the responses, the judgements and the critiques
            with subprocess.Popen(running, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                while len(server.seen) < share * num_requests and process.poll() is None:
                    time.sleep(0.001)
                os.kill(process.pid, signal.SIGKILL)
            assert process.returncode == -signal.SIGKILL
        finished = subprocess.run(running, capture_output=True, text=True, check=True, cwd=ROOT)
    folders = [tmp_path / name / "run" for name in ("whole", "killed")]
    for step in STEPS[1:]:
        journals = [
            [json.loads(line) for line in (folder / "journals" / f"{step}.jsonl").read_text().splitlines()]
            for folder in folders
        ]
        keys = [[entry["key"] for entry in journal] for journal in journals]
        assert len(set(keys[1])) == len(keys[1])
        assert sorted(keys[1]) == sorted(keys[0])
    for step in STEPS:
        results = [load_from_disk(str(folder / step)) for folder in folders]
        for split in ("train", "test"):
            assert results[0][split].to_list() == results[1][split].to_list()
    # Asked again is at most what was on its way when a run was killed: four requests, three times.
    assert num_requests <= len(server.seen) <= num_requests + 3 * 4
    assert finished.stdout.startswith(format_counts(counts))
    assert "prompts                     162       18        2      142" in finished.stdout


def test_a_local_model_answers(tmp_path, prompt_sets, local_model):
    config = config_for(tmp_path, prompt_sets, num_prompts=6, last_step="responses", response_max_tokens=96)
    from trl_score.cloud.local_chat import LocalChat

    counts = run_recipe(config, responder=LocalChat(str(local_model("qwen2")), batch_size=16))
    dropped = counts["responses"].dropped
    assert sum(counts["responses"].kept.values()) + sum(dropped.values()) == 6
    assert sum(counts["responses"].kept.values()) >= 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--held-out", "2"], "`held_out` must be a share"),
        (["--prompt-sets", "./nowhere"], "'./nowhere' does not exist"),
        (["--judge-api-key-env", "NO_SUCH_KEY"], "`api_key_env` must name an environment variable"),
        (["--oracle-url", "http://host/v1"], "--oracle-url and --oracle-api-key-env need --oracle-model"),
        (["--oracle-model", "./nowhere"], "--oracle-model: the folder './nowhere' does not exist"),
        (["--judge-url", "host:8000"], "`base_url` must be an address"),
        (["--max-tries", "0"], "`max_tries` must be at least 1"),
        (["--first-step", "critiques"], "must have been taken"),
        (["--judge-max-tokens", "0"], "`judge_max_tokens` must be at least 1, got 0"),
    ],
)
def test_bad_arguments_of_the_script(tmp_path, prompt_sets, script, monkeypatch, capsys, more, message):
    with pytest.raises(SystemExit, match="2"):
        run_script(script, monkeypatch, command(tmp_path, prompt_sets, "http://127.0.0.1:9/v1", *more))
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_the_script_names_the_model_that_a_step_needs(tmp_path, script, monkeypatch, capsys):
    bare = [sys.executable, str(SCRIPT), "--output-dir", str(tmp_path / "run"), "--prompt-sets", "x/a"]
    with pytest.raises(SystemExit, match="2"):
        run_script(script, monkeypatch, bare)
    assert "The step 'responses' needs --response-model." in capsys.readouterr().err


def test_the_script_says_what_to_do_when_the_endpoint_refuses_everything(
    tmp_path, prompt_sets, script, monkeypatch, capsys
):
    with ChatServer(lambda body, num_before: Answer(status=401, body=b"who are you?")) as server:  # noqa: SIM117
        with pytest.raises(SystemExit, match="1"):
            run_script(script, monkeypatch, command(tmp_path, prompt_sets, server.url))
    error = capsys.readouterr().err
    assert "HTTP 401: who are you?" in error
    assert "run again to go on" in error


def test_another_oracle_than_the_judge(tmp_path, prompt_sets, script, monkeypatch, capsys):
    with ChatServer(play_all_roles) as server:
        more = ("--num-prompts", "8", "--oracle-model", "wise", "--oracle-url", server.url)
        run_script(script, monkeypatch, command(tmp_path, prompt_sets, server.url, *more))
    models = {(kind_of(request.body), request.body["model"]) for request in server.seen}
    assert models == {("response", "strong"), ("judge", "strong"), ("critique", "wise")}
    assert "critiques" in capsys.readouterr().out


def test_help_reads_well(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = script.make_parser().format_help()
    for words in ("UltraFeedback", "--judge-url", "run again to go on", "(default: 0.05)", "--first-step"):
        assert words in text
