"""Evaluation: a model and a dataset in, every turn of every problem and the paper's metrics out. Needs no trainer.

    settings -> respondent (all turns of a batch) -> rewards of each turn -> records -> metrics -> table

Each step is a module of its own. Importing this package loads no torch; a name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl_score.evaluation.evaluate import evaluate_self_correction, is_adapter, load_model, load_tokenizer
    from trl_score.evaluation.records import EvaluationRecord
    from trl_score.evaluation.respondents import stop_ids
    from trl_score.evaluation.run import Evaluation
    from trl_score.evaluation.settings import EvaluationSettings

_MODULE_OF = {
    "Evaluation": "run",
    "EvaluationRecord": "records",
    "EvaluationSettings": "settings",
    "evaluate_self_correction": "evaluate",
    "is_adapter": "evaluate",
    "load_model": "evaluate",
    "load_tokenizer": "evaluate",
    "stop_ids": "respondents",
}

__all__ = [
    "Evaluation",
    "EvaluationRecord",
    "EvaluationSettings",
    "evaluate_self_correction",
    "is_adapter",
    "load_model",
    "load_tokenizer",
    "stop_ids",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(f"{__name__}.{_MODULE_OF[name]}"))[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
