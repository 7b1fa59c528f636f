"""The seconds of the phases are those of the step, whatever a step is made of."""

import time
from typing import Any

import pytest
import torch
from peft import LoraConfig
from score_runs import addition_dataset, evaluation_logs, odd_length, short_config, training_logs

from trl_score.log_keys import STEP_PHASES
from trl_score.score import phase_times
from trl_score.score.phase_times import measuring_seconds
from trl_score.score.score_trainer import SCoReTrainer
from trl_score.score.turn_metrics import MetricWindow

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
SLOW = 0.6


def slow(completions: list[Any], turn: int, **columns: Any) -> list[float]:
    """Takes its time on turn 2, for which the trainer waits."""
    if turn == 2:
        time.sleep(SLOW)
    return odd_length(completions)


@pytest.mark.parametrize(
    ("adapter", "options"),
    [
        (None, {}),
        # Rollouts for two steps of two micro-batches each.
        (LORA, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 4}),
    ],
    ids=["full", "lora, windows of two steps"],
)
def test_phases_sum_up_to_nearly_the_whole_step(adapter, options, local_model, tmp_path):
    dataset = addition_dataset()
    args = short_config(
        tmp_path,
        **{"max_steps": 4, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 4, "stage": "2", **options},
        max_completion_length=24,
    )
    trainer = SCoReTrainer(
        model=str(local_model("qwen2")),
        reward_funcs=slow,
        args=args,
        train_dataset=dataset,
        eval_dataset=dataset.select(range(2)),
        peft_config=adapter,
    )
    start = time.perf_counter()
    trainer.train()
    wall = time.perf_counter() - start
    logs = training_logs(trainer)
    assert len(logs) == 2
    for entry in logs:
        phases = {key: entry[key] for key in STEP_PHASES}
        assert 0.7 * entry["score/seconds_step"] < sum(phases.values()) <= entry["score/seconds_step"]
        # In "full" a rollout batch is one micro-batch, whose update gives the policy's log-probabilities. In "lora" the
        # reference is the model without its adapter.
        idle = [] if options else ["score/seconds_log_probs"]
        assert [key for key, seconds in phases.items() if seconds == 0] == idle
    assert 0 < 2 * sum(entry["score/seconds_step"] for entry in logs) < wall
    # Of a window, each step gets its share: two steps wait for one scoring in the second run.
    per_step = SLOW / 2 if options else SLOW
    assert per_step <= logs[1]["score/seconds_rewards"] < 1.7 * per_step
    (evaluation,) = evaluation_logs(trainer)
    assert SLOW <= evaluation["eval_score/seconds_rewards"] < 1.7 * SLOW
    assert evaluation["eval_score/seconds_reference"] > 0


def test_a_phase_lasts_until_its_device_is_done(monkeypatch):
    """A GPU is still at work when the call that gave it the work has returned."""

    class Device:
        def synchronize(self, device: torch.device) -> None:
            time.sleep(0.05)

    monkeypatch.setattr(phase_times.torch, "get_device_module", lambda _: Device())
    window = MetricWindow()
    for kind in ("cuda", "cpu"):
        with measuring_seconds(f"score/seconds_{kind}", window, torch.device(kind)):
            pass
    sums = {key: total for key, (total, _) in window.state().items()}
    assert sums["score/seconds_cuda"] >= 0.05 > sums["score/seconds_cpu"]
