"""
All numbers of an evaluation, from its records: what `metrics.json` holds, see docs/evaluation.md. Torch-free.

Every interval is over problems: the samples of a problem are resampled together.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from trl_score.evaluation.records import EvaluationRecord
from trl_score.metrics import (
    Interval,
    accuracy_by_turn,
    count_unscorable,
    delta_standard_error,
    maj_at_k,
    majority_answer,
    mean_pass_at_k,
    self_correction_metrics,
)
from trl_score.metrics.edit_distance import EditDistanceKind
from trl_score.plots.inference import CORRECTED, PARALLEL, inference_scaling_curves
from trl_score.plots.records import TurnRecord, group_by_problem


def pair_metrics(records: Sequence[EvaluationRecord], turns: tuple[int, int], *, seed: int = 0) -> dict[str, Interval]:
    """
    Gives the paper's metrics of a pair of turns.

    Args:
        records (`Sequence[EvaluationRecord]`):
            The records.
        turns (`tuple[int, int]`):
            An earlier and a later turn, counted from 1.
        seed (`int`, *optional*, defaults to `0`):
            Of the bootstrap.

    Returns:
        `dict[str, Interval]`: as [`~trl_score.metrics.self_correction_metrics`].

    Raises:
        ValueError: If no problem is scorable at both turns.
    """
    return _pair(records, turns, seed, "levenshtein")


def headline_metrics(records: Sequence[EvaluationRecord], *, seed: int = 0) -> dict[str, Interval]:
    """
    Gives the metrics of the first and the last turn; of a single turn its accuracy.

    Args:
        records (`Sequence[EvaluationRecord]`):
            The records, all of as many turns.
        seed (`int`, *optional*, defaults to `0`):
            Of the bootstrap.

    Returns:
        `dict[str, Interval]`: the metrics.

    Raises:
        ValueError: If there is no record, or no problem is scorable at both turns.
    """
    num_turns = len(records[0].turns)
    if num_turns > 1:
        return pair_metrics(records, (1, num_turns), seed=seed)
    return {"accuracy_t1": _accuracies(records, seed)[0]}


def summarize_records(records: Sequence[EvaluationRecord], *, seed: int = 0) -> dict[str, Any]:
    """
    Measures everything.

    Args:
        records (`Sequence[EvaluationRecord]`):
            The records, all of as many turns.
        seed (`int`, *optional*, defaults to `0`):
            Of the bootstrap.

    Returns:
        `dict`: as docs/evaluation.md describes it. JSON can hold it: an interval is a `dict`, what is not defined is
        `None`.

    Example:

    ```python
    >>> record = EvaluationRecord("2+2?", ("5", "4"), (0.0, 1.0), ("5", "4"), "2+2?", truncated=(False, False))
    >>> summarize_records([record])["pairs"]["t1_t2"]["delta_t1_t2"]
    {'value': 1.0, 'low': 1.0, 'high': 1.0}

    ```
    """
    num_turns = len(records[0].turns)
    neighbours = list(pairwise(range(1, num_turns + 1)))
    pairs = dict.fromkeys([(1, num_turns), *neighbours] if num_turns > 1 else [])
    summary = {
        **_count(records),
        "num_failed": sum(record.failure is not None for record in records),
        **_tables(records, pairs, seed),
        "by_level": _by(records, [record.level for record in records], seed),
        "by_task": _by(records, [record.task for record in records], seed),
    }
    problems = group_by_problem(records)
    num_samples = min(len(samples) for samples in problems)
    # Several rows may be of one problem, such as wrong programs to repair: those are no samples.
    if num_samples > 1 and any(record.sample > 0 for record in records):
        summary |= {
            "pass_at_k": _pass_at_k(problems, num_turns, seed),
            "maj_at_k": _maj_at_k(problems, num_turns, num_samples, seed),
        }
        if _has_scaling(summary["maj_at_k"], num_samples):
            curves = inference_scaling_curves(records, seed=seed)
            names = {"parallel": PARALLEL, "corrected": CORRECTED}
            summary["inference_scaling"] = {key: _as_json(curves[name]) for key, name in names.items()}
    return summary


def _pair(
    records: Sequence[EvaluationRecord], turns: tuple[int, int], seed: int, edit_distance: EditDistanceKind
) -> dict[str, Interval]:
    return self_correction_metrics(
        [record.correct for record in records],
        [record.answers for record in records],
        [record.turns for record in records],
        turns=turns,
        groups=[record.problem for record in records],
        edit_distance=edit_distance,
        seed=seed,
    )


def _count(records: Sequence[EvaluationRecord]) -> dict[str, int]:
    first, last = ([record.correct[turn] for record in records] for turn in (0, -1))
    return {
        "num_problems": len({record.problem for record in records}),
        "num_records": len(records),
        "num_unscorable": count_unscorable(first, last),
    }


def _tables(records: Sequence[EvaluationRecord], pairs: Iterable[tuple[int, int]], seed: int) -> dict[str, Any]:
    return {
        "accuracy_by_turn": [interval.as_dict() for interval in _accuracies(records, seed)],
        "pairs": {f"t{first}_t{last}": _pair_as_json(records, (first, last), seed) for first, last in pairs},
    }


def _accuracies(records: Sequence[EvaluationRecord], seed: int) -> list[Interval]:
    groups = [record.problem for record in records]
    return accuracy_by_turn([record.correct for record in records], groups=groups, seed=seed)


def _pair_as_json(records: Sequence[EvaluationRecord], turns: tuple[int, int], seed: int) -> dict[str, Any] | None:
    first, last = ([record.correct[turn - 1] for record in records] for turn in turns)
    if count_unscorable(first, last) == len(records):
        return None
    error = delta_standard_error(first, last, groups=[record.problem for record in records])
    metrics = pair_metrics(records, turns, seed=seed)
    # The distance that the paper's histograms fit, beside Levenshtein's.
    metrics["edit_distance_ratio_indel"] = _pair(records, turns, seed, "indel")["edit_distance_ratio"]
    return {**_as_json(metrics), "delta_standard_error": error}


def _by(records: Sequence[EvaluationRecord], values: Sequence[Any], seed: int) -> dict[str, Any]:
    """A table for each value of a column; none where the column is empty."""
    num_turns = len(records[0].turns)
    pairs = [(1, num_turns)] if num_turns > 1 else []
    tables = {}
    for value in sorted({value for value in values if value is not None}):
        chosen = [record for record, own in zip(records, values, strict=True) if own == value]
        tables[str(value)] = {**_count(chosen), **_tables(chosen, pairs, seed)}
    return tables


def _pass_at_k(problems: Sequence[Sequence[TurnRecord]], num_turns: int, seed: int) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for turn in range(num_turns):
        correct = [[record.correct[turn] for record in samples] for samples in problems]
        num_scored = [sum(value is not None for value in samples) for samples in correct]
        # A problem that could not be scored at all is left out; of the others none may have fewer samples than k.
        most = min((count for count in num_scored if count), default=0)
        curves[f"t{turn + 1}"] = _as_json({k: mean_pass_at_k(correct, k, seed=seed) for k in _ks(most)})
    return curves


def _maj_at_k(problems: Sequence[Sequence[TurnRecord]], num_turns: int, num_samples: int, seed: int) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for turn in range(num_turns):
        answers = [[record.answers[turn] for record in samples] for samples in problems]
        correct = [[record.correct[turn] for record in samples] for samples in problems]
        ks = [k for k in _ks(num_samples) if _has_scored_majority(answers, correct, k)]
        curves[f"t{turn + 1}"] = _as_json({k: maj_at_k(answers, correct, k, seed=seed) for k in ks})
    return curves


def _has_scored_majority(
    answers: Sequence[Sequence[str | None]], correct: Sequence[Sequence[float | None]], k: int
) -> bool:
    """Whether there is a problem that maj@k can be measured on."""
    majorities = [majority_answer(samples[:k]) for samples in answers]
    return any(
        any(value is not None for value in scores[:k])
        and (majority is None or scores[list(samples).index(majority)] is not None)
        for majority, samples, scores in zip(majorities, answers, correct, strict=True)
    )


def _has_scaling(majorities: dict[str, Any], num_samples: int) -> bool:
    """Whether the majority of 2K first turns and of K second ones can be measured at every budget."""
    budgets = [2**power for power in range(1, num_samples.bit_length())]
    first, second = (majorities.get(turn, {}) for turn in ("t1", "t2"))
    return all(str(budget) in first and str(budget // 2) in second for budget in budgets)


def _ks(most: int) -> list[int]:
    """1, 2, 4 and so on, and the most that there are."""
    return sorted({*(2**power for power in range(most.bit_length())), most} - {0})


def _as_json(metrics: dict[Any, Interval]) -> dict[str, Any]:
    return {str(name): interval.as_dict() for name, interval in metrics.items()}
