"""Importance weights: worked by hand, held against TRL's own on one turn, and each turn on its own."""

import math

import pytest
import torch
from torch import nan, tensor

from trl_score.score.importance import (
    IMPORTANCE_MODES,
    SAMPLING_COLUMNS,
    importance_weights,
    sampling_columns,
    sampling_gap,
    sampling_metrics,
)

# One rollout: two tokens of turn 1, one of the correction prompt, two of turn 2, padding. Turn 1's ratios are 2 and
# 1.5, together 3; turn 2's are 0.5 and 4, together 2. Both turns together would be 6.
TURNS = tensor([[1, 1, 0, 2, 2, 0]])
RATIOS = tensor([[2.0, 1.5, 50.0, 0.5, 4.0, 1.0]])
GAP = torch.where(TURNS > 0, RATIOS.log(), 0.0)


def weights(mode, clip_min=None, clip_max=3.5, gap=GAP, turns=TURNS):
    return importance_weights(gap, turns, mode, clip_min=clip_min, clip_max=clip_max)


@pytest.mark.parametrize(
    ("mode", "clip_min", "clip_max", "expected"),
    [
        ("token_truncate", None, 3.5, [2.0, 1.5, 1.0, 0.5, 3.5, 1.0]),
        ("token_truncate", 0.75, None, [2.0, 1.5, 1.0, 0.75, 4.0, 1.0]),
        ("token_mask", None, 3.5, [2.0, 1.5, 1.0, 0.5, 0.0, 1.0]),
        ("token_mask", 0.75, None, [2.0, 1.5, 1.0, 0.0, 4.0, 1.0]),
        ("token_mask", None, None, [2.0, 1.5, 1.0, 0.5, 4.0, 1.0]),
        ("sequence_truncate", None, 2.5, [2.5, 2.5, 1.0, 2.0, 2.0, 1.0]),
        ("sequence_truncate", 2.5, None, [3.0, 3.0, 1.0, 2.5, 2.5, 1.0]),
        # Turn 1's 3 is beyond the bound, turn 2's 2 is not: turn 2 is learned from. Both together, 6, would mask both.
        ("sequence_mask", None, 2.5, [0.0, 0.0, 1.0, 2.0, 2.0, 1.0]),
        ("sequence_mask", 2.5, None, [3.0, 3.0, 1.0, 0.0, 0.0, 1.0]),
    ],
)
def test_weights_worked_by_hand(mode, clip_min, clip_max, expected):
    assert weights(mode, clip_min, clip_max).tolist()[0] == pytest.approx(expected)


@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_one_turns_gap_never_weighs_the_other(mode):
    other = GAP.clone()
    other[TURNS == 1] = 3.0
    assert torch.equal(weights(mode)[TURNS == 2], weights(mode, gap=other)[TURNS == 2])
    assert not torch.equal(weights(mode)[TURNS == 1], weights(mode, gap=other)[TURNS == 1])


@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_an_exact_engine_weighs_nothing(mode):
    assert torch.equal(weights(mode, gap=torch.zeros(1, 6)), torch.ones(1, 6))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'sequence_mask', got 'turn_mask'"):
        weights("turn_mask")


def test_gap_is_that_of_learned_tokens_that_the_engine_can_tell():
    own = tensor([[-1.0, -2.0, -3.0, -math.inf]])
    engine = tensor([[-1.5, nan, -1.0, 0.0]])
    assert sampling_gap(own, engine, tensor([[1, 1, 2, 0]])).tolist() == [[0.5, 0.0, -2.0, 0.0]]


def trl_ratio(gap, mask, mode, clip_min, clip_max):
    """The same for one turn, written down from TRL's documentation of its modes, a loop."""
    rows = []
    for values, marks in zip(gap.tolist(), mask.tolist(), strict=True):
        total = sum(value for value, mark in zip(values, marks, strict=True) if mark)
        row = []
        for value in values:
            ratio = math.exp(total if mode.startswith("sequence") else value)
            low, high = clip_min or 0.0, math.inf if clip_max is None else clip_max
            held = min(max(ratio, low), high)
            row.append(held if mode.endswith("truncate") or held == ratio else 0.0)
        rows.append([value if mark else 1.0 for value, mark in zip(row, marks, strict=True)])
    return rows


