"""
Two models on the same problems: paired tests, from the records of both. Torch-free.
"""

from collections.abc import Sequence
from typing import Any

from trl_score.metrics import McNemarTest, PairedComparison, compare_deltas, compare_means, mcnemar_test
from trl_score.plots.records import TurnRecord, group_by_problem


def compare_records(
    records_a: Sequence[TurnRecord], records_b: Sequence[TurnRecord], *, seed: int = 0
) -> dict[str, Any]:
    """
    Compares two models on the problems that both have answered; the k-th sample of one with the k-th of the other.

    Args:
        records_a (`Sequence[TurnRecord]`):
            Records of model A.
        records_b (`Sequence[TurnRecord]`):
            Records of model B, of as many turns.
        seed (`int`, *optional*, defaults to `0`):
            Of resamples and sign flips.

    Returns:
        `dict`: `accuracy_t1` and the last turn's, `accuracy_t2`, and `delta_t1_t2`, each a [`PairedComparison`] of B
        less A; where each problem was answered once, also `mcnemar_t1` and `mcnemar_t2`, each a [`McNemarTest`];
        `num_records` compared, and those left out, `num_only_a` and `num_only_b`.

    Raises:
        ValueError: If they have no problem in common, unlike numbers of turns, or unlike prompts for a problem.

    Example:

    ```python
    >>> base = [TurnRecord(name, ("7", "7"), (0.0, 0.0), ("7", "7"), name) for name in "abcde"]
    >>> trained = [TurnRecord(name, ("7", "8"), (0.0, 1.0), ("7", "8"), name) for name in "abcde"]
    >>> comparison = compare_records(base, trained)
    >>> comparison["delta_t1_t2"].difference.value, comparison["mcnemar_t2"].p_value
    (1.0, 0.0625)

    ```
    """
    pairs = _pair_up(records_a, records_b)
    num_turns = {len(record.turns) for pair in pairs for record in pair}
    if len(num_turns) != 1:
        raise ValueError(
            f"Expected records of the same problems, with as many turns, got {len(pairs)} in common, with "
            f"{sorted(num_turns)} turns. Evaluate both models on the same problems and alike."
        )
    (last,) = num_turns
    correct_a, correct_b = ([pair[side].correct for pair in pairs] for side in (0, 1))
    groups = [record.problem for record, _ in pairs]
    comparison: dict[str, PairedComparison | McNemarTest | int] = {}
    for turn in sorted({1, last}):
        of_a, of_b = [row[turn - 1] for row in correct_a], [row[turn - 1] for row in correct_b]
        comparison[f"accuracy_t{turn}"] = compare_means(of_a, of_b, groups=groups, seed=seed)
        if len(set(groups)) == len(groups):
            comparison[f"mcnemar_t{turn}"] = mcnemar_test(of_a, of_b)
    if last > 1:
        turns = (1, last)
        comparison[f"delta_t1_t{last}"] = compare_deltas(correct_a, correct_b, turns=turns, groups=groups, seed=seed)
    return {
        **comparison,
        "num_records": len(pairs),
        "num_only_a": len(records_a) - len(pairs),
        "num_only_b": len(records_b) - len(pairs),
    }


def check_comparable(records: Sequence[TurnRecord], problems: Sequence[str], num_turns: int) -> None:
    """
    Says before an evaluation whether its records can be compared with others.

    Args:
        records (`Sequence[TurnRecord]`):
            Records of the other model.
        problems (`Sequence[str]`):
            The names of the problems that are to be evaluated.
        num_turns (`int`):
            How many turns they will have.

    Raises:
        ValueError: If they have no problem in common, or unlike numbers of turns.
    """
    others = {len(record.turns) for record in records}
    num_common = len({record.problem for record in records} & set(problems))
    if others != {num_turns} or num_common == 0:
        raise ValueError(
            f"Expected records of the same problems with {num_turns} turns to compare with, got {num_common} problems "
            f"in common, and records of {sorted(others)} turns. Evaluate both models on the same problems and alike."
        )


def _pair_up(records_a: Sequence[TurnRecord], records_b: Sequence[TurnRecord]) -> list[tuple[TurnRecord, TurnRecord]]:
    samples_of_a, samples_of_b = (
        {samples[0].problem: samples for samples in group_by_problem(records)} for records in (records_a, records_b)
    )
    pairs = [
        pair
        for problem, samples in samples_of_a.items()
        if problem in samples_of_b
        for pair in zip(samples, samples_of_b[problem], strict=False)  # one model may have more samples
    ]
    # Names such as row numbers may be the same in files that are not.
    differing = [record_a.problem for record_a, record_b in pairs if record_a.prompt != record_b.prompt]
    if differing:
        raise ValueError(
            f"Expected the same prompt for both models, got {len(differing)} of {len(pairs)} problems with unlike "
            f"ones, the first {differing[0]!r}. Evaluate both models on the same file with the same prompts."
        )
    return pairs
