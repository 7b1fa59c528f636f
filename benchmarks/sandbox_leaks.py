"""Whether the sandbox leaks: many programs, wrong, crashing and hanging ones among them.

    python benchmarks/sandbox_leaks.py --executions 10000

Exits 1 if processes, open files, folders or memory grew. All programs here are harmless. How fast it is:
`code_grader.py`.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from code_grader import TASKS

from trl_score.rewards.sandbox import Sandbox

WRONG = {"code": "def add(a, b):\n    return a - b\n", "tests": ["assert add(2, 3) == 5"]}
CRASHING = {"code": "import os\ndef add(a, b):\n    os._exit(0)\n", "tests": ["assert add(2, 3) == 5"]}
WRITING = {"code": "open('left.txt', 'w').write('x')\ndef f():\n    return 1\n", "tests": ["assert f() == 1"]}
HANGING = {"code": "def add(a, b):\n    while True: pass\n", "tests": ["assert add(2, 3) == 5"]}

HANGING_EACH = 500
"""One program in so many hangs: each costs its whole timeout."""
BATCH = 250
MAX_GROWTH_KB = 4096
"""Of the resident memory of all processes together, between the first tenth of a run and its end."""


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


@dataclass(frozen=True)
class Footprint:
    """What this process and all below it hold."""

    processes: int
    handles: int
    folders: int
    resident_kb: int


def family() -> list[int]:
    """This process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def footprint(folder: Path) -> Footprint:
    pids = family()
    resident = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        resident += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    handles = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
    return Footprint(len(pids), handles, len(list(folder.rglob("*"))), resident)


def batch_of(start: int) -> list[dict[str, Any]]:
    """A batch in which most programs are right, some wrong, crashing or writing, and a few hang."""
    kinds = (*TASKS, WRONG, CRASHING, WRITING)
    return [
        HANGING if number % HANGING_EACH == 7 else kinds[number % len(kinds)] for number in range(start, start + BATCH)
    ]


def measure_leaks(executions: int, workers: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        os.environ["TMPDIR"] = tempfile.tempdir = name
        folder = Path(name)
        with Sandbox(num_workers=workers, timeout_s=1.0) as sandbox:
            first = None
            for start in range(0, executions, BATCH):
                errors = [report for report in sandbox.run_batch(batch_of(start)) if report.verdict == "error"]
                if errors:
                    print(f"{len(errors)} programs could not be judged: {errors[0].message}")
                if start % (BATCH * 4) == 0 or start + BATCH >= executions:
                    now = footprint(folder)
                    print(f"{start + BATCH:6} programs: {now}, load {load()}", flush=True)
                if first is None and start + BATCH >= executions / 10:
                    first = footprint(folder)
            last = footprint(folder)
        closed = footprint(folder)
    assert first is not None
    found = [
        f"{field}: {before} -> {after}"
        for field, before, after in (
            ("processes", first.processes, last.processes),
            ("handles", first.handles, last.handles),
            ("folders", first.folders, last.folders),
            ("resident_kb", first.resident_kb + MAX_GROWTH_KB, last.resident_kb),
            ("processes after close", 1, closed.processes),
            ("folders after close", 0, closed.folders),
        )
        if after > before
    ]
    print("\n".join(found) if found else "nothing grew, and nothing was left after close()")
    return bool(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=1000, help="programs in all")
    parser.add_argument("--workers", type=int, default=2, help="programs at once")
    arguments = parser.parse_args()
    return measure_leaks(arguments.executions, arguments.workers)


if __name__ == "__main__":
    sys.exit(main())
