"""Reward functions see one turn at a time, and what they return is checked."""

import asyncio
import functools
import logging
import math
import signal
import threading
import time

import numpy as np
import pytest
import torch

from trl_score.score.scoring_watch import BackgroundThread
from trl_score.score.turn_rewards import AsyncTurnReward, TurnContext, TurnReward, check_turn_rewards

FIRST, SECOND = ["4", "five"], ["4", "5"]
MAIN_THREAD = threading.main_thread().name


@pytest.fixture
def background():
    return BackgroundThread()


@pytest.fixture
def loop():
    """An event loop in a thread, as TRL runs one for its asynchronous reward functions."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def arguments(completions, **columns):
    """What TRL gives to a reward function."""
    return {
        "prompts": ["2 + 2 =", "2 + 3 ="],
        "completions": completions,
        "completion_ids": [[1], [2, 3]],
        "trainer_state": None,
        **columns,
    }


class Recorder:
    """A reward function that notes the arguments of every call, and the thread that it runs in."""

    def __init__(self):
        self.calls = []
        self.threads = []

    def __call__(self, completions, **kwargs):
        self.calls.append({"completions": completions, **kwargs})
        self.threads.append(threading.current_thread().name)
        return [float(len(completion)) for completion in completions]


def await_on(loop, coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=10)


# What may be returned


@pytest.mark.parametrize(
    "values",
    [
        [1, None, 0.5],
        (1.0, None, 0.5),
        np.array([1.0, None, 0.5], dtype=object),
        [np.float32(1.0), None, torch.tensor(0.5)],
        [True, None, 0.5],
        iter([1, None, 0.5]),
    ],
)
def test_numbers_of_any_kind_become_floats_and_none_stays(values):
    rewards = check_turn_rewards(values, 3, name="accuracy", turn=1)
    assert rewards == [1.0, None, 0.5]
    assert [type(reward) for reward in rewards] == [float, type(None), float]


def test_tensor_of_rewards():
    assert check_turn_rewards(torch.tensor([1.0, 0.25]), 2, name="accuracy", turn=1) == [1.0, 0.25]


@pytest.mark.parametrize(("values", "count"), [([1.0], 1), ([1.0, 0.0, 1.0], 3), ([], 0)])
def test_wrong_number_names_the_function_and_the_turn(values, count):
    with pytest.raises(
        ValueError, match=rf"'accuracy' returned {count} rewards for the 2 completions of turn 2\. Return exactly one"
    ):
        check_turn_rewards(values, 2, name="accuracy", turn=2)


@pytest.mark.parametrize(("value", "kind"), [(None, "NoneType"), (1.0, "float"), (True, "bool")])
def test_what_is_no_sequence_is_refused(value, kind):
    with pytest.raises(
        TypeError, match=rf"'accuracy' must return one number .*, got {kind} for turn 1\. Return a list of 2"
    ):
        check_turn_rewards(value, 2, name="accuracy", turn=1)


@pytest.mark.parametrize(
    ("value", "kind"), [("1.0", "str"), (b"1", "bytes"), ([1.0], "list"), ({"reward": 1}, "dict"), (1j, "complex")]
)
def test_what_is_no_number_names_the_function_and_the_row(value, kind):
    with pytest.raises(
        TypeError, match=rf"(?s)'accuracy' returned .* of type {kind} for row 1 of turn 2; expected a number or None"
    ):
        check_turn_rewards([0.0, value], 2, name="accuracy", turn=2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.nan)])
def test_nan_and_infinity_name_the_function_and_the_row(value):
    with pytest.raises(
        ValueError, match=r"'accuracy' returned (nan|-?inf) for row 2 of turn 1; expected a finite number, or None"
    ):
        check_turn_rewards([0.0, None, value], 3, name="accuracy", turn=1)


# What a function is given


def test_function_of_grpo_sees_one_turn_and_nothing_else():
    recorder, context = Recorder(), TurnContext()
    reward = TurnReward(recorder, "length", context)
    for context.turn, completions in ((1, FIRST), (2, SECOND)):
        context.completions_t1 = FIRST
        given = arguments(completions, solution=["4", "5"])
        assert reward(**given) == [float(len(completion)) for completion in completions]
        assert recorder.calls[-1] == given


def test_turn_and_first_turns_go_to_those_that_name_them():
    def improves(completions, turn, completions_t1, **kwargs):
        return [float(turn == 2 and now != before) for now, before in zip(completions, completions_t1, strict=True)]

    context = TurnContext(turn=1, completions_t1=FIRST)
    reward = TurnReward(improves, "improves", context)
    assert reward(**arguments(FIRST)) == [0.0, 0.0]
    context.turn = 2
    assert reward(**arguments(SECOND)) == [0.0, 1.0]


@pytest.mark.parametrize("name", ["turn", "completions_t1"])
def test_only_the_argument_that_is_named_is_given(name):
    calls = []
    functions = {
        "turn": lambda turn, **kwargs: calls.append((turn, kwargs)) or [0.0, 0.0],
        "completions_t1": lambda completions_t1, **kwargs: calls.append((completions_t1, kwargs)) or [0.0, 0.0],
    }
    TurnReward(functions[name], "named", TurnContext(2, FIRST))(**arguments(SECOND))
    value, others = calls[0]
    assert value == {"turn": 2, "completions_t1": FIRST}[name]
    assert not {"turn", "completions_t1"} & set(others)


def test_exact_signature_without_further_keywords():
    def exact(prompts, completions, completion_ids, trainer_state, solution, *, turn):
        return [float(completion == right) for completion, right in zip(completions, solution, strict=True)]

    reward = TurnReward(exact, "exact", TurnContext(2, FIRST))
    assert reward(**arguments(SECOND, solution=["4", "6"])) == [1.0, 0.0]


def test_methods_partials_and_objects_may_name_turn_arguments_too():
    class Grader:
        def __call__(self, completions, turn, **kwargs):
            return [float(turn)] * len(completions)

        def grade(self, completions, turn, **kwargs):
            return [float(turn)] * len(completions)

    def scaled(completions, turn, scale, **kwargs):
        return [scale * turn] * len(completions)

    for function in (Grader(), Grader().grade, functools.partial(scaled, scale=1.0)):
        assert TurnReward(function, "grader", TurnContext(2))(**arguments(SECOND)) == [2.0, 2.0]


def test_a_columns_own_turn_is_left_to_functions_that_do_not_name_it():
    # A dataset of dialogues may well have a column of that name.
    recorder = Recorder()
    TurnReward(recorder, "length", TurnContext(2))(**arguments(SECOND, turn=[7, 8]))
    assert recorder.calls[0]["turn"] == [7, 8]


def test_logged_columns_and_metrics_are_those_of_the_turn():
    extra, metrics = {}, {}

    def logging_reward(completions, log_extra, log_metric, **kwargs):
        log_extra("parsed", list(completions))
        log_metric("share", 0.5)
        return [0.0, 0.0]

    context = TurnContext()
    reward = TurnReward(logging_reward, "logging", context)
    for context.turn, completions in ((1, FIRST), (2, SECOND)):
        reward(**arguments(completions, log_extra=extra.__setitem__, log_metric=metrics.__setitem__))
    assert extra == {"parsed_t1": FIRST, "parsed_t2": SECOND}
    assert metrics == {"share_t1": 0.5, "share_t2": 0.5}


def test_first_turns_are_handed_out_as_a_copy():
    def greedy_hands(completions, completions_t1, **kwargs):
        completions_t1.clear()
        return [0.0, 0.0]

    context = TurnContext(2, list(FIRST))
    TurnReward(greedy_hands, "greedy", context)(**arguments(SECOND))
    assert context.completions_t1 == FIRST


def test_name_is_kept_for_the_logs():
    assert TurnReward(Recorder(), "length", TurnContext()).__name__ == "length"
    assert AsyncTurnReward(Recorder(), "length", TurnContext()).__name__ == "length"


# Errors of the function itself


def raise_value_error(completions, **kwargs):
    raise ValueError("no such problem: row 3")


def test_exception_surfaces_as_it_is_with_the_place():
    reward = TurnReward(raise_value_error, "grader", TurnContext(turn=2))
    with pytest.raises(ValueError, match="no such problem: row 3") as raised:
        reward(**arguments(SECOND))
    assert raised.value.__notes__ == ["Raised by reward function 'grader' while it scored turn 2."]


def test_wrong_result_is_found_when_called():
    with pytest.raises(ValueError, match="'short' returned 1 rewards for the 2 completions of turn 1"):
        TurnReward(lambda **kwargs: [1.0], "short", TurnContext())(**arguments(FIRST))


# Scoring turn 1 ahead


def test_turn_1_is_scored_ahead_in_the_background_and_once(background):
    recorder, context = Recorder(), TurnContext()
    reward = TurnReward(recorder, "length", context)
    given = arguments(FIRST, solution=["4", "5"])
    reward.start(background, **given)
    assert reward(**given) == [1.0, 4.0]
    assert recorder.calls == [given]
    assert recorder.threads[0] == "score-turn-1"
    context.turn = 2
    assert reward(**arguments(SECOND)) == [1.0, 1.0]
    assert [call["completions"] for call in recorder.calls] == [FIRST, SECOND]
    assert recorder.threads[1] == MAIN_THREAD


def test_scoring_ahead_runs_while_the_main_thread_goes_on(background):
    generated = threading.Event()

    def waits(completions, **kwargs):
        assert generated.wait(timeout=10)
        return [1.0, 0.0]

    reward = TurnReward(waits, "waits", TurnContext())
    reward.start(background, **arguments(FIRST))  # would block here if it ran at once
    generated.set()
    assert reward(**arguments(FIRST)) == [1.0, 0.0]


def test_result_scored_ahead_is_never_used_for_turn_2(background):
    recorder = Recorder()
    reward = TurnReward(recorder, "length", TurnContext(turn=2, completions_t1=FIRST))
    reward.start(background, **arguments(FIRST))
    assert reward(**arguments(SECOND)) == [1.0, 1.0]


def test_result_scored_ahead_is_used_once(background):
    recorder = Recorder()
    reward = TurnReward(recorder, "length", TurnContext())
    reward.start(background, **arguments(FIRST))
    assert reward(**arguments(FIRST)) == [1.0, 4.0]
    assert reward(**arguments(SECOND)) == [1.0, 1.0]  # the next batch's first turns
    assert len(recorder.calls) == 2


def test_scoring_ahead_knows_that_it_is_turn_1(background):
    calls = []

    def names_all(completions, turn, completions_t1, log_extra, **kwargs):
        calls.append((turn, completions_t1))
        log_extra("parsed", completions)
        return [0.0, 0.0]

    extra, context = {}, TurnContext(turn=2, completions_t1=["of the", "last batch"])
    reward = TurnReward(names_all, "names_all", context)
    given = arguments(FIRST, log_extra=extra.__setitem__)
    reward.start(background, **given)
    context.turn = 1
    reward(**given)
    assert calls == [(1, FIRST)]
    assert extra == {"parsed_t1": FIRST}


def test_exception_in_the_background_surfaces_with_the_place(background):
    reward = TurnReward(raise_value_error, "grader", TurnContext())
    reward.start(background, **arguments(FIRST))
    with pytest.raises(ValueError, match="no such problem: row 3") as raised:
        reward(**arguments(FIRST))
    assert raised.value.__notes__ == ["Raised by reward function 'grader' while it scored turn 1."]
    assert reward.can_run_in_thread


def test_wrong_result_in_the_background_surfaces(background):
    reward = TurnReward(lambda **kwargs: [math.nan, 0.0], "broken", TurnContext())
    reward.start(background, **arguments(FIRST))
    with pytest.raises(ValueError, match="'broken' returned nan for row 0 of turn 1"):
        reward(**arguments(FIRST))


def with_alarm(completions, **kwargs):
    """Guards itself with an alarm, as graders of mathematics do."""
    previous = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, previous)
    return [1.0, 0.0]


def with_wrapped_alarm(completions, **kwargs):
    """The same, with the library's own words on top, as math-verify has them."""
    try:
        return with_alarm(completions)
    except ValueError as error:
        raise ValueError("This library doesn't support threaded environment due to usage of signal.alarm()") from error


