"""A reward function that is stuck is an error that names it and its row, wherever it runs; and never a hang."""

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from trl_score.score.scoring_watch import BackgroundThread, ScoringWatch, find_row
from trl_score.score.turn_rewards import AsyncTurnReward, TurnContext, TurnReward

TEXTS = ["4", "loops for ever", "5"]
CHAT = [[{"role": "assistant", "content": text}] for text in TEXTS]


def text_of(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]


def slow(completions: list[Any], **columns: Any) -> list[float]:
    return [judge(text_of(completion)) for completion in completions]


def judge(text: str) -> float:
    if text.startswith("loops"):
        while True:  # in Python's own code
            time.sleep(0.001)
    return 1.0


def sleeps(completions: list[Any], **columns: Any) -> list[float]:
    texts = [text_of(completion) for completion in completions]
    for text in texts:
        time.sleep(60.0 if text.startswith("loops") else 0.0)
    return [1.0] * len(texts)


@pytest.fixture
def context() -> TurnContext:
    return TurnContext(watch=ScoringWatch(1.0))


@pytest.fixture
def patient() -> TurnContext:
    return TurnContext(watch=ScoringWatch(30.0))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def message(name: str, turn: int, row: int = 1) -> str:
    return (
        rf"Reward function '{name}' has not scored turn {turn} within 1 seconds, and is at row {row} \(.*loops for "
        r"ever.*\), in line \d+ of .*test_scoring_watch\.py\. Let it give up sooner"
    )


# Where a function can be stuck


@pytest.mark.parametrize("completions", [TEXTS, CHAT], ids=["texts", "chat"])
@pytest.mark.parametrize("func", [slow, sleeps])
def test_function_in_the_main_thread_is_interrupted(func, completions, context):
    reward = TurnReward(func, "judge", context)
    context.turn = 2
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=message("judge", 2)), context.watch.one_turn():
        reward(completions=completions)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("func", [slow, sleeps])
def test_function_in_the_background_is_left_behind(func, context):
    reward = TurnReward(func, "judge", context)
    reward.start(BackgroundThread(), completions=CHAT)
    with pytest.raises(TimeoutError, match=message("judge", 1)), context.watch.one_turn():
        reward(completions=CHAT)


def test_function_that_waits_for_another_in_the_background_is_not_blamed(context):
    background = BackgroundThread()
    stuck, waiting = TurnReward(slow, "stuck", context), TurnReward(slow, "waiting", context)
    for reward in (stuck, waiting):
        reward.start(background, completions=CHAT)
    with pytest.raises(TimeoutError, match=message("stuck", 1)), context.watch.one_turn():
        waiting(completions=CHAT)


@pytest.mark.parametrize("is_ahead", [True, False])
def test_coroutine_is_cancelled(is_ahead, context, loop):
    cancelled = threading.Event()

    async def ask(text: str) -> float:
        try:
            await asyncio.sleep(60 if text.startswith("loops") else 0)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 1.0

    async def asks(completions: list[Any], **columns: Any) -> list[float]:
        return list(await asyncio.gather(*(ask(text_of(completion)) for completion in completions)))

    reward = AsyncTurnReward(asks, "asks", context)
    if is_ahead:
        reward.start(loop, completions=CHAT)
    with pytest.raises(TimeoutError, match=message("asks", 1)), context.watch.one_turn():
        asyncio.run_coroutine_threadsafe(reward(completions=CHAT), loop).result(timeout=10)
    assert cancelled.wait(timeout=10)


def test_regular_expression_that_holds_pythons_lock_ends_the_process():
    program = """
        import re
        from trl_score.score.scoring_watch import ScoringWatch
        from trl_score.score.turn_rewards import TurnContext, TurnReward

        def catastrophe(completions, **columns):
            return [float(bool(re.fullmatch("(a+)+b", completion))) for completion in completions]

        context = TurnContext(watch=ScoringWatch(0.5))
        with context.watch.one_turn():
            TurnReward(catastrophe, "catastrophe", context)(completions=["ab", "a" * 64])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Timeout (0:00:00.750000)!" in done.stderr and "in catastrophe" in done.stderr


# What is left alone


def test_function_in_time_is_left_alone(context):
    reward = TurnReward(lambda completions, **columns: [1.0] * len(completions), "quick", context)
    for _ in range(20):
        with context.watch.one_turn():
            assert reward(completions=TEXTS) == [1.0, 1.0, 1.0]
    time.sleep(1.2)  # no interrupt comes late
    assert context.watch.seconds_left is None


def test_without_a_limit_nothing_is_watched():
    context = TurnContext()
    with context.watch.one_turn():
        assert context.watch.seconds_left is None
        assert TurnReward(lambda completions, **columns: [0.0], "quick", context)(completions=["4"]) == [0.0]


def test_somebody_at_the_keyboard_is_heard(patient):
    def interrupted(completions: list[Any], **columns: Any) -> list[float]:
        signal.raise_signal(signal.SIGINT)
        return [0.0]

    with pytest.raises(KeyboardInterrupt), patient.watch.one_turn():
        TurnReward(interrupted, "interrupted", patient)(completions=["4"])


def test_error_of_the_function_itself_is_its_own(patient):
    def times_out(completions: list[Any], **columns: Any) -> list[float]:
        raise TimeoutError("the judge's server does not answer")

    for start in (True, False):
        reward = TurnReward(times_out, "times_out", patient)
        if start:
            reward.start(BackgroundThread(), completions=["4"])
        with pytest.raises(TimeoutError, match="the judge's server does not answer"), patient.watch.one_turn():
            reward(completions=["4"])


# The row


def frames(*locals_of_frames: dict[str, Any]) -> list[Any]:
    return [type("Frame", (), {"f_locals": names})() for names in locals_of_frames]


def test_innermost_frame_and_last_variable_decide():
    outer, inner = {"completion": TEXTS[0]}, {"first": TEXTS[0], "text": TEXTS[2]}
    assert find_row(frames(inner, outer), TEXTS) == 2
    assert find_row(frames({"other": 1}, outer), TEXTS) == 0
    assert find_row(frames({"message": CHAT[1][0]}), CHAT) == 1


def test_what_two_rows_share_tells_nothing():
    assert find_row(frames({"text": TEXTS[0]}), [TEXTS[0], TEXTS[0]]) is None
    assert find_row([], TEXTS) is None


def test_unknown_row_is_said(context):
    def hides(completions: list[Any], **columns: Any) -> list[float]:
        time.sleep(60)
        return []

    with pytest.raises(TimeoutError, match=r"and is at an unknown row, in line \d+"), context.watch.one_turn():
        TurnReward(hides, "hides", context)(completions=TEXTS)


# The background thread


def test_calls_run_one_after_the_other_and_errors_reach_who_waits():
    started, order = [], []
    background = BackgroundThread(lambda: started.append(threading.current_thread().name))

    def call(number: int) -> int:
        order.append(number)
        time.sleep(0.02 * (3 - number))
        if number == 1:
            raise ValueError("one")
        return number

    futures = [background.submit(call, number) for number in range(3)]
    assert (futures[0].result(), futures[2].result()) == (0, 2)
    with pytest.raises(ValueError, match="one"):
        futures[1].result()
    assert order == [0, 1, 2]
    assert started == ["score-turn-1"] * 3
