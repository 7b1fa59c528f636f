"""The further evaluations, on the embedded base model itself: a few problems, real answers."""

from pathlib import Path

import pytest
from lab_evaluations import SETTINGS, evaluate, join_turns, main

from trl_score.data import adder
from trl_score.evaluation import EvaluationRecord
from trl_score.plots import read_records


def make_record(problem: str, *turns: str) -> EvaluationRecord:
    rewards = tuple(float(turn == "right") for turn in turns)
    return EvaluationRecord(problem, turns, rewards, turns, problem, truncated=(False,) * len(turns))


def test_correction_is_appended_to_what_it_corrects() -> None:
    joined = join_turns(make_record("p", "a", "b"), make_record("p", "b", "right"))
    assert (joined.turns, joined.rewards, joined.answers) == (("a", "b", "right"), (0.0, 0.0, 1.0), ("a", "b", "right"))
    for other in (make_record("p", "a", "right"), make_record("q", "b", "right")):
        with pytest.raises(ValueError, match="Expected a correction of 'b'"):
            join_turns(make_record("p", "a", "b"), other)


@pytest.mark.slow
def test_evaluations_of_a_model_and_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, few in (("turns", {"num_turns": 3}), ("chain", {"num_turns": 3}), ("scaling", {"num_samples": 2})):
        monkeypatch.setitem(SETTINGS, kind, SETTINGS[kind] | few)
    base = adder.adder_base_path()
    model = tmp_path / "model"
    model.mkdir()
    (model / "checkpoint-15").symlink_to(base)
    arguments = ["--seed=3", "--num_problems=6"]
    output = tmp_path / "of_base"
    main([f"--model={base}", f"--output={output}", "--kinds", "turns", "chain", "scaling", *arguments])
    shown_all, shown_last = (read_records(output / f"records_{kind}.jsonl") for kind in ("turns", "chain"))
    assert [len(records[0].turns) for records in (shown_all, shown_last)] == [3, 3]
    assert len(shown_all) == len(shown_last) == 6
    # Up to turn 2 both ask the same, with the same seed; from turn 3 on they do not.
    assert [record.turns[:2] for record in shown_all] == [record.turns[:2] for record in shown_last]
    assert [record.turns[2] for record in shown_all] != [record.turns[2] for record in shown_last]
    assert len(read_records(output / "records_scaling.jsonl")) == 6 * 2

    main([f"--model={model}", f"--output={output}", "--kinds", "first_turns", *arguments])
    at_start, later = (read_records(output / f"checkpoint-{step}" / "records.jsonl") for step in (0, 15))
    assert [record.is_turn_1_offline for record in later] == [True] * 6 + [False] * 6
    own_of_base = evaluate(base, adder.adder_dataset(6, seed=0, split="eval"), 3, do_sample=True, temperature=1.0)
    for records in (at_start, later):  # given first turns are the base's, and stay the same
        assert [record.turns[0] for record in records[:6]] == [record.turns[0] for record in own_of_base]