@pytest.mark.parametrize("function", [with_alarm, with_wrapped_alarm])
def test_function_of_the_main_thread_falls_back_to_it_with_one_warning(background, caplog, function):
    reward = TurnReward(function, "alarmed", TurnContext())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            reward.start(background, **arguments(FIRST))
            assert reward(**arguments(FIRST)) == [1.0, 0.0]
    assert len(caplog.messages) == 1
    assert "'alarmed' works in the main thread only" in caplog.messages[0]
    assert not reward.can_run_in_thread


def test_math_verify_falls_back_to_the_main_thread(background, caplog):
    math_verify = pytest.importorskip("math_verify")

    def verified(completions, solution, **kwargs):
        pairs = zip(solution, completions, strict=True)
        return [float(math_verify.verify(math_verify.parse(gold), math_verify.parse(text))) for gold, text in pairs]

    reward = TurnReward(verified, "verified", TurnContext())
    given = arguments(["$4$", "$\\frac{10}{2}$"], solution=["$4$", "$6$"])
    reward.start(background, **given)
    with caplog.at_level(logging.WARNING):
        assert reward(**given) == [1.0, 0.0]
    assert not reward.can_run_in_thread


# Asynchronous functions


def test_async_function_scores_turn_1_ahead_on_the_loop_and_once(loop):
    calls = []

    async def by_length(completions, turn, **kwargs):
        calls.append((turn, completions))
        await asyncio.sleep(0)
        return [len(completion) for completion in completions]

    context = TurnContext()
    reward = AsyncTurnReward(by_length, "by_length", context)
    reward.start(loop, **arguments(FIRST))
    assert await_on(loop, reward(**arguments(FIRST))) == [1.0, 4.0]
    context.turn = 2
    assert await_on(loop, reward(**arguments(SECOND))) == [1.0, 1.0]
    assert calls == [(1, FIRST), (2, SECOND)]


