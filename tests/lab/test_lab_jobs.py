"""Jobs are done once, survive a kill of the runner, end with it on Ctrl-C, and a failed one stops nothing."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lab_jobs import Job, fingerprint_of, read_result, run_jobs, sole_user

LAB = Path(__file__).parents[2] / "examples" / "lab"
WAIT_S = 30.0

# Runs one job that notes its process id and then sleeps, as a child of its own in turn.
# A shell has what it starts in the background ignore SIGINT, and that is inherited.
RUNNER = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {lab!r})
from lab_jobs import Job, run_jobs, sole_user
folder = Path(sys.argv[1])
sleeper = "import os, pathlib, subprocess, sys, time; pathlib.Path(r'%s/pids').write_text(' '.join(map(str, (" \\
    "os.getpid(), subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)))); time.sleep(60)"
with sole_user(folder):
    run_jobs([Job("sleeper", (sys.executable, "-c", sleeper % folder), folder / "job", "1")], 1, {{}}, "test")
"""


def python_job(folder: Path, code: str, *, fingerprint: str = "1", needed: tuple[str, ...] = ()) -> Job:
    """A job that runs Python code, with `FOLDER` for its own folder."""
    code = code.replace("FOLDER", repr(str(folder)))
    return Job(folder.name, (sys.executable, "-S", "-c", code), folder, fingerprint, needed)


def appending(path: Path, text: str) -> str:
    """Code that leaves a trace of each time that it runs."""
    return f"open({str(path)!r}, 'a').write({text!r})"


def is_alive(process_id: int) -> bool:
    """Whether a process is there and no zombie."""
    status = Path(f"/proc/{process_id}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def start_runner(folder: Path) -> tuple["subprocess.Popen[bytes]", list[int]]:
    """Starts a runner with a job that sleeps; gives it and the process ids of the job and its child."""
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(lab=str(LAB)), str(folder)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pids = folder / "pids"
    wait_until(lambda: pids.is_file() and len(pids.read_text().split()) == 2)
    return runner, [int(number) for number in pids.read_text().split()]


def test_finished_jobs_are_not_done_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    jobs = [python_job(tmp_path / name, appending(trace, name)) for name in "ab"]
    assert run_jobs(jobs, 2, {}, "test") == []
    assert run_jobs(jobs, 2, {}, "test") == []
    assert sorted(trace.read_text()) == ["a", "b"]
    assert set(read_result(tmp_path / "a")) == {"name", "fingerprint", "seconds", "commit"}


def test_another_configuration_is_done_again_in_an_empty_folder(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    listing = "import os; open(FOLDER + '/' + str(len(os.listdir(FOLDER))), 'w'); " + appending(trace, "x")
    for fingerprint in ("1", "2", "2"):
        run_jobs([python_job(tmp_path / "job", listing, fingerprint=fingerprint)], 1, {}, "test")
    assert trace.read_text() == "xx"
    assert sorted(file.name for file in (tmp_path / "job").iterdir()) == ["0", "result.json"]


def test_failed_job_is_reported_with_the_end_of_its_log_and_others_go_on(tmp_path: Path) -> None:
    jobs = [
        python_job(tmp_path / "wrong", "print('first'); print('last words'); raise SystemExit(3)"),
        python_job(tmp_path / "lazy", "pass", needed=("summary.json",)),
        python_job(tmp_path / "right", "open(FOLDER + '/summary.json', 'w')", needed=("summary.json",)),
    ]
    wrong, lazy = run_jobs(jobs, 1, {}, "test")
    assert (wrong.job.name, wrong.reason, wrong.tail.splitlines()[-1]) == ("wrong", "ended with code 3", "last words")
    assert (lazy.job.name, lazy.reason) == ("lazy", "did not write summary.json")
    assert [job.is_finished for job in jobs] == [False, False, True]


@pytest.mark.parametrize(("max_load", "expected"), [(math.inf, 2), (-1.0, 1)])
def test_so_many_jobs_at_once(max_load: float, expected: int, tmp_path: Path) -> None:
    # Each job counts the marks of those at work, its own among them.
    code = (
        "import os, time; here = os.path.dirname(FOLDER); mark = FOLDER + '.mark'; open(mark, 'w'); time.sleep(0.4); "
        "count = sum(name.endswith('.mark') for name in os.listdir(here)); os.remove(mark); "
        "open(FOLDER + '/count', 'w').write(str(count))"
    )
    jobs = [python_job(tmp_path / name, code) for name in "abcd"]
    assert run_jobs(jobs, 2, {}, "test", max_load=max_load) == []
    assert max(int((job.folder / "count").read_text()) for job in jobs) == expected


def test_environment_reaches_the_job(tmp_path: Path) -> None:
    code = "import os; open(FOLDER + '/seen', 'w').write(os.environ['OMP_NUM_THREADS'])"
    run_jobs([python_job(tmp_path / "job", code)], 1, {"OMP_NUM_THREADS": "7"}, "test")
    assert (tmp_path / "job" / "seen").read_text() == "7"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_jobs_with_their_children(kind: signal.Signals, tmp_path: Path) -> None:
    runner, pids = start_runner(tmp_path)
    runner.send_signal(kind)
    runner.wait(WAIT_S)
    wait_until(lambda: not any(map(is_alive, pids)))
    assert not (tmp_path / "job" / "result.json").exists()


def test_after_a_kill_nobody_starts_while_a_job_lives_on(tmp_path: Path) -> None:
    runner, pids = start_runner(tmp_path)
    runner.kill()
    runner.wait()
    try:
        assert is_alive(pids[0])
        with pytest.raises(BlockingIOError, match="a job that outlived one, is at work there"), sole_user(tmp_path):
            pass
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, pids)))
    with sole_user(tmp_path):  # and now it may
        assert run_jobs([python_job(tmp_path / "job", "open(FOLDER + '/done', 'w')")], 1, {}, "test") == []
    assert json.loads((tmp_path / "job" / "result.json").read_text())["fingerprint"] == "1"


def test_fingerprint_sees_values_and_not_their_order() -> None:
    assert fingerprint_of({"a": {"x": 1, "y": 2}}) == fingerprint_of({"a": {"y": 2, "x": 1}})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})
