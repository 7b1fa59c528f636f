"""
Jobs of the laboratory: each is a command that fills a folder, done once.

A job is finished when its folder holds `result.json` with the job's fingerprint, which is written last. So a run that
was killed takes up where it was: what was finished stays, what was under way is begun anew.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

RESULT = "result.json"
SECONDS_TO_END = 10.0
"""How long a job may take to end itself before it is killed."""
_POLL_S = 0.2
_TAIL_LINES = 20


@dataclass(frozen=True)
class Job:
    """
    A command that fills a folder.

    Args:
        name (`str`):
            What it is called in reports.
        command (`tuple[str, ...]`):
            The command, run in the current folder.
        folder (`Path`):
            What it fills. Emptied before it starts.
        fingerprint (`str`):
            What its result depends on, as [`fingerprint_of`] makes it.
        needed (`tuple[str, ...]`, *optional*):
            Files that it has to leave in its folder; without them it counts as failed.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    fingerprint: str
    needed: tuple[str, ...] = ()

    @property
    def log_file(self) -> Path:
        """`Path`: What the command prints, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_finished(self) -> bool:
        """`bool`: Whether it was done, and what its result depends on is the same now."""
        return read_result(self.folder).get("fingerprint") == self.fingerprint


@dataclass(frozen=True)
class Failure:
    """
    A job that failed.

    Args:
        job (`Job`):
            The job.
        reason (`str`):
            One sentence.
        tail (`str`):
            The last lines of its log.
    """

    job: Job
    reason: str
    tail: str


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """
    Condenses what a result depends on.

    Args:
        content (`Mapping[str, Any]`):
            Anything that JSON can hold. The order of keys does not matter.

    Returns:
        `str`: 16 hexadecimal digits.

    Example:

    ```python
    >>> fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
    True

    ```
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_result(folder: Path) -> dict[str, Any]:
    """
    Reads what was noted when a job finished.

    Args:
        folder (`Path`):
            The job's folder.

    Returns:
        `dict`: `name`, `fingerprint`, `seconds` and `commit`; empty if no job finished there.
    """
    file = folder / RESULT
    return json.loads(file.read_text()) if file.is_file() else {}


def run_jobs(
    jobs: Sequence[Job],
    num_at_once: int,
    environment: Mapping[str, str],
    title: str,
    *,
    max_load: float = math.inf,
) -> list[Failure]:
    """
    Does those jobs that are not finished, several at once, and goes on when one fails.

    Args:
        jobs (`Sequence[Job]`):
            The jobs, started in their order.
        num_at_once (`int`):
            Most jobs at work at a time.
        environment (`Mapping[str, str]`):
            Environment variables of the commands, beside those of this process.
        title (`str`):
            What the progress bar is called.
        max_load (`float`, *optional*):
            On a machine that others use: no second job is started while its load average is above this.

    Returns:
        `list[Failure]`: the jobs that failed.

    Raises:
        `KeyboardInterrupt`: On Ctrl-C and on SIGTERM, after the jobs at work were ended.
    """
    waiting = deque(job for job in jobs if not job.is_finished)
    failures: list[Failure] = []
    at_work: dict[Job, tuple[subprocess.Popen[bytes], float]] = {}
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc=title, unit="job", smoothing=0)
    with bar, _sigterm_as_interrupt():
        try:
            while waiting or at_work:
                while waiting and len(at_work) < num_at_once and (not at_work or os.getloadavg()[0] <= max_load):
                    job = waiting.popleft()
                    at_work[job] = _start(job, environment), time.monotonic()
                    bar.set_postfix_str(", ".join(job.name for job in at_work))
                time.sleep(_POLL_S)
                for job in [job for job, (process, _) in at_work.items() if process.poll() is not None]:
                    process, start = at_work.pop(job)
                    failure = _finish(job, process.returncode, time.monotonic() - start)
                    failures += [failure] if failure else []
                    bar.write(f"{job.name}: {failure.reason if failure else f'{time.monotonic() - start:.0f} s'}")
                    bar.update()
        finally:
            _end([process for process, _ in at_work.values()])
    return failures


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """
    Makes sure that nobody else works in a folder.

    The lock is an open file, which the jobs inherit: so long as one of them lives, nobody can start again in its
    folder, even if this process was killed.

    Args:
        folder (`Path`):
            The folder. It is made if it is missing.

    Raises:
        `BlockingIOError`: If somebody else does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"Expected to be alone in {str(folder)!r}, but another run, or a job that outlived one, is at work "
                "there. Wait for it or end it, or name another folder with `--output`."
            ) from error
        yield


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """A polite kill ends the jobs at work too, as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(job: Job, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    if job.folder.exists():
        shutil.rmtree(job.folder)
    job.folder.mkdir(parents=True)
    with job.log_file.open("wb") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the job with all its children.
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            close_fds=False,
        )


def _finish(job: Job, return_code: int, seconds: float) -> Failure | None:
    missing = [name for name in job.needed if not (job.folder / name).is_file()]
    if return_code or missing:
        reason = f"ended with code {return_code}" if return_code else f"did not write {', '.join(missing)}"
        tail = job.log_file.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return Failure(job, reason, "\n".join(tail))
    result = {
        "name": job.name,
        "fingerprint": job.fingerprint,
        "seconds": round(seconds, 1),
        "commit": current_commit(),
    }
    # Renamed into place: a result is there as a whole or not at all.
    draft = job.folder / f"{RESULT}.part"
    draft.write_text(json.dumps(result, indent=2) + "\n")
    draft.replace(job.folder / RESULT)
    return None


def current_commit() -> str | None:
    """
    Finds out which commit of the code runs.

    Returns:
        `str`, *optional*: its short name, `None` outside of a repository.
    """
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _end(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Ends jobs with all their children: asked first, killed if they do not."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(_POLL_S)
    for process in processes:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # it and its children have ended
