"""
An evaluation from its first batch to its metrics, whoever answers: answered, scored and kept batch by batch, so that
one that was killed goes on where it was. Torch-free.
"""

import inspect
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tqdm.auto import tqdm

from trl_score import __version__
from trl_score.evaluation.folder import EvaluationFolder, dataset_identity
from trl_score.evaluation.metrics import headline_metrics, summarize_records
from trl_score.evaluation.records import EvaluationRecord, make_records
from trl_score.evaluation.settings import EvaluationSettings
from trl_score.evaluation.turns import AnsweredTurn, Respondent, Rows
from trl_score.metrics import Interval
from trl_score.records import BUDGET_COLUMNS, Completion, RewardFunc
from trl_score.score.prompts import is_conversational_prompt
from trl_score.score.turn_rewards import TurnContext, TurnReward
from trl_score.user_errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_NOT_FOR_REWARDS = ("prompt", "completion", "completion_ids")


@dataclass(frozen=True)
class Evaluation:
    """
    What an evaluation gives.

    Args:
        records (`list[EvaluationRecord]`):
            One per problem and sample: all problems in order, then all of them again.
        metrics (`dict[str, Interval]`):
            The paper's metrics of the first and the last turn, with 95% bootstrap intervals over problems, see
            docs/metrics.md. Of a single turn its accuracy.
    """

    records: list[EvaluationRecord]
    metrics: dict[str, Interval]


def run_evaluation(
    respondent: Respondent,
    dataset: "Dataset",
    reward_func: RewardFunc,
    settings: EvaluationSettings,
    *,
    about: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    progress: str | None = None,
) -> Evaluation:
    """
    Has all rows answered, scores every turn, and measures.

    Args:
        respondent ([`~trl_score.evaluation.turns.Respondent`]):
            Who answers, by the same settings.
        dataset ([`~datasets.Dataset`]):
            Rows with a `prompt`, and what the reward function needs.
        reward_func (`Callable`):
            A reward function as in training.
        settings ([`EvaluationSettings`]):
            How is asked.
        about (`Mapping`, *optional*):
            Where the problems come from: kept too, and to be the same when it is gone on with; as JSON can hold it.
        output_dir (`str` or `Path`, *optional*):
            Folder to write into, see docs/evaluation.md. What is there of the same evaluation is gone on with.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to begin anew there, and lose what is there.
        progress (`str`, *optional*):
            A progress bar's label, with the accuracy so far beside it; no bar by default.

    Returns:
        [`Evaluation`]: records and metrics.

    Raises:
        `ValueError`: If the dataset is empty or lacks a column, the folder holds another evaluation, or no problem
            could be scored.
        `UserError`: If an endpoint gave no reply to any problem.
    """
    check_rows(dataset, settings)
    with ExitStack() as open_files:
        folder = None
        if output_dir is not None:
            description = describe_evaluation(respondent.identity, dataset, reward_func, settings, about)
            folder = open_files.enter_context(EvaluationFolder(output_dir, description, overwrite=overwrite))
        records = _collect_records(respondent, dataset, reward_func, settings, folder, progress)
        _refuse_silence(records)
        metrics = headline_metrics(records, seed=settings.seed)
        if folder is not None and not folder.has_metrics:
            summary = summarize_records(records, seed=settings.seed)
            folder.write_metrics({"evaluation": folder.description, "versions": _versions(), **summary})
    return Evaluation(records, metrics)


