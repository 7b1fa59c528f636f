"""The loop of an evaluation, with respondents that are functions: what is kept, what is made anew, what is scored."""

import hashlib
import json

import pytest
from datasets import Dataset

from trl_score.evaluation.run import run_evaluation
from trl_score.evaluation.settings import EvaluationSettings
from trl_score.evaluation.turns import AnsweredTurn
from trl_score.user_errors import UserError

SETTINGS = EvaluationSettings(max_completion_length=8, num_samples=2, do_sample=True, batch_size=4)
DATASET = Dataset.from_dict({"prompt": [f"{number} + 1?" for number in range(10)], "gold": list(range(1, 11))})
FILES = ("evaluation.json", "metrics.json", "records.jsonl")


class Adder:
    """Answers by the batch's seed: about every second answer is right. Notes what it is asked."""

    def __init__(self, name="adder", num_turns=2):
        self.identity = {"model": name}
        self.num_turns = num_turns
        self.asked = []

    def answer(self, rows, *, sample, seed):
        self.asked += [(prompt, sample) for prompt in rows["prompt"]]
        return [
            AnsweredTurn(
                [f"\\boxed{{{gold + (seed + turn + gold) % 2}}}" for gold in rows["gold"]],
                [False] * len(rows["gold"]),
                [[gold, 0] for gold in rows["gold"]],
            )
            for turn in range(self.num_turns)
        ]


class Unreliable(Adder):
    """Gives no second turn to one problem, as often as it is told to."""

    def __init__(self, num_failures):
        super().__init__()
        self.num_failures = num_failures

    def answer(self, rows, *, sample, seed):
        first, second = super().answer(rows, sample=sample, seed=seed)
        if "7 + 1?" in rows["prompt"] and sample == 1 and self.num_failures:
            self.num_failures -= 1
            row = rows["prompt"].index("7 + 1?")
            second.texts[row] = ""
            second.failures[row] = "HTTP 500"
        return [first, second]


def is_gold(completions, gold, **kwargs):
    return [float(text == f"\\boxed{{{right}}}") for text, right in zip(completions, gold, strict=True)]


def evaluate(respondent=None, dataset=DATASET, settings=SETTINGS, reward_func=is_gold, **options):
    return run_evaluation(respondent or Adder(), dataset, reward_func, settings, **options)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    evaluate(output_dir=folder)
    return folder


def test_files_hold_what_is_given_back(whole):
    evaluation = evaluate()
    lines = [json.loads(line) for line in (whole / "records.jsonl").read_text().splitlines()]
    assert [line["turns"] for line in lines] == [list(record.turns) for record in evaluation.records]
    metrics = json.loads((whole / "metrics.json").read_text())
    expected = {name: interval.as_dict() for name, interval in evaluation.metrics.items()}
    assert metrics["pairs"]["t1_t2"].items() >= expected.items()
    assert (metrics["num_problems"], metrics["num_records"]) == (10, 20)
    assert metrics["evaluation"] == json.loads((whole / "evaluation.json").read_text())
    assert {"python", "torch", "transformers", "trl", "trl_score"} == set(metrics["versions"])
    outcomes = {record.outcome for record in evaluation.records}
    assert outcomes == {"fixed", "broken"}  # else the tests below could not tell one record from another


def test_a_run_that_was_cut_anywhere_goes_on_to_the_same_files(whole, tmp_path):
    complete = contents(whole)
    records = complete["records.jsonl"]
    ends = [position + 1 for position, byte in enumerate(records) if byte == ord("\n")]
    # In the middle of lines, and around some ends of a line, of which that of line 4 ends a batch.
    around = {end + by for end in (ends[2], ends[3], ends[12]) for by in (-2, -1, 0, 1)}
    for position in sorted({*range(0, len(records), 499), *around, len(records) - 1}):
        (tmp_path / "records.jsonl").write_bytes(records[:position])
        (tmp_path / "evaluation.json").write_bytes(complete["evaluation.json"])
        (tmp_path / "metrics.json").unlink(missing_ok=True)
        respondent = Adder()
        evaluate(respondent, output_dir=tmp_path)
        assert contents(tmp_path) == complete, position
        # Each sample has batches of 4, 4 and 2: what is not in a whole batch is asked, and nothing else.
        num_lines = sum(end <= position for end in ends)
        num_kept = max(done for done in (0, 4, 8, 10, 14, 18, 20) if done <= num_lines)
        everything = [(prompt, sample) for sample in (0, 1) for prompt in DATASET["prompt"]]
        assert respondent.asked == everything[num_kept:]


