"""
Further evaluations of one trained model of the laboratory, beside the two turns that its training ended with:

    python examples/lab/lab_evaluations.py --model runs/lab/score/seed0 --seed 0 --output runs/lab/score/seed0_more \
        --kinds turns scaling

- `turns`: ten turns, each shown all before it -> `records_turns.jsonl` (Figure 8 of the paper)
- `chain`: ten turns, each shown the question and the turn before it alone -> `records_chain.jsonl`
- `scaling`: 32 rollouts of each problem -> `records_scaling.jsonl` (Figure 1)
- `first_turns`: each checkpoint on first turns that the base model wrote and on its own -> `checkpoint-N/records.jsonl`
  (Figure 4)
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from trl_score.data import adder
from trl_score.evaluation import EvaluationRecord, evaluate_self_correction, load_model
from trl_score.plots.log_history import checkpoint_step

SETTINGS: dict[str, dict[str, Any]] = {
    "turns": {"num_problems": 500, "num_turns": 10, "do_sample": True, "temperature": 1.0},
    "chain": {"num_problems": 500, "num_turns": 10, "do_sample": True, "temperature": 1.0},
    "scaling": {"num_problems": 250, "num_samples": 32, "do_sample": True, "temperature": 0.7},
    "first_turns": {"num_problems": 1000, "do_sample": True, "temperature": 1.0},
}
"""Of each kind of evaluation. The temperature of `scaling` is the paper's."""
_BATCH_SIZE = 250
_GIVEN = "given_turn_1"


def evaluate(model: Path, problems: Dataset, seed: int, **options: Any) -> list[EvaluationRecord]:
    """
    Lets a model answer problems of the embedded task.

    Args:
        model (`Path`):
            Its folder.
        problems ([`~datasets.Dataset`]):
            The problems.
        seed (`int`):
            Of sampling.
        **options:
            Of [`~trl_score.evaluation.evaluate_self_correction`].

    Returns:
        `list[EvaluationRecord]`: one per problem and sample.
    """
    return evaluate_self_correction(
        load_model(str(model)),
        AutoTokenizer.from_pretrained(model),
        problems,
        adder.adder_reward,
        max_completion_length=adder.MAX_COMPLETION_LENGTH,
        correction_prompt=adder.CORRECTION_PROMPT,
        batch_size=_BATCH_SIZE,
        seed=seed,
        **options,
    ).records


def write_records(records: Sequence[EvaluationRecord], file: Path) -> None:
    """
    Writes records as `trl_score.plots` reads them.

    Args:
        records (`Sequence[EvaluationRecord]`):
            The records.
        file (`Path`):
            Where to.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record.as_dict()) + "\n" for record in records))


def evaluate_once(name: str, model: Path, seed: int, output: Path, problems: Dataset, **options: Any) -> None:
    """Lets a model answer, all turns shown to it, and writes its records under a name."""
    write_records(evaluate(model, problems, seed, **options), output / name)


def evaluate_chain(model: Path, seed: int, output: Path, problems: Dataset, *, num_turns: int, **options: Any) -> None:
    """
    Asks again and again, but shows the model only the question and its last turn, and writes `records_chain.jsonl`.

    So every turn stands where the model was trained to write one, which a third turn with all before it does not.
    """
    records = evaluate(model, problems, seed, **options)
    for turn in range(3, num_turns + 1):
        given = problems.add_column(_GIVEN, [record.turns[-1] for record in records])
        corrected = evaluate(model, given, seed + 1000 * turn, offline_turn_1_column=_GIVEN, **options)
        records = [join_turns(record, last) for record, last in zip(records, corrected, strict=True)]
    write_records(records, output / "records_chain.jsonl")


def join_turns(record: EvaluationRecord, corrected: EvaluationRecord) -> EvaluationRecord:
    """
    Appends a correction to the turns before it.

    Args:
        record (`EvaluationRecord`):
            All turns up to the one that was corrected.
        corrected (`EvaluationRecord`):
            That turn, which was given, and its correction.

    Returns:
        `EvaluationRecord`: all of them.

    Raises:
        `ValueError`: If the given turn is not the last one.
    """
    if (record.problem, record.turns[-1]) != (corrected.problem, corrected.turns[0]):
        raise ValueError(f"Expected a correction of {record.turns[-1]!r}, got one of {corrected.turns[0]!r}.")
    return dataclasses.replace(
        record,
        turns=(*record.turns, corrected.turns[-1]),
        rewards=(*record.rewards, corrected.rewards[-1]),
        answers=(*record.answers, corrected.answers[-1]),
        truncated=(*record.truncated, corrected.truncated[-1]),
    )


def evaluate_first_turns(model: Path, seed: int, output: Path, problems: Dataset, **options: Any) -> None:
    """
    Lets the base, as step 0, and each checkpoint correct given first turns and their own, and writes
    `checkpoint-N/records.jsonl`.

    The given ones are those of the base model, sampled once, so that they stay the same through training.
    """
    base = adder.adder_base_path()
    own = evaluate(base, problems, seed, **options)
    given = problems.add_column(_GIVEN, [record.turns[0] for record in own])
    # Another seed: the base's second turns after given first turns are not those that stand in `own`.
    checkpoints = {0: base} | {
        step: folder for folder in model.glob("checkpoint-*") if (step := checkpoint_step(folder))
    }
    for step, checkpoint in sorted(checkpoints.items()):
        corrected = evaluate(checkpoint, given, seed + 1, offline_turn_1_column=_GIVEN, **options)
        of_its_own = own if step == 0 else evaluate(checkpoint, problems, seed, **options)
        write_records([*corrected, *of_its_own], output / f"checkpoint-{step}" / "records.jsonl")


KINDS: dict[str, Callable[..., None]] = {
    "turns": functools.partial(evaluate_once, "records_turns.jsonl"),
    "chain": evaluate_chain,
    "scaling": functools.partial(evaluate_once, "records_scaling.jsonl"),
    "first_turns": evaluate_first_turns,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the evaluations that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained model, with its checkpoints")
    parser.add_argument("--seed", type=int, required=True, help="of sampling")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), required=True, help="which evaluations")
    parser.add_argument("--num_problems", type=int, help="problems of each, in place of the laboratory's numbers")
    chosen = parser.parse_args(arguments)
    for kind in chosen.kinds:
        options = dict(SETTINGS[kind])
        num_problems = options.pop("num_problems")
        problems = adder.adder_dataset(chosen.num_problems or num_problems, seed=0, split="eval")
        KINDS[kind](chosen.model, chosen.seed, chosen.output, problems, **options)


if __name__ == "__main__":
    main()
