"""Runs of the laboratory as its methods leave them, with numbers made up."""

import json
from collections.abc import Sequence
from pathlib import Path

from trl_score.metrics import self_correction_metrics

KEYS = ("accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i", "answers_changed")

Correct = Sequence[tuple[int, int]]


def record_line(problem: int, turns: Sequence[str], rewards: Sequence[int], **more: object) -> str:
    """A line of `records.jsonl`."""
    prompt = [{"role": "user", "content": f"problem {problem}"}]
    return json.dumps({"prompt": prompt, "turns": list(turns), "rewards": list(rewards), **more}) + "\n"


def write_run(folder: Path, correct: Correct, *, steps: int = 0) -> None:
    """Writes what `train_baseline.py` leaves, for a model that is right as `correct` says, greedy and sampled alike."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = [tuple("right" if is_right else "wrong" for is_right in turns) for turns in correct]
    metrics = self_correction_metrics(correct, answers, answers, bootstrap=0)
    trained = {name: metrics[name].as_dict() for name in KEYS}
    summary = {
        "trained": {"greedy": trained, "sampled": trained},
        "base": {"greedy": trained, "sampled": trained},
        "samples": 200,
        "updates": 90,
        "num_problems": len(correct),
        "versions": {"python": "3"},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = [record_line(number, answers[number], turns) for number, turns in enumerate(correct)]
    for name in ("records.jsonl", "records_sampled.jsonl"):
        (folder / name).write_text("".join(lines))
    keys = ("score/accuracy_t1", "score/accuracy_t2", "score/delta_t1_t2", "score/answers_changed")
    history = [{"step": step, "score/stage": 2, **dict.fromkeys(keys, step / 10)} for step in range(1, steps + 1)]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (folder / "result.json").write_text(
        json.dumps({"name": folder.name, "fingerprint": "1", "seconds": 7.0, "commit": "abc"})
    )
