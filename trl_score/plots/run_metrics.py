"""The numbers of a run's evaluations, from its summary and its records: the table that tells how it went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trl_score.metrics import self_correction_metrics
from trl_score.plots.run_folder import Run
from trl_score.plots.self_correction import STAGE_LABELS

TABLE_METRICS = ("accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i", "answers_changed")
"""The metrics of a table on a run, in its order."""

Numbers = Mapping[str, float | None]
"""A metric as JSON holds it: `value`, and `low` and `high` of its 95% interval."""


@dataclass(frozen=True)
class EvaluatedModel:
    """
    The metrics of one model, evaluated in one way.

    Args:
        label (`str`):
            Which model, and how it was evaluated.
        num_problems (`int`, *optional*):
            On how many problems.
        metrics (`Mapping[str, Numbers]`):
            The metrics of docs/metrics.md, by name; turn 2 stands for the last turn.
    """

    label: str
    num_problems: int | None
    metrics: Mapping[str, Numbers]


def evaluated_models(run: Run) -> list[EvaluatedModel]:
    """
    Collect what a run's evaluations measured, first from its summary, then from its records, equal numbers once.

    Args:
        run (`Run`):
            The run, as [`read_run`] reads it.

    Returns:
        `list[EvaluatedModel]`: In the order of training.

    Raises:
        ValueError: If no problem of an evaluation could be scored.
    """
    models = [
        EvaluatedModel(f"{name}, {decoding}", run.summary.get("num_problems"), run.summary[stage][decoding])
        for stage, name in STAGE_LABELS.items()
        for decoding in run.summary.get(stage, {})
    ]
    for name, records in run.final_records.items():
        num_turns = len(records[0].turns)
        if num_turns > 1:
            metrics = self_correction_metrics(
                [record.correct for record in records],
                [record.answers for record in records],
                turns=(1, num_turns),
                groups=[record.problem for record in records],
            )
            num_problems = len({record.problem for record in records})
            # The table's columns are named after two turns, however many there are.
            named = {key.replace(f"_t{num_turns}", "_t2"): metric.as_dict() for key, metric in metrics.items()}
            models.append(EvaluatedModel(f"records, {name}" if name else "records", num_problems, named))
    return _each_once(models)


def _each_once(models: Sequence[EvaluatedModel]) -> list[EvaluatedModel]:
    """Without the records that the summary was made from: the same numbers of as many problems."""
    found: dict[tuple[float | None, ...], EvaluatedModel] = {}
    for model in models:
        values = (model.metrics[name]["value"] if name in model.metrics else None for name in TABLE_METRICS)
        found.setdefault((model.num_problems, *values), model)
    return list(found.values())