def test_what_is_done_is_not_done_again(whole):
    before, respondent = contents(whole), Adder()
    evaluation = evaluate(respondent, output_dir=whole)
    assert respondent.asked == []
    assert contents(whole) == before
    assert evaluation == evaluate()
    (whole / "metrics.json").write_bytes(before["metrics.json"] + b" ")  # what is there is not written again
    evaluate(output_dir=whole)
    assert contents(whole)["metrics.json"] == before["metrics.json"] + b" "
    (whole / "metrics.json").write_bytes(before["metrics.json"])


def test_every_batch_of_every_sample_has_a_seed_of_its_own():
    settings = [EvaluationSettings(max_completion_length=8, seed=seed) for seed in (0, 1)]
    seeds = [one.batch_seed(sample, number) for one in settings for sample in range(4) for number in range(12)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**63  # torch takes no more
    # Kept runs must go on in later versions too.
    assert settings[0].batch_seed(0, 0) == int.from_bytes(hashlib.sha256(b"0 0 0").digest()[:6], "big")


def test_metrics_never_stand_beside_other_records_than_their_own(whole, tmp_path):
    complete = contents(whole)
    for name, content in complete.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "records.jsonl").write_bytes(complete["records.jsonl"][:-10])

    class Stopped(Adder):
        def answer(self, rows, *, sample, seed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Stopped(), output_dir=tmp_path)
    assert not (tmp_path / "metrics.json").exists()
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 18


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"respondent": Adder("another")}, "model is 'adder' there, 'another' now"),
        ({"dataset": DATASET.select(range(9))}, r"dataset is \{'num_rows': 10, .* there, \{'num_rows': 9, "),
        ({"dataset": DATASET.select(range(9, -1, -1))}, "dataset is "),
        ({"reward_func": lambda completions, **kwargs: [0.0] * len(completions)}, "reward is 'is_gold' there"),
        (
            {"settings": EvaluationSettings(max_completion_length=9, num_samples=2, do_sample=True, batch_size=5)},
            r"max_completion_length is \[8, 8\] there, \[9, 9\] now; batch_size is 4 there, 5 now",
        ),
    ],
)
def test_another_evaluation_is_refused_and_nothing_is_lost(whole, changed, message):
    before = contents(whole)
    with pytest.raises(ValueError, match=f"Expected to go on with the evaluation in .*{message}"):
        evaluate(output_dir=whole, **changed)
    assert contents(whole) == before


def test_overwrite_begins_anew(tmp_path):
    evaluate(Adder("another"), output_dir=tmp_path)
    respondent = Adder()
    evaluate(respondent, output_dir=tmp_path, overwrite=True)
    assert len(respondent.asked) == 20
    assert json.loads((tmp_path / "evaluation.json").read_text())["model"] == "adder"
    assert json.loads((tmp_path / "metrics.json").read_text())["evaluation"]["model"] == "adder"


def test_records_without_a_description_are_refused(whole, tmp_path):
    (tmp_path / "records.jsonl").write_bytes(contents(whole)["records.jsonl"])
    with pytest.raises(ValueError, match=r"Expected evaluation\.json beside the records in '.*', .* got none"):
        evaluate(output_dir=tmp_path)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"Expected JSON in '.*evaluation\.json', got something else"):
        evaluate(output_dir=tmp_path)


@pytest.mark.parametrize("line", ["{}", "not json", "[1, 2]", '{"prompt": "q"}'])
def test_a_line_that_is_no_record_is_named(whole, tmp_path, line):
    complete = contents(whole)
    (tmp_path / "evaluation.json").write_bytes(complete["evaluation.json"])
    lines = complete["records.jsonl"].decode().splitlines()
    (tmp_path / "records.jsonl").write_text("\n".join([*lines[:5], line, *lines[6:]]) + "\n")
    with pytest.raises(ValueError, match=r"Expected a record of an evaluation in line 6 of .*records\.jsonl, got b'"):
        evaluate(output_dir=tmp_path)


