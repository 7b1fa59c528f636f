"""
What the benchmarks share: both sides in one run, ratios of interleaved repeats, peak memory, and the rows of a table.

Each benchmark is a script with the options of `parse_options`. It makes one `Measure` for each thing that it compares,
and hands them to `report`, which prints a table and merges them into a JSON file.

A measure's `ratio` says how many times better ours is than the other side: other / ours for what should be small
(seconds, MiB), ours / other for what should be large (tokens per second). So above 1 is always good, and a target is
the least ratio that is wanted.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

MIB = 1024**2
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Measure:
    """
    One row of the table.

    Args:
        name (`str`):
            What is measured, unique among the rows of a device.
        ours (`float`, *optional*):
            Median of our side; `None` where it never came to an end.
        other (`float`, *optional*):
            Median of the other side; `None` where there is none, or it never came to an end.
        unit (`str`):
            Unit of both, as `"s"`, `"MiB"` or `"tokens/s"`.
        ratio (`float`, *optional*):
            How many times better ours is: above 1 is good.
        spread (`float`, *optional*):
            Half of the interquartile range of the ratio over the pairs of repeats; `None` of a single pair.
        target (`float`, *optional*):
            The least ratio that is wanted.
        met (`bool`, *optional*):
            Whether it is reached; `None` where there is no target, and with `--quick`.
        command (`str`):
            What prints this row again.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where it ran.
    """

    name: str
    ours: float | None
    other: float | None
    unit: str
    ratio: float | None
    spread: float | None
    target: float | None
    met: bool | None
    command: str
    device: str = "cpu"


@dataclass(frozen=True)
class Pairs:
    """
    What repeats of both sides gave, in the order of the repeats.

    Args:
        ours (`list[float]`):
            Our side.
        other (`list[float]`):
            The other side.
        more_is_better (`bool`, *optional*, defaults to `False`):
            Whether large values are good.
    """

    ours: list[float]
    other: list[float]
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        """`float`: The ratio of the medians."""
        return self._ratio_of(statistics.median(self.ours), statistics.median(self.other))

    @property
    def spread(self) -> float | None:
        """`float`: Half of the interquartile range of the pairs' own ratios; `None` of a single pair."""
        ratios = [self._ratio_of(ours, other) for ours, other in zip(self.ours, self.other, strict=True)]
        if len(ratios) < 2:
            return None
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return (high - low) / 2

    def _ratio_of(self, ours: float, other: float) -> float:
        return ours / other if self.more_is_better else other / ours

    def measure(self, name: str, unit: str, options: argparse.Namespace, target: float | None = None) -> Measure:
        """
        Makes a row of the table.

        Args:
            name (`str`):
                What is measured.
            unit (`str`):
                Unit of the values.
            options (`argparse.Namespace`):
                What `parse_options` gave.
            target (`float`, *optional*):
                The least ratio that is wanted. With `--quick` it is not judged: sizes are too small to say anything.

        Returns:
            `Measure`: the row.
        """
        return Measure(
            name=name,
            ours=statistics.median(self.ours),
            other=statistics.median(self.other),
            unit=unit,
            ratio=self.ratio,
            spread=self.spread,
            target=target,
            met=None if target is None or options.quick else self.ratio >= target,
            command=options.command,
            device=options.device,
        )


