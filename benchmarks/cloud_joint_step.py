"""
One joint step of CLoud, ours against the obvious way: time and peak memory.

    python benchmarks/cloud_joint_step.py [--device cuda] [--quick]

Ours: one forward gives rewards and critique sums, the LM head applied at the critiques' tokens only. The obvious way:
one forward of the language model with all its logits for the cross-entropy, and one more for the rewards. The same
weights, batch and loss on both sides; that both losses are equal is checked first. On the CPU one thread, and seconds
of CPU time, so that other programs do not count. Memory is that of a process of each side's own, from the making of
the model on.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from measure import MIB, Measure, Pairs, interleave, parse_options, peak_memory, report
from transformers import LlamaConfig, LlamaForCausalLM

from trl_score.cloud.losses import bradley_terry_loss, critique_loss, joint_loss
from trl_score.cloud.modeling import CLoudRewardModel

# The targets: time at most 0.7, memory at most 0.5 of the obvious way's.
TIME_TARGET = 1 / 0.7
MEMORY_TARGET = 1 / 0.5


@dataclass(frozen=True)
class Size:
    """A model, and a batch of `pairs` chosen and as many rejected rows whose last `critique` tokens are supervised."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    pairs: int
    length: int
    critique: int


# The LM head has 0.5 times as many weights as all layers on the CPU, 0.35 times on a GPU; in Qwen2.5-0.5B it is 0.38.
SIZES = {
    "quick": Size(vocab=512, hidden=64, intermediate=128, layers=2, pairs=1, length=32, critique=8),
    "cpu": Size(vocab=32_768, hidden=512, intermediate=2048, layers=8, pairs=2, length=512, critique=128),
    "cuda": Size(vocab=151_936, hidden=896, intermediate=4864, layers=24, pairs=8, length=1024, critique=256),
}


def build(size: Size, device: str) -> CLoudRewardModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=max(1, size.hidden // 64),
        tie_word_embeddings=True,
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return CLoudRewardModel.from_causal_lm(LlamaForCausalLM(config)).to(device, dtype).train()


def make_batch(size: Size, device: str) -> dict[str, torch.Tensor]:
    """Random rows. Shapes (2 pairs, length)."""
    ids = torch.randint(3, size.vocab, (2 * size.pairs, size.length), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, : -size.critique] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def our_loss(model: CLoudRewardModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One forward."""
    output = model(**batch)
    critique = critique_loss(output.critique_nll, output.num_supervised)
    return joint_loss(bradley_terry_loss(*output.rewards.chunk(2)), critique, 1.25)


def obvious_loss(model: CLoudRewardModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Two forwards, and the logits of every position."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    logits = model.reward_base_model(**inputs).logits.float()
    critique = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    rewards = model.reward_of(model.backbone(**inputs).last_hidden_state[:, -1])
    return joint_loss(bradley_terry_loss(*rewards.chunk(2)), critique, 1.25)


LOSSES: dict[str, Callable[[CLoudRewardModel, dict[str, torch.Tensor]], torch.Tensor]] = {
    "ours": our_loss,
    "obvious": obvious_loss,
}


def prepare_steps(side: str, size: Size, device: str, steps: int = 1) -> Callable[[], None]:
    """Builds one side's model, and gives what takes its steps: forward and backward."""
    torch.set_num_threads(1)
    model, batch = build(size, device), make_batch(size, device)

    def run() -> None:
        for _ in range(steps):
            model.zero_grad()
            LOSSES[side](model, batch).backward()

    return run


def check_losses(size: Size, device: str) -> None:
    """Raises if the two ways do not compute the same loss."""
    model, batch = build(size, device), make_batch(size, device)
    with torch.no_grad():
        ours, obvious = (loss(model, batch).float() for loss in LOSSES.values())
    torch.testing.assert_close(ours, obvious, rtol=1e-2 if device == "cuda" else 1e-5, atol=0.0)


def measure(options: argparse.Namespace) -> list[Measure]:
    size, device = SIZES["quick" if options.quick else options.device], options.device
    check_losses(size, device)
    clock = time.perf_counter if device == "cuda" else time.process_time
    ours, obvious = (prepare_steps(side, size, device) for side in LOSSES)
    times = interleave(ours, obvious, options.repeats, device=device, clock=clock)
    # Two steps: the second one holds the first one's gradients, as all but the first of a training do.
    memory = Pairs(*([peak_memory(prepare_steps, side, size, device, 2, device=device).peak / MIB] for side in LOSSES))
    return [
        times.measure("CLoud joint step: seconds", "s", options, TIME_TARGET),
        memory.measure("CLoud joint step: peak memory", "MiB", options, MEMORY_TARGET),
    ]


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/summary.json", repeats=3)
    torch.set_num_threads(1)
    report(measure(options), options)


if __name__ == "__main__":
    main()