@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
@pytest.mark.parametrize("turn", [1, 2])
def test_a_row_with_one_turn_is_weighed_as_a_loop_does(mode, turn):
    generator = torch.Generator().manual_seed(0)
    gap = torch.randn(20, 7, generator=generator)
    mask = torch.rand(20, 7, generator=generator) < 0.7
    gap = torch.where(mask, gap, 0.0)
    for bounds in ((None, 3.0), (0.5, 2.0), (0.5, None)):
        found = importance_weights(gap, mask * turn, mode, clip_min=bounds[0], clip_max=bounds[1])
        assert found.tolist() == [pytest.approx(row, rel=1e-5) for row in trl_ratio(gap, mask, mode, *bounds)]


# What is logged


def columns_of(own, engine, turns, mode, clip_max=3.0):
    gap = sampling_gap(own, engine, turns)
    found = importance_weights(gap, turns, mode, clip_min=None, clip_max=clip_max)
    return sampling_columns(gap, found, engine, turns, mode)


OWN = tensor([[-1.0, -1.0, -1.0, -1.0], [-2.0, -2.0, -2.0, -2.0]])
ENGINE = tensor([[-1.5, -1.25, 9.0, -1.0], [9.0, -2.0, nan, -1.0]])
TWO_TURNS = tensor([[1, 1, 0, 2], [0, 2, 2, 2]])


def test_columns_count_each_token_or_each_turn_once():
    token = columns_of(OWN, ENGINE, TWO_TURNS, "token_truncate").tolist()
    first, second = (dict(zip(SAMPLING_COLUMNS, row, strict=True)) for row in token)
    assert (first["gap_sum"], first["gap_count"], first["gap_max"]) == (0.75, 3, 0.5)
    assert (second["gap_sum"], second["gap_count"], second["gap_max"]) == (1.0, 2, 1.0)  # the third it cannot tell
    assert (first["ratio_count"], second["ratio_count"]) == (3, 3)
    assert second["ratio_min"] == pytest.approx(math.exp(-1)) and second["ratio_max"] == 1.0

    sequence = columns_of(OWN, ENGINE, TWO_TURNS, "sequence_truncate").tolist()
    first, second = (dict(zip(SAMPLING_COLUMNS, row, strict=True)) for row in sequence)
    assert (first["ratio_count"], second["ratio_count"]) == (2, 1)
    assert first["ratio_sum"] == pytest.approx(math.exp(0.75) + 1.0)
    assert second["ratio_sum"] == pytest.approx(math.exp(-1))


def test_metrics_are_over_all_rows():
    metrics = sampling_metrics(columns_of(OWN, ENGINE, TWO_TURNS, "sequence_truncate"))
    assert metrics == pytest.approx(
        {
            "sampling/sampling_logp_difference/mean": 1.75 / 5,
            "sampling/sampling_logp_difference/max": 1.0,
            "sampling/importance_sampling_ratio/min": math.exp(-1),
            "sampling/importance_sampling_ratio/mean": (math.exp(0.75) + 1 + math.exp(-1)) / 3,
            "sampling/importance_sampling_ratio/max": math.exp(0.75),
        },
        rel=1e-6,
    )


def test_what_nothing_is_known_of_is_left_out():
    nothing_learned = sampling_metrics(columns_of(OWN, ENGINE, torch.zeros_like(TWO_TURNS), "token_mask"))
    assert nothing_learned == {}
    cannot_tell = sampling_metrics(columns_of(OWN, torch.full_like(OWN, nan), TWO_TURNS, "token_mask"))
    assert set(cannot_tell) == {f"sampling/importance_sampling_ratio/{name}" for name in ("min", "mean", "max")}
    assert set(cannot_tell.values()) == {1.0}