# Failures of an endpoint


def test_a_turn_without_a_reply_is_not_scored_and_counted(tmp_path):
    evaluation = evaluate(Unreliable(num_failures=1), output_dir=tmp_path)
    (failed,) = [record for record in evaluation.records if record.failure is not None]
    assert (failed.prompt, failed.sample, failed.failure) == ("7 + 1?", 1, "HTTP 500")
    assert failed.rewards[0] is not None and failed.rewards[1] is None and failed.outcome == "unscorable"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["num_failed"], metrics["num_unscorable"], metrics["num_records"]) == (1, 1, 20)
    rest = [record for record in evaluation.records if record.failure is None]
    assert metrics["pairs"]["t1_t2"]["accuracy_t2"]["value"] == sum(record.correct[1] for record in rest) / 19


def test_what_failed_is_asked_again_by_the_next_run(whole, tmp_path):
    evaluate(Unreliable(num_failures=1), output_dir=tmp_path)
    assert contents(tmp_path) != contents(whole)
    respondent = Adder()
    evaluate(respondent, output_dir=tmp_path)
    assert contents(tmp_path) == contents(whole)
    # The failure was in the second batch of the second sample.
    assert respondent.asked == [(prompt, 1) for prompt in DATASET["prompt"][4:]]


def test_reward_never_sees_a_turn_without_a_reply():
    seen = []

    def recording(prompts, completions, completion_ids, gold, turn, completions_t1):
        seen.append((turn, prompts, len(completions), completion_ids, gold, len(completions_t1)))
        return [0.0] * len(completions)

    evaluate(Unreliable(num_failures=1), reward_func=recording)
    short = [call for call in seen if call[2] == 3]
    prompts, golds = ["4 + 1?", "5 + 1?", "6 + 1?"], [5, 6, 7]
    assert short == [(2, prompts, 3, [[gold, 0] for gold in golds], golds, 3)]


def test_a_batch_without_any_reply_is_not_scored_at_all():
    class Silent(Adder):
        def answer(self, rows, *, sample, seed):
            turns = super().answer(rows, sample=sample, seed=seed)
            if "0 + 1?" in rows["prompt"]:
                for turn in turns:
                    turn.failures.update(dict.fromkeys(range(4), "HTTP 500"))
            return turns

    records = evaluate(Silent()).records
    assert [record.rewards for record in records[:4]] == [(None, None)] * 4
    assert None not in records[4].rewards


def test_an_endpoint_that_answered_nobody_is_no_model_to_measure(tmp_path):
    class Down(Adder):
        def answer(self, rows, *, sample, seed):
            nobody = dict.fromkeys(range(len(rows["gold"])), "Connection refused.")
            return [AnsweredTurn([""] * len(nobody), [False] * len(nobody), failures=nobody) for _ in range(2)]

    with pytest.raises(UserError, match=r"got none to 20 problems\. The first failure: Connection refused\. Put right"):
        evaluate(Down(), output_dir=tmp_path)
    assert not (tmp_path / "metrics.json").exists()
    assert evaluate(output_dir=tmp_path) == evaluate()


def test_reward_that_needs_tokens_says_so_where_there_are_none():
    class Endpoint(Adder):
        def answer(self, rows, *, sample, seed):
            turns = super().answer(rows, sample=sample, seed=seed)
            return [AnsweredTurn(turn.texts, turn.truncated) for turn in turns]

    def counts(completions, completion_ids, **kwargs):
        return [float(len(ids)) for ids in completion_ids]

    with pytest.raises(TypeError, match="completion_ids"):
        evaluate(Endpoint(), reward_func=counts)
    assert len(evaluate(Endpoint()).records) == 20


# The progress bar


def test_accuracy_so_far_stands_beside_the_bar(capsys):
    settings = EvaluationSettings(max_completion_length=8, num_turns=3)
    evaluation = evaluate(Adder(num_turns=3), settings=settings, progress="base")
    shown = capsys.readouterr().err
    first, last = (100 * evaluation.metrics[f"accuracy_t{turn}"].value for turn in (1, 3))
    assert "base: " in shown and f"turn 1={first:.1f}%, turn 3={last:.1f}%" in shown