def describe_evaluation(
    identity: Mapping[str, Any],
    dataset: "Dataset",
    reward_func: RewardFunc,
    settings: EvaluationSettings,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Says what is evaluated, on what, how: what two runs must have in common to be one evaluation.

    Args:
        identity (`Mapping`):
            The respondent's.
        dataset ([`~datasets.Dataset`]):
            The rows.
        reward_func (`Callable`):
            The reward function.
        settings ([`EvaluationSettings`]):
            How is asked.
        about (`Mapping`, *optional*):
            Where the problems come from.

    Returns:
        `dict`: as JSON can hold it.
    """
    return {
        **identity,
        **({} if about is None else {"problems": dict(about)}),
        "dataset": dataset_identity(dataset),
        "reward": reward_name(reward_func),
        **settings.as_dict(),
    }


def check_rows(dataset: "Dataset", settings: EvaluationSettings) -> None:
    """
    Looks at the rows before anything is answered, or loaded.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        settings ([`EvaluationSettings`]):
            How is asked.

    Raises:
        `ValueError`: If there is no row, a column is missing, or a row has something unfit in it.
    """
    column = settings.offline_turn_1_column
    missing = [name for name in ("prompt", column) if name is not None and name not in dataset.column_names]
    if len(dataset) == 0 or missing:
        needed = "a `prompt`" if column is None else f"a `prompt` and the column {column!r}"
        raise ValueError(
            f"An evaluation needs rows with {needed}, got {len(dataset)} rows with the columns {dataset.column_names}."
        )
    rows = dataset.select_columns(
        [name for name in ("prompt", column, *BUDGET_COLUMNS) if name in dataset.column_names]
    )
    settings.row_budgets(rows[:])
    settings.given_first_turns(rows[:], sample=0)


@dataclass(frozen=True)
class _Batch:
    """Rows `start` to `stop` of the dataset, for the so-manieth time, with the seed of all that is drawn for them."""

    start: int
    stop: int
    sample: int
    seed: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def _batches(num_rows: int, settings: EvaluationSettings) -> list[_Batch]:
    size = settings.batch_size
    return [
        _Batch(start, min(start + size, num_rows), sample, settings.batch_seed(sample, start // size))
        for sample in range(settings.num_samples)
        for start in range(0, num_rows, size)
    ]


def _collect_records(
    respondent: Respondent,
    dataset: "Dataset",
    reward_func: RewardFunc,
    settings: EvaluationSettings,
    folder: EvaluationFolder | None,
    progress: str | None,
) -> list[EvaluationRecord]:
    batches = _batches(len(dataset), settings)
    kept = folder.take_whole_batches([batch.size for batch in batches]) if folder is not None else []
    records = [record for whole_batch in kept for record in whole_batch]
    with _ProgressBar(progress, len(dataset) * settings.num_samples, records) as bar:
        for batch in batches[len(kept) :]:
            new = _answer_batch(dataset[batch.start : batch.stop], batch, respondent, reward_func, settings)
            if folder is not None:
                folder.append(new)
            bar.add(new)
            records += new
    return records


def _answer_batch(
    rows: Rows, batch: _Batch, respondent: Respondent, reward_func: RewardFunc, settings: EvaluationSettings
) -> list[EvaluationRecord]:
    turns = respondent.answer(rows, sample=batch.sample, seed=batch.seed)
    given = settings.given_first_turns(rows, batch.sample)
    return make_records(
        rows,
        turns,
        [score_turn(reward_func, rows, turns, number) for number in range(1, len(turns) + 1)],
        is_turn_1_offline=[text is not None for text in given],
        sample=batch.sample,
    )


def score_turn(reward_func: RewardFunc, rows: Rows, turns: Sequence[AnsweredTurn], number: int) -> list[float | None]:
    """
    Scores a turn of some rows as the trainer does, as an ordinary completion of the prompt.

    Args:
        reward_func (`Callable`):
            A reward function as in training.
        rows (`dict[str, list]`):
            The rows, with what it needs.
        turns (`Sequence[AnsweredTurn]`):
            All their turns.
        number (`int`):
            Which turn, from 1.

    Returns:
        `list[float | None]`: the reward of each row; `None` where there was no reply, or it could not be scored.

    Raises:
        `TypeError`, `ValueError`: If what the function returns is wrong, see `check_turn_rewards`.
    """
    turn = turns[number - 1]
    answered = [row for row in range(len(turn.texts)) if row not in turn.failures]
    rewards: list[float | None] = [None] * len(turn.texts)
    if not answered:
        return rewards
    is_chat = is_conversational_prompt(rows["prompt"][0])
    columns = {name: values for name, values in rows.items() if name not in _NOT_FOR_REWARDS}
    if turn.token_ids is not None:
        columns["completion_ids"] = turn.token_ids
    context = TurnContext(number, _completions(turns[0], answered, is_chat))
    score = TurnReward(reward_func, reward_name(reward_func), context)
    values = score(
        prompts=[rows["prompt"][row] for row in answered],
        completions=_completions(turn, answered, is_chat),
        **{name: [column[row] for row in answered] for name, column in columns.items()},
    )
    for row, value in zip(answered, values, strict=True):
        rewards[row] = value
    return rewards


def _completions(turn: AnsweredTurn, rows: Sequence[int], is_chat: bool) -> list[Completion]:
    texts = [turn.texts[row] for row in rows]
    return [[{"role": "assistant", "content": text}] for text in texts] if is_chat else list(texts)


def _refuse_silence(records: Sequence[EvaluationRecord]) -> None:
    """An endpoint that answered nobody is down, and no model to be measured."""
    failures = [record.failure for record in records if record.failure is not None]
    if len(failures) == len(records):
        raise UserError(
            f"Expected replies from the endpoint, got none to {len(records)} problems. The first failure: "
            f"{failures[0].rstrip('.')}. Put right what is wrong and run again: all are asked again."
        )


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "trl")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}, "trl_score": __version__}


def reward_name(reward_func: RewardFunc) -> str:
    """
    Names a reward function.

    Args:
        reward_func (`Callable`):
            The function, or the object that is called.

    Returns:
        `str`: its name, or that of its class.
    """
    return reward_func.__name__ if inspect.isfunction(reward_func) else type(reward_func).__name__


class _ProgressBar:
    """A bar over records, with the accuracy of the first and the last turn so far."""

    def __init__(self, label: str | None, total: int, kept: Sequence[EvaluationRecord]) -> None:
        self._bar = tqdm(total=total, initial=len(kept), desc=label, disable=label is None, unit="answer", leave=False)
        self._scored: dict[str, list[float]] = {}
        self._show(kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def add(self, records: Sequence[EvaluationRecord]) -> None:
        self._show(records)
        self._bar.update(len(records))

    def _show(self, records: Sequence[EvaluationRecord]) -> None:
        for record in records:
            for turn in sorted({1, len(record.turns)}):
                if (correct := record.correct[turn - 1]) is not None:
                    self._scored.setdefault(f"turn {turn}", []).append(correct)
        shares = {name: f"{100 * sum(values) / len(values):.1f}%" for name, values in self._scored.items()}
        self._bar.set_postfix(shares)
