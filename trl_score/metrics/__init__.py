"""
Metrics of self-correction as pure functions of plain sequences. Nothing here loads torch.

`self_correction_metric/` wraps them as a module for `evaluate.load`. docs/metrics.md explains every number.
"""

from trl_score.metrics.edit_distance import edit_distance_ratio, edit_distance_ratios
from trl_score.metrics.intervals import Interval, bootstrap_intervals
from trl_score.metrics.paired_tests import (
    McNemarTest,
    PairedComparison,
    compare_deltas,
    compare_means,
    mcnemar_test,
)
from trl_score.metrics.pass_at_k import maj_at_k, majority_answer, mean_pass_at_k, pass_at_k
from trl_score.metrics.self_correction import (
    accuracy,
    accuracy_by_turn,
    answers_changed,
    correction_rate,
    count_unscorable,
    delta,
    delta_c_to_i,
    delta_i_to_c,
    delta_standard_error,
    regression_rate,
    self_correction_metrics,
    turns_unchanged,
)

__all__ = [
    "Interval",
    "McNemarTest",
    "PairedComparison",
    "accuracy",
    "accuracy_by_turn",
    "answers_changed",
    "bootstrap_intervals",
    "compare_deltas",
    "compare_means",
    "correction_rate",
    "count_unscorable",
    "delta",
    "delta_c_to_i",
    "delta_i_to_c",
    "delta_standard_error",
    "edit_distance_ratio",
    "edit_distance_ratios",
    "maj_at_k",
    "majority_answer",
    "mcnemar_test",
    "mean_pass_at_k",
    "pass_at_k",
    "regression_rate",
    "self_correction_metrics",
    "turns_unchanged",
]
