r"""
How many answers a second MathReward grades, against math-verify alone in one process; and the longest that one takes.

    python benchmarks/math_grader.py [--quick]

Golds of six kinds, eight answers to each, four of them right; all pairs differ, and no pair comes twice, so that
nothing is answered from memory. Ours has two workers. Then hostile answers, one at a time: ours with its default
deadline, math-verify with its own timeouts, in a process that is ended where those do not hold.
"""

import argparse
import logging
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from measure import Measure, Pairs, interleave, parse_options, report

from trl_score.rewards import MathReward

RATE_TARGET = 1.5
WORKERS = 2
GROUP = 8
DEADLINE_S = 2.0
GRACE_S = 0.5
OTHER_LIMIT_S = 20.0
OTHER_MEMORY = 4 * 1024**3

HOSTILE = (
    r"9^{9^{9^{9}}}",
    r"99999999!",
    r"\binom{1000000000}{500000000}",
    r"(x+1)^{10^{9}}",
    r"(a+b+c+d)^{300}",
    r"\sum_{k=1}^{10^{12}} k^k",
    r"\int_0^{10^{9}} \sin(x^x) dx",
    r"\lim_{x\to\infty} (1+\frac{1}{x})^{x^{x}}",
    r"\sqrt{" * 400 + "2" + "}" * 400,
    r"\frac{1}{" * 150 + "2" + "}" * 150,
    "(" * 1200 + "1" + ")" * 1200,
    r"\sin(" * 55 + "1" + ")" * 55,
    "1+" * 1800 + "1",
    "9" * 3900,
    ",".join(str(number) for number in range(800)),
    r"\text{" * 700,
)
GOLDS = ("8", r"\sqrt{2}", "x+1")

Pair = tuple[str, str, bool]
"""Gold, completion, and whether it is right."""
Kinds = tuple[Callable[[random.Random], Iterator[Pair]], ...]


def integers(rng: random.Random) -> Iterator[Pair]:
    gold = rng.randint(100, 10**6)
    spelled = (f"{gold}", f"{gold:,}", f"{gold}.0", f" {gold} ")
    yield from ((str(gold), answer, True) for answer in spelled)
    yield from ((str(gold), str(gold + step), False) for step in (-2, -1, 1, 2))


def fractions(rng: random.Random) -> Iterator[Pair]:
    top, bottom = rng.randint(1, 9999), 10007  # a prime
    gold = rf"\frac{{{top}}}{{{bottom}}}"
    doubled = rf"\frac{{{2 * top}}}{{{2 * bottom}}}"
    for answer in (f"{top}/{bottom}", rf"\dfrac{{{top}}}{{{bottom}}}", doubled, rf"\tfrac{{{top}}}{{{bottom}}}"):
        yield gold, answer, True
    for step in range(1, 5):
        yield gold, rf"\frac{{{top + step}}}{{{bottom}}}", False


def radicals(rng: random.Random) -> Iterator[Pair]:
    factor, under = rng.randint(2, 900), rng.choice((2, 3, 5, 6, 7, 10, 11, 13))
    gold = rf"{factor}\sqrt{{{under}}}"
    for answer in (
        rf"\sqrt{{{factor * factor * under}}}",
        rf"\sqrt{{{under}}} \cdot {factor}",
        rf"\frac{{{2 * factor}\sqrt{{{under}}}}}{{2}}",
        rf"{factor}\,\sqrt{{{under}}}",
    ):
        yield gold, answer, True
    for step in range(1, 5):
        yield gold, rf"{factor + step}\sqrt{{{under}}}", False


def polynomials(rng: random.Random) -> Iterator[Pair]:
    one, two = rng.randint(2, 500), rng.randint(2, 500)
    gold = f"x^2+{one + two}x+{one * two}"
    for answer in (
        f"(x+{one})(x+{two})",
        f"{one * two}+{one + two}x+x^2",
        rf"x^{{2}} + {one + two} \cdot x + {one * two}",
        f"x(x+{one + two})+{one * two}",
    ):
        yield gold, answer, True
    for step in range(1, 5):
        yield gold, f"x^2+{one + two + step}x+{one * two}", False


def points(rng: random.Random) -> Iterator[Pair]:
    one, two = rng.randint(-999, 999), rng.randint(1, 999)
    gold = rf"({one}, \frac{{{two}}}{{1009}})"
    for answer in (
        f"({one},{two}/1009)",
        rf"\left({one}, \dfrac{{{two}}}{{1009}}\right)",
        rf"\left( {one} , \frac{{{2 * two}}}{{2018}} \right)",
        rf"({one}, \tfrac{{{two}}}{{1009}})",
    ):
        yield gold, answer, True
    for step in range(1, 5):
        yield gold, f"({one + step},{two}/1009)", False


def decimals(rng: random.Random) -> Iterator[Pair]:
    gold = f"{rng.randint(0, 99)}.{rng.randint(0, 999):03d}5"
    spelled = (f"{gold}0", f"+{gold}", f"{gold.replace('.', '')}/10000", rf"\frac{{{gold.replace('.', '')}}}{{10^4}}")
    yield from ((gold, answer, True) for answer in spelled)
    yield from ((gold, f"{gold}{digit}", False) for digit in "1357")


# Half are plain numbers, for which ours needs no worker: rather fewer than in MATH.
MIXED = (integers, integers, integers, fractions, fractions, radicals, polynomials, polynomials, points, decimals)
EXPRESSIONS = (radicals, polynomials, points)


