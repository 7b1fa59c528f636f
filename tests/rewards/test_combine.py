"""Sums, penalties and routes of rewards, with every number worked by hand."""

import pickle
from typing import Any

import pytest

from trl_score.rewards import LengthPenalty, MathReward, TaskRouter, WeightedSum, boxed_format_reward


def is_four(completions: list[str], **columns: Any) -> list[float | None]:
    return [None if text == "?" else float(text == "4") for text in completions]


def first_turn_length(completions: list[str], turn: int, completions_t1: list[str], **columns: Any) -> list[float]:
    return [turn * 10.0 + len(text) for text in completions_t1]


def logs_its_texts(completions: list[str], log_extra: Any = None, **columns: Any) -> list[float]:
    log_extra("text", completions)
    return [1.0] * len(completions)


def drops_one(completions: list[str], **columns: Any) -> list[float]:
    return [1.0] * (len(completions) - 1)


async def asynchronous(completions: list[str], **columns: Any) -> list[float]:
    return [1.0] * len(completions)


class TestWeightedSum:
    def test_sum(self) -> None:
        # 2 * 1 + 0.5 * 0 = 2; 2 * 0 + 0.5 * 1 = 0.5
        rewards = WeightedSum([is_four, boxed_format_reward], weights=[2, 0.5])(completions=["4", r"\boxed{4}"])
        assert rewards == [2.0, 0.5]

    def test_what_one_member_cannot_score_has_no_sum(self) -> None:
        assert WeightedSum([is_four, boxed_format_reward])(completions=["?", "4"]) == [None, 1.0]

    def test_turn_arguments_reach_only_members_that_name_them(self) -> None:
        both = WeightedSum([is_four, first_turn_length])
        assert both(completions=["4"], turn=2, completions_t1=["abc"]) == [1.0 + 23.0]

    def test_name_and_pickle(self) -> None:
        both = pickle.loads(pickle.dumps(WeightedSum([is_four, MathReward()])))
        assert both.__name__ == "is_four_math_reward"
        assert both(completions=[r"\boxed{4}"], solution=["4"]) == [1.0]

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="got 0 functions and 0 weights"):
            WeightedSum([])
        with pytest.raises(ValueError, match="got 1 functions and 2 weights"):
            WeightedSum([is_four], weights=[1, 2])
        with pytest.raises(ValueError, match=r"finite `weights`, got \[nan\]"):
            WeightedSum([is_four], weights=[float("nan")])
        with pytest.raises(TypeError, match="Expected a reward function, got str"):
            WeightedSum(["is_four"])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="coroutine function 'asynchronous'"):
            WeightedSum([asynchronous])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="'drops_one' returned 1 rewards for 2 completions"):
            WeightedSum([drops_one])(completions=["a", "b"])


class TestLengthPenalty:
    @pytest.mark.parametrize(
        # L_max = 10, L_cache = 4: free up to 6 tokens, then (6 - |y|) / 4, and -1 from 10 tokens on
        ("num_tokens", "penalty"),
        [(0, 0.0), (6, 0.0), (7, -0.25), (8, -0.5), (10, -1.0), (11, -1.0), (1000, -1.0)],
    )
    def test_penalty(self, num_tokens: int, penalty: float) -> None:
        reward = pickle.loads(pickle.dumps(LengthPenalty(max_tokens=10, soft_tokens=4)))
        assert reward(completions=["a"], completion_ids=[[1] * num_tokens]) == [penalty]

    def test_errors(self) -> None:
        for soft_tokens in (0, 11):
            with pytest.raises(ValueError, match=f"got soft_tokens={soft_tokens}, max_tokens=10"):
                LengthPenalty(max_tokens=10, soft_tokens=soft_tokens)
        with pytest.raises(ValueError, match=r"needs `completion_ids`, got the arguments \['solution'\]"):
            LengthPenalty(10, 4)(completions=["a"], solution=["b"])


class TestTaskRouter:
    def test_each_row_goes_to_its_reward_with_its_own_columns(self) -> None:
        router = TaskRouter({"math": MathReward(), "four": is_four, "later": None})
        rewards = router(
            completions=[r"\boxed{7}", "4", r"\boxed{8}", "4", "5"],
            solution=["7", None, "9", None, None],
            task=["math", "four", "math", "later", "four"],
        )
        assert rewards == [1.0, 1.0, 0.0, None, 0.0]

    def test_another_column(self) -> None:
        assert TaskRouter({"x": is_four}, column="kind")(completions=["4"], kind=["x"]) == [1.0]

    def test_turn_arguments(self) -> None:
        router = TaskRouter({"a": first_turn_length, "b": is_four})
        rewards = router(completions=["4", "4"], task=["b", "a"], turn=2, completions_t1=["xx", "yyyy"])
        assert rewards == [1.0, 24.0]

    def test_extra_columns_cover_all_rows(self) -> None:
        extras: dict[str, list[str]] = {}
        router = TaskRouter({"log": logs_its_texts, "four": is_four})
        router(completions=["p", "4", "q"], task=["log", "four", "log"], log_extra=extras.__setitem__)
        assert extras == {"text": ["p", "", "q"]}

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="at least one task"):
            TaskRouter({})
        with pytest.raises(ValueError, match=r"needs the dataset column 'task'.*got the columns \['kind'\]"):
            TaskRouter({"x": is_four})(completions=["4"], kind=["x"])
        with pytest.raises(ValueError, match=r"Row 1 has the task 'y'.*the tasks are \['x'\]"):
            TaskRouter({"x": is_four})(completions=["4", "4"], task=["x", "y"])
        with pytest.raises(ValueError, match="'drops_one' returned 0 rewards for 1 completions"):
            TaskRouter({"x": drops_one})(completions=["4"], task=["x"])
