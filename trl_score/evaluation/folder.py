"""
The folder of an evaluation: records as they come, what they were made with, and the metrics at the end.

    evaluation.json   what is evaluated, on what, how; written first
    records.jsonl     a line for each record; written batch by batch
    metrics.json      all numbers; written last

A run that was killed goes on after its last whole batch. As each batch draws from a seed of its own, nothing is lost or
done twice, and the result is that of a run that was left alone. Torch-free.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from trl_score.evaluation.records import EvaluationRecord
from trl_score.line_file import LineFile, write_json

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

DESCRIPTION, RECORDS, METRICS = "evaluation.json", "records.jsonl", "metrics.json"


class EvaluationFolder:
    """
    Where an evaluation is written, and gone on with.

    Args:
        path (`str` or `Path`):
            The folder.
        description (`Mapping`):
            What is evaluated, on what, how, as JSON can hold it. What is in the folder must have the same.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to begin anew, and lose what is in the folder.

    Raises:
        `ValueError`: If the folder holds an evaluation of something else, or a broken one.
        `BlockingIOError`: On entering, if another process evaluates into it.
    """

    def __init__(self, path: str | Path, description: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.description = json.loads(json.dumps(description))
        self.overwrite = overwrite
        self._file = LineFile(self.path / RECORDS)
        self._files = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as files:
            files.enter_context(self._file)
            if self.overwrite:
                self._cut(0)
            else:
                check_description(self.path, self.description)
            if self.overwrite or not (self.path / DESCRIPTION).is_file():
                write_json(self.path / DESCRIPTION, self.description)
            self._files = files.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def take_whole_batches(self, sizes: Sequence[int]) -> list[list[EvaluationRecord]]:
        """
        Reads the batches that were written whole, and drops what stands behind them.

        Args:
            sizes (`Sequence[int]`):
                How many records each batch of the evaluation has.

        Returns:
            `list[list[EvaluationRecord]]`: the records of the first batches, up to one that was not written whole, or
            in which a request failed: those are asked again.

        Raises:
            `ValueError`: If a line is no record.
        """
        lines = list(self._file.lines())
        kept: list[list[EvaluationRecord]] = []
        start = 0
        for size in sizes:
            numbered = list(enumerate(lines[start : start + size], start=start + 1))
            records = [_parse(line, f"line {number} of {self._file.path}") for number, line in numbered]
            if len(records) < size or any(record.failure is not None for record in records):
                break
            kept.append(records)
            start += size
        if start < len(lines):
            logger.info("%d of %d records of %s are made anew.", len(lines) - start, len(lines), self._file.path)
            self._cut(sum(map(len, lines[:start])))
        return kept

    def _cut(self, num_bytes: int) -> None:
        """The metrics go first: at no time do they stand beside other records than their own."""
        (self.path / METRICS).unlink(missing_ok=True)
        self._file.cut(num_bytes)

    def append(self, records: Sequence[EvaluationRecord]) -> None:
        """
        Keeps the records of a batch, on the disk when this returns.

        Args:
            records (`Sequence[EvaluationRecord]`):
                The records.
        """
        self._file.append(record.as_dict() for record in records)

    @property
    def has_metrics(self) -> bool:
        """`bool`: Whether the metrics of these records are there."""
        return (self.path / METRICS).is_file()

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """
        Writes the metrics of the whole evaluation.

        Args:
            metrics (`Mapping`):
                As JSON can hold them.
        """
        write_json(self.path / METRICS, metrics)


def check_description(path: str | Path, description: Mapping[str, Any]) -> None:
    """
    Refuses to go on with an evaluation of something else.

    Args:
        path (`str` or `Path`):
            The folder, which need not exist.
        description (`Mapping`):
            What is to be evaluated, or a part of it: what is known before the model is loaded.

    Raises:
        `ValueError`: If what is in the folder differs, has no description, or one that was cut off.
    """
    folder = Path(path)
    if not (folder / DESCRIPTION).is_file():
        if (folder / RECORDS).exists() and (folder / RECORDS).stat().st_size:
            raise ValueError(
                f"Expected {DESCRIPTION} beside the records in {str(path)!r}, which says what they are of, got none. "
                "Choose another folder, or overwrite them."
            )
        return
    try:
        saved = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected JSON in {str(folder / DESCRIPTION)!r}, got something else: {error}.") from error
    asked = json.loads(json.dumps(description))
    differing = [name for name in asked if name not in saved or saved[name] != asked[name]]
    if differing:
        listed = "; ".join(
            f"{name} is {_shown(saved.get(name))} there, {_shown(asked[name])} now" for name in differing
        )
        raise ValueError(
            f"Expected to go on with the evaluation in {str(path)!r}, got another one: {listed}. Choose another "
            "folder, or overwrite it."
        )


def dataset_identity(dataset: "Dataset") -> dict[str, Any]:
    """
    Tells a dataset from another by what is in it.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.

    Returns:
        `dict`: their number, and a hash of all columns.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> dataset_identity(Dataset.from_dict({"prompt": ["2+2?"]}))
    {'num_rows': 1, 'sha256': '8c643df3...'}

    ```
    """
    digest = hashlib.sha256()
    for row in dataset:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return {"num_rows": len(dataset), "sha256": digest.hexdigest()}


def _parse(line: bytes, place: str) -> EvaluationRecord:
    try:
        return EvaluationRecord.from_dict(json.loads(line))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"Expected a record of an evaluation in {place}, got {line[:80]!r}. Take that line and all after it out to "
            "have them made anew."
        ) from error


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "..."
