"""The embedded task is learned in under a minute: the test that the whole trainer points in the right direction."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from trl_score import SCoReConfig, SCoReTrainer
from trl_score.data import adder
from trl_score.evaluation import Evaluation, evaluate_self_correction, load_model

BUDGET = adder.MAX_COMPLETION_LENGTH


def evaluate_sampled(path: Path) -> Evaluation:
    return evaluate_self_correction(
        load_model(str(path)),
        AutoTokenizer.from_pretrained(path),
        adder.adder_dataset(800, seed=0, split="eval"),
        adder.adder_reward,
        max_completion_length=(BUDGET, BUDGET),
        correction_prompt=adder.CORRECTION_PROMPT,
        do_sample=True,
        batch_size=400,
    )


@pytest.mark.slow
def test_stage_1_teaches_to_correct_and_holds_turn_1(tmp_path: Path) -> None:
    args = SCoReConfig(
        output_dir=str(tmp_path),
        stage="1",
        beta_2=0.25,
        correction_prompt=adder.CORRECTION_PROMPT,
        max_completion_length=BUDGET,
        num_generations=8,
        per_device_train_batch_size=128,
        max_steps=35,
        learning_rate=3e-4,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SCoReTrainer(
        model=str(adder.adder_base_path()),
        reward_funcs=adder.adder_reward,
        args=args,
        train_dataset=adder.adder_dataset(2048, seed=0, split="train"),
    )
    trainer.train()
    trainer.save_model()
    base, trained = evaluate_sampled(adder.adder_base_path()).metrics, evaluate_sampled(tmp_path).metrics
    # Seen in make demo: -0.11 before, +0.05 or more after 35 steps; turn 1 within a point.
    assert base["delta_t1_t2"].high < 0
    assert trained["delta_t1_t2"].low > 0
    assert trained["delta_c_to_i"].value < base["delta_c_to_i"].value / 2
    assert abs(trained["accuracy_t1"].value - base["accuracy_t1"].value) < 0.04
