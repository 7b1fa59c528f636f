"""
The metrics of self-correction as a module of Hugging Face `evaluate`, loaded by the path of its folder, offline too:

    evaluate.load("trl_score/metrics/self_correction_metric")

`evaluate` copies this file into its own cache before it imports it, so it imports the package by its full name. The
formulas are those of `trl_score.metrics`. Nothing is computed here.
"""

from collections.abc import Hashable, Sequence
from typing import Any, TypedDict

import datasets
import evaluate

from trl_score.metrics import (
    PairedComparison,
    accuracy_by_turn,
    compare_deltas,
    compare_means,
    count_unscorable,
    delta_standard_error,
    maj_at_k,
    mcnemar_test,
    mean_pass_at_k,
    self_correction_metrics,
)
from trl_score.metrics.edit_distance import EditDistanceKind

_DESCRIPTION = """
Whether a model corrects itself: accuracy at two turns, their difference, how many problems were fixed and broken, and
how many answers changed, each with a 95% bootstrap interval over problems.
"""

_INPUTS = """
Args:
    predictions (`list[list[str]]` of shape (n, turns)):
        Extracted answer of each turn of each problem, `None` where there is none. In the configuration `"correctness"`
        0 or 1 instead, `None` where a turn could not be scored.
    references (`list[str]` of length n):
        Gold answer of each problem. An answer is right if it equals it but for surrounding white space. The
        configuration `"correctness"` takes no references: use it wherever equality of strings is not enough.
    turns (`list[int]`, *optional*, defaults to `[1, 2]`):
        The pair of turns to compare, counted from 1.
    texts (`list[list[str]]` of shape (n, turns), *optional*):
        Full text of each turn, for `edit_distance_ratio` and `turns_unchanged`.
    edit_distance (`str`, *optional*, defaults to `"levenshtein"`):
        `"levenshtein"` or `"indel"`.
    groups (`list`, *optional*):
        The problem of each row, where problems were sampled several times.
    ks (`list[int]`, *optional*):
        Numbers of samples for `pass_at_k`, and for `maj_at_k` where there are references. Needs `groups`.
    other_predictions (`list[list]` of shape (n, turns), *optional*):
        Another model's predictions on the same rows, for paired tests: this model less the other.
    bootstrap (`int`, *optional*, defaults to `2000`):
        Number of resamples.
    confidence (`float`, *optional*, defaults to `0.95`):
        Confidence level of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Seed of the resampling.

Returns:
    `dict`: for each metric a dict with `value`, `low` and `high`; further `delta_standard_error`, `num_problems`,
    `num_unscorable` and `accuracy_by_turn`, a list. With `ks` also `pass_at_k` and `maj_at_k`, by turn and k. With
    `other_predictions` also `compared`: by metric its `difference` and `p_value`, and McNemar's test of each turn.

Examples:
    >>> metric = evaluate.load("trl_score/metrics/self_correction_metric")
    >>> results = metric.compute(predictions=[["3", "4"], ["5", "5"]], references=["4", "5"])
    >>> results["delta_t1_t2"]["value"]
    0.5
"""

_CITATION = """
@article{kumar2024score,
    title = {Training Language Models to Self-Correct via Reinforcement Learning},
    author = {Kumar, Aviral and others},
    journal = {arXiv preprint arXiv:2409.12917},
    year = {2024}
}
"""


class _Options(TypedDict):
    bootstrap: int
    confidence: float
    seed: int


_TURNS_OF = {"default": "string", "correctness": "float64"}


