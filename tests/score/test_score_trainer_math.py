"""SCoReTrainer with MathReward, while some completions are right, some wrong, and some meant to hang the grader."""

from collections.abc import Callable
from pathlib import Path

import pytest
from score_runs import EngineTrainer, addition_dataset, short_config
from transformers import AutoTokenizer

from trl_score.records import GeneratedTurn
from trl_score.rewards import MathReward, boxed_format_reward

ANSWERS = (
    r"\boxed{%s}",  # the gold
    r"\boxed{\frac{%s}{1}}",  # the gold, otherwise written
    r"\boxed{0}",
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{(((((10!)!)!)!)!)}",
    "no box at all",
)
"""Rollout i of turn 1 says number i, of turn 2 number i + 1."""


def test_trains_with_maths_and_hostile_answers(local_model: Callable[[str], Path], tmp_path: Path) -> None:
    path = local_model("qwen2")
    tokenizer = AutoTokenizer.from_pretrained(path)
    dataset = addition_dataset(num_rows=1)
    gold = dataset[0]["solution"]
    closing = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def engine(prompt_ids: list[int], index: int, max_new_tokens: int) -> GeneratedTurn:
        is_turn_2 = prompt_ids.count(closing) > 2
        text = ANSWERS[(index + is_turn_2) % len(ANSWERS)].replace("%s", gold)
        return GeneratedTurn([*tokenizer.encode(text, add_special_tokens=False), closing], truncated=False)

    reward = MathReward()
    trainer = EngineTrainer(
        model=str(path),
        reward_funcs=[reward, boxed_format_reward],
        args=short_config(
            tmp_path,
            per_device_train_batch_size=len(ANSWERS),
            num_generations=len(ANSWERS),
            max_completion_length=64,
            reward_weights=[1.0, 0.25],
            max_steps=2,
        ),
        train_dataset=dataset,
    )
    trainer.engine = engine
    try:
        trainer.train()
    finally:
        reward.close()
    for entry in trainer.state.log_history[:2]:
        # Turn 1: two of six right. Turn 2, shifted by one: the same two answers, said by rollouts 5 and 0.
        assert entry["score/accuracy_t1"] == pytest.approx(2 / 6)
        assert entry["score/accuracy_t2"] == pytest.approx(2 / 6)
        assert entry["score/delta_i_to_c"] == pytest.approx(1 / 6)
        assert entry["score/delta_c_to_i"] == pytest.approx(1 / 6)
        # Five of six have a box: 2/6 + 0.25 * 5/6.
        assert entry["score/reward_t1"] == pytest.approx(2 / 6 + 0.25 * 5 / 6)
        assert entry["score/unscorable"] == 0
