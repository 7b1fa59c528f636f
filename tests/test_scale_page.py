"""The tables of docs/scale.md hold what `score/costs.py` computes."""

from pathlib import Path

import pytest
from transformers import LlamaConfig, Qwen2Config

from trl_score.score.costs import (
    ModelSize,
    RolloutSize,
    activation_bytes,
    generation_flops,
    kv_cache_bytes,
    log_prob_flops,
    logit_bytes,
    state_bytes,
    step_flops,
    step_traffic,
)

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()
GIB, MIB, TERA = 2**30, 2**20, 10**12
ROLLOUT = RolloutSize(prompt=200, turn_1=512, correction=60, turn_2=512)
MODELS = {
    "1.5 B": ModelSize.of(
        Qwen2Config(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    ),
    "8 B": ModelSize.of(
        LlamaConfig(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
        )
    ),
    "70 B": ModelSize.of(
        LlamaConfig(
            vocab_size=128256,
            hidden_size=8192,
            intermediate_size=28672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
        )
    ),
}
# Name in the page -> model, share that is trained, engine, processes.
SETUPS = {
    "1.5 B, LoRA, one GPU": ("1.5 B", 0.01, "ddp", 1),
    "1.5 B, full, one GPU": ("1.5 B", 1, "zero2", 1),
    "8 B, LoRA, one GPU": ("8 B", 0.005, "ddp", 1),
    "8 B, full, ZeRO-2, 8 GPUs": ("8 B", 1, "zero2", 8),
    "8 B, full, ZeRO-3, 8 GPUs": ("8 B", 1, "zero3", 8),
    "70 B, LoRA, ZeRO-3, 8 GPUs": ("70 B", 0.003, "zero3", 8),
    "70 B, full, ZeRO-3, 8 GPUs": ("70 B", 1, "zero3", 8),
    "70 B, full, ZeRO-3, 64 GPUs": ("70 B", 1, "zero3", 64),
}


def cost_rows():
    """Model -> operations in units of 10^12, and bytes of one rollout."""
    for name, model in MODELS.items():
        yield (
            name,
            f"{generation_flops(model, ROLLOUT) / TERA:.1f}",
            f"{log_prob_flops(model, ROLLOUT) / TERA:.1f}",
            f"{step_flops(model, ROLLOUT, gradient_checkpointing=True) / TERA:.0f}",
            f"{step_flops(model, ROLLOUT, is_lora=True, gradient_checkpointing=True) / TERA:.0f}",
            f"{kv_cache_bytes(model, ROLLOUT.num_tokens) / MIB:.0f}",
            f"{activation_bytes(model, ROLLOUT.num_tokens) / GIB:.1f}",
            f"{activation_bytes(model, ROLLOUT.num_tokens, gradient_checkpointing=True) / GIB:.1f}",
            f"{logit_bytes(model, ROLLOUT.num_completion_tokens) / GIB:.1f}",
            f"{logit_bytes(model, ROLLOUT.num_completion_tokens, is_head_trained=False) / GIB:.2f}",
        )


def memory_rows():
    """Set-up -> GiB of one process that do not depend on the batch."""
    for name, (size, share, engine, num_processes) in SETUPS.items():
        base = MODELS[size].num_parameters
        is_full = share == 1
        num_trained = int(base * share)
        state = state_bytes(
            base if is_full else base + num_trained,
            num_trained,
            engine=engine,
            num_processes=num_processes,
            bytes_per_trained_weight=2 if is_full else 4,
            has_reference_copy=is_full,
        )
        parts = (state.weights, state.reference, state.gradients, state.optimizer, state.total)
        yield (name, *(f"{part / GIB:.1f}" for part in parts))


def traffic_rows():
    """Model and micro-batches -> GiB that collectives carry in a step of ZeRO-3, full fine-tuning in bf16."""
    for name, num_micro_batches in (("8 B", 8), ("8 B", 1), ("70 B", 8), ("70 B", 1)):
        num = MODELS[name].num_parameters
        num_forwards = 1 if num_micro_batches == 1 else 2
        traffic = step_traffic(num, num, engine="zero3", num_micro_batches=num_micro_batches, num_forwards=num_forwards)
        parts = (traffic.generation, traffic.forwards, traffic.update, traffic.gradients, traffic.total)
        yield (name, str(num_micro_batches), *(f"{part / GIB:.0f}" for part in parts))


@pytest.mark.parametrize("row", [*cost_rows(), *memory_rows(), *traffic_rows()], ids=" ".join)
def test_page_has_the_row(row):
    assert f"\n| {' | '.join(row)} |\n" in PAGE


def test_page_names_the_functions_and_the_tests():
    for name in ("generation_flops", "log_prob_flops", "step_flops", "kv_cache_bytes", "activation_bytes"):
        assert f"`{name}`" in PAGE
    for name in ("logit_bytes", "state_bytes", "step_traffic", "tests/score/test_costs.py", "tests/test_traffic.py"):
        assert f"`{name}`" in PAGE
