"""
The metrics of self-correction as a module of Hugging Face `evaluate`, loaded by the path of its folder, offline too:

    evaluate.load("trl_score/metrics/self_correction_metric")

`evaluate` copies this file into its own cache before it imports it, so it imports the package by its full name. The
formulas are those of `trl_score.metrics`. Nothing is computed here.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import datasets
import evaluate

from trl_score.metrics import count_unscorable, delta_standard_error, self_correction_metrics

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
    groups (`list`, *optional*):
        The problem of each row, where problems were sampled several times.
    bootstrap (`int`, *optional*, defaults to `2000`):
        Number of resamples.
    confidence (`float`, *optional*, defaults to `0.95`):
        Confidence level of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Seed of the resampling.

Returns:
    `dict`: for each metric a dict with `value`, `low` and `high`; further `delta_standard_error`, `num_problems` and
    `num_unscorable`.

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
        groups: Sequence[Hashable] | None = None,
        bootstrap: int = 2000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, object]:
        first, second = turns
        answers = None if references is None else predictions
        correct: Sequence[Sequence[Any]] = predictions
        if references is not None:
            correct = _equal_to_references(predictions, references)
        metrics = self_correction_metrics(
            correct,
            answers,
            turns=(first, second),
            groups=groups,
            bootstrap=bootstrap,
            confidence=confidence,
            seed=seed,
        )
        correct_t1, correct_t2 = ([row[turn - 1] for row in correct] for turn in (first, second))
        return {
            **{name: interval.as_dict() for name, interval in metrics.items()},
            "delta_standard_error": delta_standard_error(correct_t1, correct_t2, groups=groups),
            "num_problems": len(correct),
            "num_unscorable": count_unscorable(correct_t1, correct_t2),
        }


def _equal_to_references(answers: Sequence[Sequence[str | None]], references: Sequence[str]) -> list[list[bool]]:
    return [
        [answer is not None and answer.strip() == reference.strip() for answer in turns]
        for turns, reference in zip(answers, references, strict=True)
    ]
