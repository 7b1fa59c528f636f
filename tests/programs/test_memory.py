"""The estimate of a process's memory, by numbers that are worked out by hand."""

import pytest

from trl_score.programs.memory import Batch, Precision, checkpoint_bytes, chunk_bytes, memory_need
from trl_score.score.costs import ModelSize

# 1,000 parameters; 2 layers of width 8, MLP 16, keys and values 4 wide, 25 words.
MODEL = ModelSize(1000, 800, 2, 8, 16, 8, 4, 25)
BF16, FP32 = Precision(weight=2, trained=2, computed=2), Precision(weight=4, trained=4, computed=4)
BATCH = Batch(num_rows=3, num_tokens=10, logits=3_600)


def test_full_fine_tuning_in_fp32_with_a_reference() -> None:
    need = memory_need(MODEL, BATCH, FP32, num_trained=1000, has_reference_copy=True)
    assert (need.weights, need.reference, need.gradients, need.optimizer) == (4000, 4000, 4000, 8000)
    # 3 rows x 10 tokens x 2 layers x 4 bytes x (8 * 8 + 4 * 16 + 2 * 4 = 136 values)
    assert need.activations == 3 * 10 * 2 * 4 * 136
    assert need.logits == 3_600
    assert need.total == 20_000 + 32_640 + 3_600


@pytest.mark.parametrize(
    ("engine", "weights", "gradients", "optimizer"),
    [("ddp", 2000, 2000, 4000), ("zero1", 2000, 2000, 3000), ("zero2", 2000, 500, 3000), ("zero3", 500, 500, 3000)],
)
def test_what_zero_splits_over_four_processes(engine: str, weights: int, gradients: int, optimizer: int) -> None:
    need = memory_need(MODEL, BATCH, BF16, num_trained=1000, engine=engine, num_processes=4)  # type: ignore[arg-type]
    # Under ZeRO the optimizer has 12 bytes a parameter: 12,000 / 4.
    assert (need.weights, need.gradients, need.optimizer, need.reference) == (weights, gradients, optimizer, 0)


def test_gradients_of_fsdp2_are_whole_over_several_micro_batches() -> None:
    needs = [
        memory_need(MODEL, BATCH, FP32, num_trained=1000, engine="fsdp2", num_processes=4, num_micro_batches=number)
        for number in (1, 2)
    ]
    assert [need.gradients for need in needs] == [1000, 4000]


def test_an_adapter_comes_on_top_of_frozen_4_bit_weights() -> None:
    precision = Precision(weight=0.5, trained=4, computed=2)
    need = memory_need(MODEL, BATCH, precision, num_trained=50, gradient_checkpointing=True)
    assert need.weights == 1000 * 0.5 + 50 * 4
    assert (need.reference, need.gradients, need.optimizer) == (0, 200, 400)
    # Checkpointed, bf16: each layer's input (2 layers x 2 bytes x 8), and one layer: 2 x 136 values + 4 x 8 of norms.
    assert need.activations == 3 * 10 * (2 * 2 * 8 + 2 * 136 + 4 * 8)


def test_no_more_logits_than_a_chunk_of_the_critique_loss() -> None:
    # In fp32 the logits, their log-softmax and their gradient; in bf16 the logits as they came besides.
    assert chunk_bytes(6, 25, logits_per_chunk=1000, bytes_per_value=4) == 6 * 25 * 12
    assert chunk_bytes(60, 25, logits_per_chunk=1000, bytes_per_value=4) == 1000 * 12
    assert chunk_bytes(60, 25, logits_per_chunk=1000, bytes_per_value=2) == 1000 * 14


def test_a_checkpoint_holds_the_optimizer_where_the_run_can_go_on() -> None:
    assert checkpoint_bytes(100, FP32, engine="ddp", has_optimizer=True) == 1200
    assert checkpoint_bytes(100, FP32, engine="ddp", has_optimizer=False) == 400
    assert checkpoint_bytes(100, BF16, engine="zero3", has_optimizer=True) == 1400
