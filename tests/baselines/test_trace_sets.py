"""The paper's four trace sets on hand-made traces, and the rows that SFTTrainer gets of them."""

import pytest
from datasets import Dataset

from trl_score.baselines.trace_sets import Trace, fine_tuning_row, make_trace_set, pair_traces, star_traces, trace_rows
from trl_score.records import GeneratedTurn, Rollout

# Tokens say where they come from: turn 1 of trace k is [10 k + 1, 9], its turn 2 [10 k + 2, 9], where 9 ends a turn.
WRONG, RIGHT = 0.0, 1.0


def trace(number, problem, reward_t1, reward_t2, *, cut_t1=False, cut_t2=False):
    turn_1 = GeneratedTurn([10 * number + 1] + [9] * (not cut_t1), cut_t1)
    turn_2 = GeneratedTurn([10 * number + 2] + [9] * (not cut_t2), cut_t2)
    correction = [9, 7] if cut_t1 else [7]
    rollout = Rollout([1000 + problem], turn_1, correction, turn_2)
    return Trace(problem, rollout, (f"{number}.1", f"{number}.2"), (reward_t1, reward_t2))


TRACES = [
    trace(1, 0, WRONG, RIGHT),
    trace(2, 0, WRONG, WRONG),
    trace(3, 0, RIGHT, RIGHT),
    trace(4, 0, RIGHT, WRONG),
    trace(5, 1, WRONG, WRONG),
    trace(6, 1, WRONG, RIGHT),
    trace(7, 2, WRONG, WRONG),
]


def numbers(traces):
    return [int(chosen.texts[0].split(".")[0]) for chosen in traces]


def test_d_star_is_wrong_then_right_within_one_rollout():
    assert star_traces(TRACES) == [TRACES[0], TRACES[5]]
    assert make_trace_set("D_STaR", TRACES) == star_traces(TRACES)


def test_d_plus_star_has_right_then_right_too():
    assert star_traces(TRACES, keeps_right=True) == [TRACES[0], TRACES[2], TRACES[5]]
    assert make_trace_set("D+_STaR", TRACES) == star_traces(TRACES, keeps_right=True)


def test_d_sft_pairs_each_wrong_turn_1_with_a_right_answer_to_the_same_problem():
    # Problem 0 has the right answers 1.2, 3.1, 3.2 and 4.1, problem 1 has 6.2, problem 2 none.
    right_answers = {0: {"1.2", "3.1", "3.2", "4.1"}, 1: {"6.2"}}
    drawn = {0: set(), 1: set()}
    for seed in range(60):
        pairs = pair_traces(TRACES, seed=seed)
        assert numbers(pairs) == [1, 2, 5, 6]
        for pair in pairs:
            drawn[pair.problem].add(pair.texts[1])
    assert drawn == right_answers, "every right first or second turn of the problem is drawn, and no other"


def test_d_plus_sft_pairs_right_first_turns_too():
    assert numbers(pair_traces(TRACES, keeps_right=True)) == [1, 2, 3, 4, 5, 6]
    assert numbers(make_trace_set("D+_SFT", TRACES, seed=1)) == [1, 2, 3, 4, 5, 6]
    assert numbers(make_trace_set("D_SFT", TRACES, seed=1)) == [1, 2, 5, 6]


def test_a_pair_keeps_its_own_start_and_has_the_drawn_turns_tokens():
    pair = next(pair for seed in range(60) for pair in pair_traces(TRACES, seed=seed) if pair.texts == ("2.1", "3.1"))
    assert pair.rollout.prompt_ids == [1000]
    assert pair.rollout.completion_ids == [21, 9, 7, 31, 9]
    assert pair.rewards == (WRONG, RIGHT)


def test_the_draw_depends_on_the_seed_alone():
    texts = [[pair.texts for pair in pair_traces(TRACES, seed=seed)] for seed in (3, 3, 4, 5, 6)]
    assert texts[0] == texts[1]
    assert len({str(drawn) for drawn in texts}) > 1


def test_unscorable_turns_are_neither_right_nor_wrong():
    traces = [trace(1, 0, None, RIGHT), trace(2, 0, WRONG, None), trace(3, 0, WRONG, RIGHT)]
    assert numbers(star_traces(traces, keeps_right=True)) == [3]
    # The right second turn of trace 1 is an answer like any other; its unscorable first turn starts no pair.
    assert {pair.texts for seed in range(20) for pair in pair_traces(traces, seed=seed)} == {
        ("2.1", "1.2"),
        ("2.1", "3.2"),
        ("3.1", "1.2"),
        ("3.1", "3.2"),
    }


def test_a_cut_turn_is_never_learned_from():
    traces = [trace(1, 0, WRONG, RIGHT, cut_t2=True), trace(2, 0, RIGHT, WRONG, cut_t1=True), trace(3, 0, WRONG, WRONG)]
    for name in ("D_STaR", "D+_STaR", "D_SFT", "D+_SFT"):
        with pytest.raises(ValueError, match=rf"{name[:2].replace('+', '.')}.*got none of 3 sampled rollouts"):
            make_trace_set(name, traces)
    # As the start of a trace it is what the model wrote: closed by the correction, and not by itself.
    started = trace(4, 0, WRONG, RIGHT, cut_t1=True)
    assert fine_tuning_row(started)["input_ids"] == [1000, 41, 9, 7, 42, 9]


def test_an_empty_set_is_an_error_that_counts_what_was_sampled():
    counts = "got none of 3 sampled rollouts: turn 1 was right in 2, turn 2 in 1, 0 went from wrong to right"
    with pytest.raises(ValueError, match=rf"D_STaR needs at least one trace .*{counts}.*sample more \(`max_steps`\)"):
        make_trace_set("D_STaR", [TRACES[2], TRACES[3], TRACES[4]])


# Rows for SFTTrainer


def test_turn_2_alone_is_learned_from():
    assert fine_tuning_row(TRACES[0]) == {"input_ids": [1000, 11, 9, 7, 12, 9], "completion_mask": [0, 0, 0, 0, 1, 1]}
    assert fine_tuning_row(TRACES[2])["completion_mask"] == [0, 0, 0, 0, 1, 1]


def test_a_right_turn_1_is_learned_from_if_asked_for_and_a_wrong_one_never():
    masks = [fine_tuning_row(TRACES[index], learns_right_turn_1=True)["completion_mask"] for index in (2, 0)]
    assert masks == [[0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 1, 1]]
    cut = trace(8, 0, RIGHT, RIGHT, cut_t1=True)
    assert fine_tuning_row(cut, learns_right_turn_1=True)["completion_mask"] == [0, 0, 0, 0, 1, 1]


# As text


def test_rows_have_the_problems_columns_and_the_turns():
    problems = Dataset.from_dict({"prompt": ["zero", "one", "two"], "solution": ["0", "1", "2"], "turn_1": ["x"] * 3})
    rows = list(trace_rows("D_STaR", star_traces(TRACES), problems))
    assert rows[1] == {
        "prompt": "one",
        "solution": "1",
        "turn_1": "6.1",
        "turn_2": "6.2",
        "rewards": [WRONG, RIGHT],
        "set": "D_STaR",
        "problem": 1,
    }
