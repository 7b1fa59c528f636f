"""
The trace sets of STaR and Pair-SFT (SCoRe, section 4): which of a model's two-turn samples it is fine-tuned on.

Pure functions of traces. In the paper's notation a trace is (x, y, y+): a problem, a first turn, a right second turn.

    D_STaR    {(x, y-, y+)}: wrong turn 1, right turn 2, both of one sampled rollout
    D+_STaR   and (x, y+, y+): right turn 1, right turn 2 of one rollout
    D_SFT     {(x, y-, y~+)}: wrong turn 1, and any right answer to the same x from all first and second turns
    D+_SFT    and (x, y+, y~+): right turn 1 likewise

What the paper leaves open, and our choice: a turn that its length budget cut is never learned from, though its answer
may be right, as it does not end; a turn that could not be scored is neither right nor wrong, so its trace is left out;
a right first turn may be drawn as its own y~+; a trace that was sampled twice counts twice.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trl_score.baselines.methods import TraceSetName
from trl_score.records import RIGHT_ABOVE, GeneratedTurn, Rollout


@dataclass(frozen=True)
class Trace:
    """
    Two turns of one problem, as tokens and as texts, and their rewards.

    Args:
        problem (`int`):
            Row of the dataset that the prompt comes from.
        rollout (`Rollout`):
            The tokens.
        texts (`tuple[str, str]`):
            What turn 1 and turn 2 say.
        rewards (`tuple`):
            Reward of turn 1 and turn 2; `None` where a turn could not be scored.
    """

    problem: int
    rollout: Rollout
    texts: tuple[str, str]
    rewards: tuple[float | None, float | None]

    @property
    def is_right_t1(self) -> bool:
        """`bool`: Whether turn 1 was scored and is right."""
        return _is_right(self.rewards[0])

    @property
    def is_wrong_t1(self) -> bool:
        """`bool`: Whether turn 1 was scored and is wrong."""
        return self.rewards[0] is not None and not self.is_right_t1

    @property
    def is_right_t2(self) -> bool:
        """`bool`: Whether turn 2 was scored and is right."""
        return _is_right(self.rewards[1])

    @property
    def answers(self) -> "list[Answer]":
        """`list[Answer]`: Both turns, each on its own."""
        turns = (self.rollout.turn_1, self.rollout.turn_2)
        return [Answer(*parts) for parts in zip(turns, self.texts, self.rewards, strict=True)]


@dataclass(frozen=True)
class Answer:
    """
    One turn, whichever it was.

    Args:
        turn (`GeneratedTurn`):
            Its tokens.
        text (`str`):
            Its text.
        reward (`float`, *optional*):
            Its reward.
    """

    turn: GeneratedTurn
    text: str
    reward: float | None

    @property
    def is_target(self) -> bool:
        """`bool`: Whether it may be learned from: it is right, and it ends by itself."""
        return _is_right(self.reward) and not self.turn.truncated


def _is_right(reward: float | None) -> bool:
    return reward is not None and reward > RIGHT_ABOVE


def make_trace_set(name: TraceSetName, traces: Sequence[Trace], *, seed: int | str = 0) -> list[Trace]:
    """
    Makes one of the paper's four sets.

    Args:
        name (`str`):
            `"D_STaR"`, `"D+_STaR"`, `"D_SFT"` or `"D+_SFT"`.
        traces (`Sequence[Trace]`):
            Sampled two-turn traces.
        seed (`int` or `str`, *optional*, defaults to `0`):
            Of the draw of y~+, for the last two.

    Returns:
        `list[Trace]`: the traces to be fine-tuned on.

    Raises:
        `ValueError`: If the set would be empty; the message says what was sampled and what to do.

    Example: one problem, answered wrongly and then rightly; D_STaR has this trace, D_SFT the same pair.

    ```python
    >>> rollout = Rollout([1], GeneratedTurn([4, 2], False), [7], GeneratedTurn([5, 2], False))
    >>> trace = Trace(0, rollout, ("4", "5"), (0.0, 1.0))
    >>> [len(make_trace_set(name, [trace])) for name in ("D_STaR", "D+_STaR", "D_SFT", "D+_SFT")]
    [1, 1, 1, 1]
    >>> kept = Trace(0, rollout, ("5", "5"), (1.0, 1.0))
    >>> [len(make_trace_set(name, [trace, kept])) for name in ("D_STaR", "D+_STaR", "D_SFT", "D+_SFT")]
    [1, 2, 1, 2]

    ```
    """
    keeps_right = name.startswith("D+")
    if name in ("D_STaR", "D+_STaR"):
        chosen = star_traces(traces, keeps_right=keeps_right)
    else:
        chosen = pair_traces(traces, keeps_right=keeps_right, seed=seed)
    if not chosen:
        raise ValueError(_nothing_to_learn(name, traces))
    return chosen


def star_traces(traces: Sequence[Trace], *, keeps_right: bool = False) -> list[Trace]:
    """
    Chooses the rollouts that went from a wrong turn 1 to a right turn 2.

    Args:
        traces (`Sequence[Trace]`):
            Sampled traces.
        keeps_right (`bool`, *optional*, defaults to `False`):
            Whether to choose those too that were right in both turns (D+).

    Returns:
        `list[Trace]`: some of them, in order.
    """
    return [trace for trace in traces if _starts_well(trace, keeps_right) and trace.answers[1].is_target]


def pair_traces(traces: Sequence[Trace], *, keeps_right: bool = False, seed: int | str = 0) -> list[Trace]:
    """
    Puts a random right answer to the same problem behind each wrong first turn.

    Args:
        traces (`Sequence[Trace]`):
            Sampled traces.
        keeps_right (`bool`, *optional*, defaults to `False`):
            Whether to put one behind each right first turn too (D+).
        seed (`int` or `str`, *optional*, defaults to `0`):
            Of the draw.

    Returns:
        `list[Trace]`: one for each first turn whose problem was answered rightly in some turn, in order.
    """
    targets: dict[int, list[Answer]] = {}
    for trace in traces:
        targets.setdefault(trace.problem, []).extend(answer for answer in trace.answers if answer.is_target)
    rng = random.Random(f"{seed}")
    return [
        _followed_by(trace, rng.choice(targets[trace.problem]))
        for trace in traces
        if _starts_well(trace, keeps_right) and targets[trace.problem]
    ]


def _starts_well(trace: Trace, keeps_right: bool) -> bool:
    return trace.is_wrong_t1 or (keeps_right and trace.is_right_t1)


def _followed_by(trace: Trace, answer: Answer) -> Trace:
    return Trace(
        trace.problem,
        replace(trace.rollout, turn_2=answer.turn),
        (trace.texts[0], answer.text),
        (trace.rewards[0], answer.reward),
    )


def _nothing_to_learn(name: str, traces: Sequence[Trace]) -> str:
    corrected = sum(trace.is_wrong_t1 and trace.is_right_t2 for trace in traces)
    right_t1, right_t2 = (
        sum(is_right) for is_right in ([t.is_right_t1 for t in traces], [t.is_right_t2 for t in traces])
    )
    return (
        f"{name} needs at least one trace to be fine-tuned on, got none of {len(traces)} sampled rollouts: turn 1 was "
        f"right in {right_t1}, turn 2 in {right_t2}, {corrected} went from wrong to right, and a turn that its length "
        "budget cut is not learned from. Raise `max_completion_length` if turns are cut, sample more (`max_steps`), or "
        "take a base model that is right more often."
    )


def fine_tuning_row(trace: Trace, *, learns_right_turn_1: bool = False) -> dict[str, Any]:
    """
    A trace as SFTTrainer takes it: the very tokens that were sampled, and which of them are learned from.

    Args:
        trace (`Trace`):
            The trace.
        learns_right_turn_1 (`bool`, *optional*, defaults to `False`):
            Whether turn 1 is learned from too where it is right. A wrong one never is.

    Returns:
        `dict`: `input_ids`, and `completion_mask` with 1 on the tokens to learn from.

    Example:

    ```python
    >>> rollout = Rollout([1], GeneratedTurn([4, 2], False), [7], GeneratedTurn([5, 2], False))
    >>> fine_tuning_row(Trace(0, rollout, ("4", "5"), (0.0, 1.0)))
    {'input_ids': [1, 4, 2, 7, 5, 2], 'completion_mask': [0, 0, 0, 0, 1, 1]}

    ```
    """
    learned = {2, 1} if learns_right_turn_1 and trace.answers[0].is_target else {2}
    rollout = trace.rollout
    mask = [int(turn in learned) for turn in rollout.turn_of_token]
    return {
        "input_ids": [*rollout.prompt_ids, *rollout.completion_ids],
        "completion_mask": [0] * len(rollout.prompt_ids) + mask,
    }


def trace_rows(name: TraceSetName, traces: Sequence[Trace], dataset: Any) -> Iterator[dict[str, Any]]:
    """
    A trace set as text, beside what the dataset has for each problem.

    Args:
        name (`str`):
            The set's name, written into every row.
        traces (`Sequence[Trace]`):
            The set.
        dataset ([`~datasets.Dataset`]):
            The problems: row `trace.problem` is a trace's.

    Yields:
        `dict`: the problem's columns (`prompt`, and what rewards read), `turn_1`, `turn_2`, `rewards`, `set` and
            `problem`.
    """
    for trace in traces:
        turn_1, turn_2 = trace.texts
        own = {"turn_1": turn_1, "turn_2": turn_2, "rewards": list(trace.rewards), "set": name}
        yield {**dataset[trace.problem], **own, "problem": trace.problem}