def interleave(
    ours: Callable[[], Any],
    other: Callable[[], Any],
    repeats: int,
    *,
    warmups: int = 1,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> Pairs:
    """
    Times two functions in turns, so that both see the same machine; which comes first changes with each repeat.

    Args:
        ours (`Callable`):
            Our side. What returns a `float` says its own seconds.
        other (`Callable`):
            The other side, likewise.
        repeats (`int`):
            How often each is timed.
        warmups (`int`, *optional*, defaults to `1`):
            How often each is called beforehand.
        device (`str`, *optional*, defaults to `"cpu"`):
            With `"cuda"`, each call is over when the GPU is.
        clock (`Callable`, *optional*, defaults to `time.perf_counter`):
            Gives seconds; `time.process_time` leaves out what other programs take.

    Returns:
        `Pairs`: seconds of each call.
    """
    sides = (ours, other)
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(-warmups, repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            _wait_for(device)
            start = clock()
            result = sides[side]()
            _wait_for(device)
            taken = result if isinstance(result, float) else clock() - start
            if repeat >= 0:
                seconds[side].append(taken)
    return Pairs(*seconds)


def _wait_for(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


@dataclass(frozen=True)
class Memory:
    """
    Memory of a function, beyond what its process held before (interpreter, libraries).

    Args:
        held (`int`):
            Bytes held when the function was called: what its preparation left, such as a model.
        peak (`int`):
            Most bytes held while it ran.
    """

    held: int
    peak: int

    @property
    def added(self) -> int:
        """`int`: Bytes that the function itself took at most."""
        return self.peak - self.held


def peak_memory(prepare: Callable[..., Callable[[], Any]], *args: Any, device: str = "cpu") -> Memory:
    """
    Measures the memory of a function in a new process.

    Args:
        prepare (`Callable`):
            Of a module's top level. `prepare(*args)` gives the function, which is called without arguments.
        args (*optional*):
            Anything that can be pickled.
        device (`str`, *optional*, defaults to `"cpu"`):
            `"cpu"`: resident memory, as Linux counts it. `"cuda"`: what PyTorch holds in tensors.

    Returns:
        `Memory`: before and during the call.

    Raises:
        `RuntimeError`: If the process fails; its traceback stands in the error output.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_memory, args=(sender, prepare, args, device))
    process.start()
    sender.close()
    try:
        return Memory(*receiver.recv())
    except EOFError:
        raise RuntimeError(f"The process that runs {prepare.__name__}{args!r} failed; see its traceback.") from None
    finally:
        process.join()


def _send_memory(sender: Any, prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...], device: str) -> None:
    """Runs in the child."""
    import torch  # noqa: F401 (what it takes is not the function's)

    reset_most_held(device)
    before = most_held(device)
    function = prepare(*args)
    reset_most_held(device)
    held = most_held(device)
    function()
    sender.send((held - before, most_held(device) - before))


def reset_most_held(device: str) -> None:
    """Has `most_held` begin anew."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def most_held(device: str) -> int:
    """Gives the most bytes that this process held since the last `reset_most_held`; on a GPU, in tensors."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    # Not `ru_maxrss`: a new process begins with that of the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def parse_options(
    description: str | None, *, output: str, repeats: int = 5, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """
    Reads the options that all benchmarks have.

    Args:
        description (`str`):
            The script's docstring.
        output (`str`):
            Where its rows go by default.
        repeats (`int`, *optional*, defaults to `5`):
            How many, where `--repeats` does not say; one with `--quick`.
        arguments (`Sequence[str]`, *optional*):
            In place of the command line's.

    Returns:
        `argparse.Namespace`: `device`, `repeats`, `quick`, `output`, and `command`, which says how to make the rows
            again.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="sizes are those that fill it")
    parser.add_argument("--repeats", type=int, help=f"pairs of runs ({repeats})")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes and one repeat: seconds, and no target is judged"
    )
    parser.add_argument("--output", type=Path, default=Path(output), help=f"JSON file of rows ({output})")
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (1 if options.quick else repeats)
    options.command = f"python benchmarks/{Path(sys.argv[0]).name} --device {options.device}"
    return options


def report(measures: Sequence[Measure], options: argparse.Namespace) -> None:
    """
    Prints the rows, and saves them.

    Args:
        measures (`Sequence[Measure]`):
            The rows.
        options (`argparse.Namespace`):
            What `parse_options` gave.
    """
    print(table(measures), flush=True)
    save(measures, options.output)


def save(measures: Sequence[Measure], path: Path) -> None:
    """
    Merges rows into a JSON file: a row of the same name and device takes the older one's place.

    Args:
        measures (`Sequence[Measure]`):
            The rows.
        path (`Path`):
            The file; made if need be.
    """
    rows = {(measure.name, measure.device): measure for measure in [*load(path), *measures]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(measure) for measure in rows.values()], indent=2) + "\n")


def load(path: Path) -> list[Measure]:
    """Reads the rows of a file that `save` wrote; none where there is no file."""
    return [Measure(**row) for row in json.loads(path.read_text())] if path.is_file() else []


def table(measures: Sequence[Measure]) -> str:
    """
    Writes rows as text, in columns.

    Args:
        measures (`Sequence[Measure]`):
            The rows.

    Returns:
        `str`: one line for each, below a line of titles.
    """
    titles = [field.name for field in fields(Measure) if field.name != "command"]
    lines = [titles, *([_cell(value) for key, value in asdict(row).items() if key in titles] for row in measures)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)
