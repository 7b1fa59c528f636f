"""Which checkpoints are whole. A run may be killed while it saves, or while it removes an older checkpoint.

The last file written into a checkpoint, once all others lie on the disk, lists them with their sizes. A folder without
it, or one that lacks a listed file, is never resumed from.
"""

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

WHOLE_FILE = "whole.json"
"""Lists the files of a checkpoint with their sizes; written last."""

_LEAST_ROOM = 64 * 1024
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_REPLACED = "replaced-"


def mark_whole(folder: Path) -> None:
    """
    Marks a checkpoint as whole: flushes all its files to the disk, then writes their list.

    Args:
        folder (`pathlib.Path`):
            The checkpoint's folder, with everything in it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != WHOLE_FILE)
    for path in files:
        _flush(path)
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    unfinished = folder / f"{WHOLE_FILE}.unfinished"
    unfinished.write_text(list_files(sizes))
    _flush(unfinished)
    unfinished.replace(folder / WHOLE_FILE)
    for inner in [folder.parent, folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _flush(inner)


def list_files(sizes: Mapping[str, int]) -> str:
    """
    Writes the list of a whole checkpoint's files.

    Args:
        sizes (`Mapping[str, int]`):
            Bytes of each file, by its path in the checkpoint.

    Returns:
        `str`: the content of `WHOLE_FILE`.
    """
    return json.dumps({"files": dict(sizes)}, indent=2) + "\n"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def what_is_missing(folder: Path) -> str | None:
    """
    Says what a checkpoint lacks.

    Args:
        folder (`pathlib.Path`):
            The checkpoint's folder.

    Returns:
        `str`, *optional*: what is missing, or `None` if the checkpoint is whole.
    """
    if not folder.is_dir():
        return "there is no such folder"
    marker = folder / WHOLE_FILE
    if not marker.is_file():
        return f"it has no {WHOLE_FILE}, which is written last"
    for name, size in json.loads(marker.read_text())["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size < size:
            return f"{name} has {path.stat().st_size} bytes of {size}"
    return None


def check_whole(folder: Path) -> None:
    """
    Refuses a checkpoint that is not whole.

    Args:
        folder (`pathlib.Path`):
            The checkpoint's folder.

    Raises:
        `ValueError`: If something is missing.
    """
    missing = what_is_missing(folder)
    if missing is not None:
        raise ValueError(
            f"Expected a whole checkpoint to resume from, got {str(folder)!r}: {missing}. Pass "
            "`resume_from_checkpoint=True` for the last whole one. If this one was saved by something else than "
            "a trainer of trl_score and you know that it is whole, call `trl_score.checkpoints.mark_whole` on it."
        )


def last_whole_checkpoint(output_dir: Path) -> Path:
    """
    Finds the checkpoint to resume from, and logs which later ones it passed over.

    Args:
        output_dir (`pathlib.Path`):
            The run's folder.

    Returns:
        `pathlib.Path`: the last whole checkpoint.

    Raises:
        `ValueError`: If there is none.
    """
    _put_back_replaced(output_dir)
    passed_over: list[str] = []
    for folder in sorted(output_dir.glob("checkpoint-*"), key=_step, reverse=True):
        if _step(folder) < 0:
            continue
        missing = what_is_missing(folder)
        if missing is None:
            if passed_over:
                logger.warning("Resuming from %s. Passed over: %s.", folder.name, "; ".join(passed_over))
            return folder
        passed_over.append(f"{folder.name} ({missing})")
    found = "; ".join(passed_over) or "no checkpoint"
    raise ValueError(
        f"Expected a whole checkpoint in {str(output_dir)!r} to resume from, got {found}. Start without "
        "`resume_from_checkpoint`, or name a checkpoint elsewhere."
    )


def has_whole_checkpoint(output_dir: Path) -> bool:
    """
    Tells whether there is anything to resume from.

    Args:
        output_dir (`pathlib.Path`):
            The run's folder.

    Returns:
        `bool`: whether a checkpoint in it is whole.
    """
    folders = [*output_dir.glob("checkpoint-*"), *output_dir.glob(f"{_REPLACED}checkpoint-*")]
    return any(what_is_missing(folder) is None for folder in folders)


def _step(folder: Path) -> int:
    match = _CHECKPOINT.fullmatch(folder.name)
    return int(match[1]) if match else -1


def make_room(folder: Path) -> None:
    """
    Clears the place of a checkpoint that is about to be saved; a whole one there is kept aside until then.

    Args:
        folder (`pathlib.Path`):
            The checkpoint's folder.
    """
    aside = folder.with_name(_REPLACED + folder.name)
    if what_is_missing(folder) is None:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    elif folder.exists():
        shutil.rmtree(folder)


def forget_replaced(folder: Path) -> None:
    """
    Removes what `make_room` kept aside.

    Args:
        folder (`pathlib.Path`):
            The checkpoint's folder, whole again.
    """
    shutil.rmtree(folder.with_name(_REPLACED + folder.name), ignore_errors=True)


def give_up(folder: Path) -> str:
    """
    Removes a checkpoint that could not be saved, so that it takes no room, and says what there is to go on from.

    Args:
        folder (`pathlib.Path`):
            The checkpoint's folder.

    Returns:
        `str`: a sentence for the error.
    """
    free = shutil.disk_usage(folder.parent).free / 1024**2
    shutil.rmtree(folder, ignore_errors=True)
    _put_back_replaced(folder.parent)
    whole = [other.name for other in folder.parent.glob("checkpoint-*") if what_is_missing(other) is None]
    advice = "None was saved before; start anew when the reason is gone."
    if whole:
        last = max(whole, key=lambda name: _step(folder.with_name(name)))
        advice = (
            f"The last whole one is {last}; `resume_from_checkpoint=True` goes on from there when the reason is gone."
        )
    return f"{folder} could not be saved, when {free:.1f} MiB were free on its disk, and is removed. {advice}"


def check_writable(folder: Path) -> None:
    """
    Refuses a folder into which nothing can be written, before anything was trained.

    Args:
        folder (`pathlib.Path`):
            The run's folder.

    Raises:
        `OSError`: If a file cannot be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * _LEAST_ROOM)
    except OSError as error:
        error.add_note(
            f"Expected an `output_dir` that can be written into, got {str(folder)!r}. Nothing was trained yet."
        )
        raise


def remove_half_written(output_dir: Path) -> None:
    """
    Removes what runs that were killed while they saved have left, so that it takes no whole checkpoint's place.

    Args:
        output_dir (`pathlib.Path`):
            The run's folder, to which no process is saving.
    """
    for folder in output_dir.glob("checkpoint-*"):
        if _step(folder) >= 0 and what_is_missing(folder) is not None:
            shutil.rmtree(folder)


def _put_back_replaced(output_dir: Path) -> None:
    """Of a run that was killed while it saved a step for the second time, the first one."""
    for aside in output_dir.glob(f"{_REPLACED}checkpoint-*"):
        folder = aside.with_name(aside.name.removeprefix(_REPLACED))
        if what_is_missing(folder) is None or what_is_missing(aside) is not None:
            shutil.rmtree(aside)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
