"""Rollouts: turn 1, the correction prompt, turn 2, and so on, as one row of token ids.

Training makes two turns (`roll_out_two_turns`), evaluation any number (`roll_out_turns`). The engine that generates is
one callable, `(prompts as ids, a budget of each) -> turns`, so that nothing here knows which it is.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from trl_score.records import GeneratedTurn, Rollout
from trl_score.score.prompts import Correction

Budget: TypeAlias = int | Sequence[int]
"""The most tokens of a turn: one number for all prompts, or one for each."""


class GenerateTurn(Protocol):
    """A generation engine: continues each list of ids by one turn of at most so many tokens."""

    def __call__(self, prompt_ids: Sequence[list[int]], max_new_tokens: Sequence[int]) -> list[GeneratedTurn]:
        """
        Generates one turn for each prompt, in order.

        Args:
            prompt_ids (`Sequence[list[int]]`):
                Unpadded ids.
            max_new_tokens (`Sequence[int]`):
                The turn's length budget, one per prompt.

        Returns:
            `list[GeneratedTurn]`: one per prompt. An engine that samples by other numbers than the trainer's model
                gives their log-probabilities with it.
        """
        ...


@dataclass(frozen=True)
class TimedTurns:
    """
    The turns of some rollouts and what they cost.

    Args:
        turns (`list[list[GeneratedTurn]]`):
            For each turn one entry per prompt, in order.
        correction_ids (`list[list[list[int]]]`):
            What stands before turn 2, turn 3, ...: one entry per prompt.
        seconds (`list[float]`):
            Seconds spent generating each turn.
    """

    turns: list[list[GeneratedTurn]]
    correction_ids: list[list[list[int]]]
    seconds: list[float]


def roll_out_turns(
    prompt_ids: Sequence[list[int]],
    corrections: Sequence[Correction | Sequence[Correction]],
    generate: GenerateTurn,
    budgets: Sequence[Budget],
    *,
    offline_turns_1: Sequence[list[int] | None] | None = None,
    on_turn: Callable[[int, list[GeneratedTurn]], None] | None = None,
) -> TimedTurns:
    """
    Lets the policy answer, and asks it again as often as there are corrections.

    A turn's prompt is all that stands before it, token for token.

    Args:
        prompt_ids (`Sequence[list[int]]`):
            P prompts, templated, unpadded.
        corrections (`Sequence[Correction | Sequence[Correction]]`):
            What stands before turn 2, turn 3, ...: the same for all prompts, or one for each.
        generate (`GenerateTurn`):
            The engine. Called once for each turn.
        budgets (`Sequence[int | Sequence[int]]`):
            Most tokens of turn 1, turn 2, ...: the same for all prompts, or one for each.
        offline_turns_1 (`Sequence[list[int] | None]`, *optional*):
            For each prompt the ids of a first turn made beforehand, or `None` where the policy answers itself.
        on_turn (`Callable`, *optional*):
            Called with a turn's number, from 1, and that turn of all prompts, before the next one is generated.

    Returns:
        `TimedTurns`: turns, what stands between them, and seconds.

    Raises:
        `ValueError`: If there is not one budget per turn, or not one entry per prompt.

    Example:

    ```python
    >>> def count_up(prompt_ids, max_new_tokens):
    ...     return [GeneratedTurn([ids[-1] + 1, 0], truncated=False) for ids in prompt_ids]
    >>> correction = Correction(closing_ids=[0], request_ids=[50])
    >>> timed = roll_out_turns([[1, 7]], [correction, correction], count_up, (2, 2, 2))
    >>> [turns[0].token_ids for turns in timed.turns]
    [[8, 0], [51, 0], [51, 0]]

    ```
    """
    if len(budgets) != len(corrections) + 1:
        raise ValueError(
            f"Each turn needs a length budget, got {len(budgets)} budgets for {len(corrections) + 1} turns, of which "
            f"{len(corrections)} follow a correction prompt."
        )
    num_prompts = len(prompt_ids)
    offline = list(offline_turns_1) if offline_turns_1 is not None else [None] * num_prompts
    contexts = [list(ids) for ids in prompt_ids]
    timed = TimedTurns([], [], [])
    for number, budget in enumerate(budgets, start=1):
        if number > 1:
            previous = timed.turns[-1]
            requests = [
                correction.after(turn.token_ids)
                for correction, turn in zip(_one_each(corrections[number - 2], num_prompts), previous, strict=True)
            ]
            contexts = [
                [*context, *turn.token_ids, *request]
                for context, turn, request in zip(contexts, previous, requests, strict=True)
            ]
            timed.correction_ids.append(requests)
        row_budgets = _one_each(budget, num_prompts)
        start = time.perf_counter()
        if number == 1:
            turns = _first_turns(contexts, generate, row_budgets, offline)
        else:
            turns = generate(contexts, row_budgets)
        timed.seconds.append(time.perf_counter() - start)
        timed.turns.append(turns)
        if on_turn is not None:
            on_turn(number, turns)
    return timed


def _one_each(value: Any, num_prompts: int) -> list[Any]:
    """One value for all prompts, or a sequence with one for each, as a list with one for each."""
    if isinstance(value, (int, Correction)):
        return [value] * num_prompts
    if len(value) != num_prompts:
        raise ValueError(f"Expected one budget and one correction per prompt, got {len(value)} for {num_prompts}.")
    return list(value)


@dataclass(frozen=True)
class TimedRollouts:
    """
    Two-turn rollouts and what they cost.

    Args:
        rollouts (`list[Rollout]`):
            One per prompt, in order.
        seconds_t1 (`float`):
            Seconds spent generating turn 1.
        seconds_t2 (`float`):
            Seconds spent generating turn 2.
    """

    rollouts: list[Rollout]
    seconds_t1: float
    seconds_t2: float


def roll_out_two_turns(
    prompt_ids: Sequence[list[int]],
    correction: Correction | Sequence[Correction],
    generate: GenerateTurn,
    budgets: tuple[Budget, Budget],
    *,
    offline_turns_1: Sequence[list[int] | None] | None = None,
    on_turn_1: Callable[[list[GeneratedTurn]], None] | None = None,
) -> TimedRollouts:
    """
    Lets the policy answer, asks it to look again, and lets it answer again.

    Turn 2's prompt is prompt ids + turn 1's ids + correction ids, token for token.

    Args:
        prompt_ids (`Sequence[list[int]]`):
            The prompts, templated, unpadded.
        correction (`Correction` or `Sequence[Correction]`):
            What stands between the turns: the same for all prompts, or one for each.
        generate (`GenerateTurn`):
            The engine. Called once for each turn.
        budgets (`tuple`):
            Most tokens of turn 1 and of turn 2: a number for all prompts, or one for each.
        offline_turns_1 (`Sequence[list[int] | None]`, *optional*):
            For each prompt the ids of a first turn made beforehand, or `None` where the policy answers itself.
        on_turn_1 (`Callable`, *optional*):
            Called with all first turns before turn 2 is generated, so that they can be scored meanwhile.

    Returns:
        `TimedRollouts`: one rollout per prompt, in order.

    Example:

    ```python
    >>> def count_up(prompt_ids, max_new_tokens):
    ...     return [GeneratedTurn([ids[-1] + 1, 0], truncated=False) for ids in prompt_ids]
    >>> correction = Correction(closing_ids=[0], request_ids=[50])
    >>> roll_out_two_turns([[1, 7]], correction, count_up, (2, 2)).rollouts[0].completion_ids
    [8, 0, 50, 51, 0]

    ```
    """

    def hand_out_turn_1(number: int, turns: list[GeneratedTurn]) -> None:
        if number == 1 and on_turn_1 is not None:
            on_turn_1(turns)

    timed = roll_out_turns(
        prompt_ids, [correction], generate, budgets, offline_turns_1=offline_turns_1, on_turn=hand_out_turn_1
    )
    is_offline = (
        [ids is not None for ids in offline_turns_1] if offline_turns_1 is not None else [False] * len(prompt_ids)
    )
    rollouts = [
        Rollout(list(prompt), turn_1, request, turn_2, is_turn_1_offline=is_given)
        for prompt, turn_1, request, turn_2, is_given in zip(
            prompt_ids, timed.turns[0], timed.correction_ids[0], timed.turns[1], is_offline, strict=True
        )
    ]
    return TimedRollouts(rollouts, *timed.seconds)


def _first_turns(
    prompt_ids: Sequence[list[int]],
    generate: GenerateTurn,
    budgets: Sequence[int],
    offline: Sequence[list[int] | None],
) -> list[GeneratedTurn]:
    """The policy's first turns, with offline ones in their places."""
    rows = list(zip(prompt_ids, budgets, offline, strict=True))
    # Generating is a collective operation where weights are sharded, so a process without a prompt takes part too.
    online = [(prompt, budget) for prompt, budget, ids in rows if ids is None] or [(prompt_ids[0], budgets[0])]
    generated = iter(generate([prompt for prompt, _ in online], [budget for _, budget in online]))
    return [
        next(generated) if ids is None else GeneratedTurn(list(ids[:budget]), len(ids) > budget)
        for _, budget, ids in rows
    ]