def test_async_function_runs_while_the_main_thread_goes_on(loop):
    started = threading.Event()

    async def slow(completions, **kwargs):
        started.set()
        await asyncio.sleep(0.01)
        return [1.0, 0.0]

    reward = AsyncTurnReward(slow, "slow", TurnContext())
    reward.start(loop, **arguments(FIRST))
    assert started.wait(timeout=10)  # before anyone asked for the result
    assert await_on(loop, reward(**arguments(FIRST))) == [1.0, 0.0]


def test_async_result_scored_ahead_is_never_used_for_turn_2(loop):
    async def by_length(completions, **kwargs):
        return [len(completion) for completion in completions]

    reward = AsyncTurnReward(by_length, "by_length", TurnContext(turn=2))
    reward.start(loop, **arguments(FIRST))
    assert await_on(loop, reward(**arguments(SECOND))) == [1.0, 1.0]


@pytest.mark.parametrize("is_ahead", [True, False], ids=["ahead", "when asked"])
def test_async_exception_surfaces_with_the_place(loop, is_ahead):
    async def crashes(completions, **kwargs):
        raise KeyError("solution")

    reward = AsyncTurnReward(crashes, "crashes", TurnContext())
    if is_ahead:
        reward.start(loop, **arguments(FIRST))
    with pytest.raises(KeyError, match="solution") as raised:
        await_on(loop, reward(**arguments(FIRST)))
    assert raised.value.__notes__ == ["Raised by reward function 'crashes' while it scored turn 1."]


@pytest.mark.parametrize("values", [[1.0], [math.nan, 0.0], ["1", 0.0]])
def test_async_result_is_checked_too(loop, values):
    async def wrong(completions, **kwargs):
        return values

    with pytest.raises((ValueError, TypeError), match=r"Reward function 'wrong' returned .* turn 1"):
        await_on(loop, AsyncTurnReward(wrong, "wrong", TurnContext())(**arguments(FIRST)))


def test_two_functions_are_scored_ahead_one_after_the_other(background):
    # One worker: reward functions that share state need no lock of their own.
    running, most_running = [], []

    def careful(completions, **kwargs):
        running.append(1)
        most_running.append(len(running))
        time.sleep(0.01)
        running.pop()
        return [0.0, 0.0]

    rewards = [TurnReward(careful, name, TurnContext()) for name in ("a", "b")]
    for reward in rewards:
        reward.start(background, **arguments(FIRST))
    assert [reward(**arguments(FIRST)) for reward in rewards] == [[0.0, 0.0]] * 2
    assert max(most_running) == 1