def make_pairs(kinds: Kinds, golds: int, seed: int) -> list[Pair]:
    """Pairs of `golds` golds, eight completions each."""
    rng = random.Random(seed)
    found = (pair for number in range(golds) for pair in kinds[number % len(kinds)](rng))
    text = "We get several things, so the answer is $\\boxed{{{}}}$."
    return [(gold, text.format(answer), right) for gold, answer, right in found]


def grade_with_math_verify(pairs: Sequence[Pair]) -> list[bool]:
    """What a loop around math-verify's two functions gives, as they come."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it prints each answer that takes too long
    return [bool(verify(parse(f"\\boxed{{{gold}}}"), parse(completion))) for gold, completion, _ in pairs]


def grade(reward: MathReward, pairs: Sequence[Pair]) -> list[bool]:
    """What MathReward gives."""
    golds, completions, _ = zip(*pairs, strict=True)
    return [value == 1.0 for value in reward(completions=completions, solution=golds)]


def compare_rates(name: str, kinds: Kinds, golds: int, options: argparse.Namespace, target: float | None) -> Measure:
    """Pairs graded per second, new pairs in each repeat."""
    sets = [make_pairs(kinds, golds, seed) for seed in range(1 + options.repeats)]
    given_to_ours, given_to_other = iter(sets), iter(sets)
    reward = MathReward(num_workers=WORKERS, timeout_s=DEADLINE_S)

    def ours() -> None:
        pairs = next(given_to_ours)
        if wrong := wrong_of(grade(reward, pairs), pairs):
            raise RuntimeError(
                f"Expected all {len(pairs)} pairs to be graded rightly, got {len(wrong)} wrong: {wrong}."
            )

    def other() -> None:
        pairs = next(given_to_other)
        if wrong := wrong_of(grade_with_math_verify(pairs), pairs):
            print(f"math-verify grades {len(wrong)} of {len(pairs)} wrongly, such as {wrong[0]}", flush=True)

    seconds = interleave(ours, other, options.repeats)
    reward.close()
    rates = ([len(sets[0]) / second for second in side] for side in (seconds.ours, seconds.other))
    return Pairs(*rates, more_is_better=True).measure(name, "pairs/s", options, target)


def wrong_of(verdicts: Sequence[bool], pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that were graded wrongly."""
    return [pair for verdict, pair in zip(verdicts, pairs, strict=True) if verdict != pair[2]]


def longest_of_ours(pairs: Sequence[Pair]) -> float:
    """Seconds that the slowest of some pairs takes, each in a call of its own."""
    reward = MathReward(num_workers=WORKERS, timeout_s=DEADLINE_S)
    grade(reward, [("1", r"\boxed{2+x}", False)])  # warm
    slowest = 0.0
    for pair in pairs:
        started = time.perf_counter()
        grade(reward, [pair])
        slowest = max(slowest, time.perf_counter() - started)
    reward.close()
    return slowest


def longest_of_math_verify(pairs: Sequence[Pair], limit_s: float) -> float:
    """The same of math-verify with its own timeouts. Once one reaches the limit, the limit is the answer."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_seconds, args=(sender, pairs))
    process.start()
    sender.close()
    slowest = 0.0
    receiver.recv()  # it is warm
    for _ in pairs:
        if not receiver.poll(limit_s):
            slowest = limit_s
            break
        try:
            slowest = max(slowest, receiver.recv())
        except EOFError:
            print("math-verify's process died of a hostile answer (its memory is limited)", flush=True)
            break
    process.kill()
    process.join()
    return slowest


def _send_seconds(sender: Any, pairs: Sequence[Pair]) -> None:
    """Runs in the child: seconds of each pair, as they come."""
    resource.setrlimit(resource.RLIMIT_AS, (OTHER_MEMORY, OTHER_MEMORY))
    grade_with_math_verify([("1", r"\boxed{2+x}", False)])
    sender.send("warm")
    for pair in pairs:
        started = time.perf_counter()
        grade_with_math_verify([pair])
        sender.send(time.perf_counter() - started)


def compare_hostile(options: argparse.Namespace) -> list[Measure]:
    """The longest that one hostile answer takes."""
    hostile = (r"f(9^{9^{9}})", "1+" * 100 + "1") if options.quick else HOSTILE
    golds = GOLDS[:1] if options.quick else GOLDS
    pairs = [(gold, f"\\boxed{{{answer}}}", False) for answer in hostile for gold in golds]
    ours = longest_of_ours(pairs)
    # Each costs it up to ten seconds: one gold is enough.
    other = longest_of_math_verify([pair for pair in pairs if pair[0] == golds[0]], OTHER_LIMIT_S)
    name = "Maths grading: longest on hostile input"
    return [
        Pairs([ours], [DEADLINE_S + GRACE_S]).measure(f"{name}, against deadline + 0.5 s", "s", options, 1.0),
        Pairs([ours], [other]).measure(f"{name}, against math-verify's", "s", options),
    ]


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/summary.json", repeats=3)
    golds = 10 if options.quick else 80
    measures = [
        compare_rates("Maths grading: pairs per second", MIXED, golds, options, RATE_TARGET),
        compare_rates("Maths grading: pairs per second, no plain numbers", EXPRESSIONS, golds // 2, options, None),
        *compare_hostile(options),
    ]
    report(measures, options)


if __name__ == "__main__":
    main()
