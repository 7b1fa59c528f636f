"""
How fast CLoudScorer is, against generating with Transformers, decoding, encoding again and reading the whole text.

    python benchmarks/cloud_scorer.py [--device cuda] [--quick]

A Llama of random weights with the embedded adder's tokenizer (a character is a token, so that both ways read the same
ids) scores the same conversations both ways: with one greedy critique each, of uneven lengths as a real model's are;
with one critique each, all as long as allowed; and with eight sampled critiques each, against eight separate calls.
Rewards are compared before times are. On the CPU one thread, and seconds of CPU time, so that other programs do not
count.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from measure import Measure, interleave, parse_options, report
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from trl_score.cloud.modeling import CLoudRewardModel
from trl_score.cloud.scorer import CLoudScorer, CritiqueReward, score_text_path
from trl_score.data.adder import adder_base_path

ONE_TARGET = 1.2
EIGHT_TARGET = 3.0
NUM_CRITIQUES = 8
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-2}


@dataclass(frozen=True)
class Size:
    """A model, and `conversations` (with eight critiques half of them) of up to `prompt` tokens, `batch` together."""

    hidden: int
    layers: int
    conversations: int
    prompt: int
    new: int
    batch: int


SIZES = {
    "quick": Size(hidden=64, layers=1, conversations=3, prompt=32, new=8, batch=2),
    "cpu": Size(hidden=256, layers=4, conversations=16, prompt=384, new=96, batch=8),
    "cuda": Size(hidden=2048, layers=24, conversations=64, prompt=2048, new=512, batch=16),
}


def make_model(size: Size, device: str, *, ends: bool = True) -> tuple[CLoudRewardModel, Any]:
    """
    A reward model and its tokenizer.

    With `ends` its critiques end after some dozens of tokens, because the closing token's logit varies widely; without,
    none ends before its budget, because that logit is always 0.
    """
    tokenizer = AutoTokenizer.from_pretrained(adder_base_path())
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=4 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64,
        max_position_embeddings=2 * (size.prompt + size.new) + 256,
        initializer_range=0.1,
    )
    base = LlamaForCausalLM(config)
    with torch.no_grad():
        logits = base.get_output_embeddings().weight
        logits[tokenizer.unk_token_id] = 0
        logits[tokenizer.eos_token_id] *= 1.2 if ends else 0.0
    return CLoudRewardModel.from_causal_lm(base, critique_prompt="check:").to(device).eval(), tokenizer


def make_conversations(number: int, longest: int) -> list[list[dict[str, str]]]:
    """Questions of uneven lengths; responses of a few dozen tokens."""
    rng = random.Random(0)

    def digits(size: int) -> str:
        return "".join(rng.choice("0123456789+ ") for _ in range(size))

    return [
        [
            {"role": "user", "content": digits(rng.randint(longest // 4, longest))},
            {"role": "assistant", "content": digits(rng.randint(16, 64))},
        ]
        for _ in range(number)
    ]


def check_rewards(
    scorer: CLoudScorer, conversations: Sequence[list[dict[str, str]]], results: Sequence[CritiqueReward], device: str
) -> None:
    """Raises if a reward is not the one that is read from its critique's text."""
    reread = scorer.reread(conversations, [result.critiques for result in results])
    rewards = [result.rewards for result in results]
    largest = max(
        abs(a - b) for ours, theirs in zip(rewards, reread, strict=True) for a, b in zip(ours, theirs, strict=True)
    )
    if largest > TOLERANCE[device]:
        raise RuntimeError(f"Expected both ways to give the same rewards, got {largest} between two of them.")


def lengths(results: Sequence[CritiqueReward]) -> str:
    """How long critiques are. A character is a token; the unknown one has a name."""
    found = sorted(len(critique.replace("<unk>", "?")) for result in results for critique in result.critiques)
    return f"{found[0]} to {found[-1]} tokens, median {found[len(found) // 2]}"


def compare_one(size: Size, name: str, options: argparse.Namespace, target: float | None, *, ends: bool) -> Measure:
    """One greedy critique each."""
    model, tokenizer = make_model(size, options.device, ends=ends)
    conversations = make_conversations(size.conversations, size.prompt)
    scorer = CLoudScorer(model, tokenizer, batch_size=size.batch, max_new_tokens=size.new)
    results = scorer(conversations)
    check_rewards(scorer, conversations, results, options.device)
    print(f"{name}: critiques of {lengths(results)}", flush=True)
    pairs = interleave(
        lambda: scorer(conversations),
        lambda: score_text_path(scorer, conversations),
        options.repeats,
        device=options.device,
        clock=clock_of(options.device),
    )
    return pairs.measure(name, "s", options, target)


def compare_eight(size: Size, options: argparse.Namespace) -> Measure:
    """Eight sampled critiques each: at once, and in eight calls, with as many conversations together."""
    name = f"CLoud scoring: N = {NUM_CRITIQUES} critiques against as many calls"
    model, tokenizer = make_model(size, options.device)
    conversations = make_conversations(max(1, size.conversations // 2), size.prompt)
    common = {"max_new_tokens": size.new, "temperature": 1.0}
    # The scorer counts critiques, the text path conversations.
    ours = CLoudScorer(model, tokenizer, batch_size=size.batch * NUM_CRITIQUES, num_critiques=NUM_CRITIQUES, **common)
    single = CLoudScorer(model, tokenizer, batch_size=size.batch, **common)
    results = ours(conversations)
    check_rewards(ours, conversations, results, options.device)
    print(f"{name}: critiques of {lengths(results)}", flush=True)

    def separate_calls() -> None:
        for _ in range(NUM_CRITIQUES):
            score_text_path(single, conversations)

    pairs = interleave(
        lambda: ours(conversations),
        separate_calls,
        options.repeats,
        warmups=0,
        device=options.device,
        clock=clock_of(options.device),
    )
    return pairs.measure(name, "s", options, EIGHT_TARGET)


def clock_of(device: str) -> Any:
    return time.perf_counter if device == "cuda" else time.process_time


def main() -> None:
    options = parse_options(__doc__, output="runs/bench/summary.json", repeats=3)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    size = SIZES["quick" if options.quick else options.device]
    measures = [
        compare_one(size, "CLoud scoring: N = 1", options, ONE_TARGET, ends=True),
        compare_one(size, "CLoud scoring: N = 1, all critiques as long as allowed", options, None, ends=False),
        compare_eight(size, options),
    ]
    report(measures, options)


if __name__ == "__main__":
    main()
