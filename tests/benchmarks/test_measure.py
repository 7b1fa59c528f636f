"""The benchmarks' frame: ratios by hand numbers, the order of calls, memory of known arrays, rows in a file."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
from measure import MIB, Measure, Pairs, interleave, load, parse_options, peak_memory, save, table


def options(*arguments: str) -> argparse.Namespace:
    return parse_options("About.", output="runs/bench/rows.json", arguments=arguments)


def row(name: str, ours: float = 1.0, device: str = "cpu") -> Measure:
    return Measure(name, ours, 2.0, "s", 2.0 / ours, None, 1.5, ours <= 4 / 3, "python x.py", device)


def test_ratio_and_spread_of_seconds() -> None:
    # Medians 2 and 6. Ratios of the pairs 4, 3, 2, 1, 8: sorted 1 2 3 4 8, quartiles 2 and 4.
    pairs = Pairs(ours=[1.0, 2.0, 3.0, 4.0, 1.0], other=[4.0, 6.0, 6.0, 4.0, 8.0])
    assert pairs.ratio == 3.0
    assert pairs.spread == 1.0


def test_more_is_better() -> None:
    assert Pairs([300.0], [100.0], more_is_better=True).ratio == 3.0
    assert Pairs([300.0], [100.0]).ratio == pytest.approx(1 / 3)


def test_a_single_pair_has_no_spread() -> None:
    assert Pairs([1.0], [2.0]).spread is None


@pytest.mark.parametrize(("target", "met"), [(2.0, True), (2.1, False), (None, None)])
def test_target(target: float | None, met: bool | None) -> None:
    measure = Pairs([1.0], [2.0]).measure("step", "s", options(), target)
    assert (measure.ratio, measure.target, measure.met) == (2.0, target, met)
    assert measure.device == "cpu" and measure.command.endswith("--device cpu")


def test_quick_judges_no_target() -> None:
    quick = options("--quick")
    assert quick.repeats == 1
    measure = Pairs([1.0], [2.0]).measure("step", "s", quick, 1.5)
    assert (measure.target, measure.met) == (1.5, None)


def test_interleaved_calls_alternate() -> None:
    calls: list[str] = []
    now = iter(range(100))
    pairs = interleave(
        lambda: calls.append("a"), lambda: calls.append("b"), repeats=3, warmups=1, clock=lambda: float(next(now))
    )
    assert "".join(calls) == "baabbaab"
    assert pairs.ours == [1.0] * 3
    assert pairs.other == [1.0] * 3


def test_a_function_may_say_its_own_seconds() -> None:
    pairs = interleave(lambda: 2.0, lambda: 5.0, repeats=2)
    assert (pairs.ours, pairs.other) == ([2.0, 2.0], [5.0, 5.0])


def hold_and_take(held: int, taken: int) -> Callable[[], None]:
    """Leaves `held` MiB behind, after having had 64 more, and gives a function that takes `taken` MiB for a while."""
    bytearray(64 * MIB)
    kept = bytearray(held * MIB)
    return lambda: (bytearray(taken * MIB), kept)[:0]


def fail() -> None:
    raise ValueError("planted")


def test_peak_memory_counts_what_is_held_and_what_is_taken() -> None:
    memory = peak_memory(hold_and_take, 32, 128)
    assert memory.held / MIB == pytest.approx(32, abs=4)
    assert memory.added / MIB == pytest.approx(128, abs=4)
    assert memory.peak / MIB == pytest.approx(160, abs=6)


def test_peak_memory_of_a_process_that_fails() -> None:
    with pytest.raises(RuntimeError, match=r"fail\(\) failed"):
        peak_memory(fail)


def test_rows_are_merged_by_name_and_device(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "rows.json"
    save([row("a"), row("b")], path)
    save([row("b", ours=4.0), row("b", device="cuda")], path)
    assert load(path) == [row("a"), row("b", ours=4.0), row("b", device="cuda")]


def test_table() -> None:
    text = table([row("a step"), Measure("b", 1234.5, None, "MiB", None, None, None, None, "c")])
    assert text.splitlines() == [
        "name    ours  other  unit  ratio  spread  target  met  device",
        "a step  1     2      s     2      -       1.5     yes  cpu",
        "b       1234  -      MiB   -      -       -       -    cpu",
    ]