class SelfCorrectionMetric(evaluate.Metric):
    """
    Metrics of self-correction for `evaluate`. It inherits everything of [`evaluate.Metric`] and adds two
    configurations: `"default"` compares answers with references, `"correctness"` takes correctness as it is.
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _TURNS_OF:
            raise ValueError(f"Expected the configuration to be one of {sorted(_TURNS_OF)}, got {self.config_name!r}.")
        features = {"predictions": datasets.Sequence(datasets.Value(_TURNS_OF[self.config_name]))}
        if self.config_name == "default":
            features["references"] = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/2409.12917"],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[Any]],
        references: Sequence[str] | None = None,
        *,
        turns: Sequence[int] = (1, 2),
        texts: Sequence[Sequence[str]] | None = None,
        edit_distance: EditDistanceKind = "levenshtein",
        groups: Sequence[Hashable] | None = None,
        ks: Sequence[int] = (),
        other_predictions: Sequence[Sequence[Any]] | None = None,
        bootstrap: int = 2000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, object]:
        first, second = turns
        options: _Options = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}
        answers = None if references is None else predictions
        correct = _correctness(predictions, references)
        metrics = self_correction_metrics(
            correct, answers, texts, turns=(first, second), groups=groups, edit_distance=edit_distance, **options
        )
        correct_t1, correct_t2 = ([row[turn - 1] for row in correct] for turn in (first, second))
        by_turn = accuracy_by_turn(correct, groups=groups, **options)
        results: dict[str, object] = {
            **{name: interval.as_dict() for name, interval in metrics.items()},
            "delta_standard_error": delta_standard_error(correct_t1, correct_t2, groups=groups),
            "num_problems": len(correct),
            "num_unscorable": count_unscorable(correct_t1, correct_t2),
            "accuracy_by_turn": [interval.as_dict() for interval in by_turn],
        }
        if ks:
            results |= _several_samples(correct, answers, (first, second), _rows_by_group(groups), ks, options)
        if other_predictions is not None:
            other = _correctness(other_predictions, references)
            results["compared"] = _compared(other, correct, (first, second), groups, options)
        return results


def _correctness(predictions: Sequence[Sequence[Any]], references: Sequence[str] | None) -> Sequence[Sequence[Any]]:
    return predictions if references is None else _equal_to_references(predictions, references)


def _equal_to_references(answers: Sequence[Sequence[str | None]], references: Sequence[str]) -> list[list[bool]]:
    return [
        [answer is not None and answer.strip() == reference.strip() for answer in turns]
        for turns, reference in zip(answers, references, strict=True)
    ]


def _rows_by_group(groups: Sequence[Hashable] | None) -> list[list[int]]:
    if groups is None:
        raise ValueError("Expected `groups`, the problem of each row, with `ks`, got None. Say which rows are samples.")
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return list(rows.values())


def _several_samples(
    correct: Sequence[Sequence[Any]],
    answers: Sequence[Sequence[str | None]] | None,
    turns: tuple[int, int],
    problems: Sequence[Sequence[int]],
    ks: Sequence[int],
    options: "_Options",
) -> dict[str, object]:
    pass_curves: dict[str, object] = {}
    maj_curves: dict[str, object] = {}
    for turn in turns:
        scores = [[correct[row][turn - 1] for row in rows] for rows in problems]
        pass_curves[f"t{turn}"] = {str(k): mean_pass_at_k(scores, k, **options).as_dict() for k in ks}
        if answers is not None:
            votes = [[answers[row][turn - 1] for row in rows] for rows in problems]
            maj_curves[f"t{turn}"] = {str(k): maj_at_k(votes, scores, k, **options).as_dict() for k in ks}
    return {"pass_at_k": pass_curves, **({"maj_at_k": maj_curves} if answers is not None else {})}


def _compared(
    other: Sequence[Sequence[Any]],
    correct: Sequence[Sequence[Any]],
    turns: tuple[int, int],
    groups: Sequence[Hashable] | None,
    options: "_Options",
) -> dict[str, object]:
    compared: dict[str, object] = {}
    for turn in turns:
        of_both = [row[turn - 1] for row in other], [row[turn - 1] for row in correct]
        compared[f"accuracy_t{turn}"] = _as_dict(compare_means(*of_both, groups=groups, **options))
        if groups is None:
            test = mcnemar_test(*of_both)
            compared[f"mcnemar_t{turn}"] = {
                "only_other": test.only_a,
                "only_this": test.only_b,
                "p_value": test.p_value,
                "num_unscorable": test.num_unscorable,
            }
    deltas = compare_deltas(other, correct, turns=turns, groups=groups, **options)
    return {**compared, f"delta_t{turns[0]}_t{turns[1]}": _as_dict(deltas)}


def _as_dict(comparison: PairedComparison) -> dict[str, object]:
    return {**comparison._asdict(), "difference": comparison.difference.as_dict()}
