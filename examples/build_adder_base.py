"""Build the base model of the embedded task from nothing: the policy that SCoRe then teaches to correct itself.

    python examples/build_adder_base.py --output_dir runs/adder_base

Supervised learning on dialogues of two turns, in four phases:

1. `sums`: turn 1 alone.
2. `fix`: turn 2 gives the right answer, whatever turn 1 was. The skill that reinforcement learning is to bring out.
3. `blend`: turn 2 copies turn 1 or gives the right answer.
4. `habits`: after a first turn of its own, turn 2 mostly copies it, sometimes gives the right answer and sometimes
   changes a digit. This makes the base what the paper's base models are: greedy it copies, sampled it loses accuracy.

Turn 1 learns nothing but right answers throughout, so what it gets wrong is what one pass cannot be sure of.
Takes 7 to 9 minutes on one core. With another seed the numbers move by a point or two.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_
from tqdm import trange
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_score.data import adder
from trl_score.data.adder import AdderProblem
from trl_score.evaluation import evaluate_self_correction

IGNORED = -100
"""Label of a token that the model is not asked for."""

WARMUP_STEPS = 50


@dataclass(frozen=True)
class Phase:
    """
    One phase of training.

    Args:
        name (`str`): What the progress bar says.
        steps (`int`): Updates, in a run of full length.
        batch_size (`int`): Dialogues in an update.
        copy (`float`): Chance that turn 2 copies turn 1.
        fix (`float`): Chance that turn 2 is right. What remains is the chance that it changes a digit of turn 1.
        has_turn_2 (`bool`): Whether there is a second turn.
        is_on_policy (`bool`): Whether first turns are the model's own samples.
    """

    name: str
    steps: int
    batch_size: int
    copy: float = 0.0
    fix: float = 0.0
    has_turn_2: bool = True
    is_on_policy: bool = False


PHASES = (
    Phase("sums", steps=800, batch_size=256, has_turn_2=False),
    Phase("fix", steps=500, batch_size=128, fix=1.0),
    Phase("blend", steps=400, batch_size=128, copy=0.6, fix=0.4),
    Phase("habits", steps=600, batch_size=128, copy=0.52, fix=0.32, is_on_policy=True),
)
TOTAL_STEPS = sum(phase.steps for phase in PHASES)


def main(args: argparse.Namespace) -> None:
    """Trains the base, saves it with its tokenizer, and prints what it does."""
    torch.manual_seed(args.seed)
    tokenizer = adder.build_tokenizer()
    model = LlamaForCausalLM(model_config(tokenizer))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    train(model, tokenizer, args)
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    print(f"Saved {model.num_parameters():,} parameters to {args.output_dir}")
    if args.eval_size:
        print_table(model, tokenizer, args)


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Two layers: with one, it does not learn to add two numbers."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    """Runs the four phases with one optimizer and one schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, args.steps))
    rng = random.Random(args.seed)
    with trange(args.steps, disable=args.disable_tqdm) as progress:
        for step, phase in zip(progress, phases(args.steps), strict=True):
            problems = adder.make_problems(phase.batch_size, seed=rng.getrandbits(32))
            firsts = first_turns(problems, phase, model, tokenizer, rng)
            loss = two_turn_loss(model, tokenizer, problems, firsts, phase, rng)
            loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if step % 10 == 0:
                progress.set_postfix(phase=phase.name, loss=f"{loss.item():.3f}")


def learning_rate_share(step: int, steps: int) -> float:
    """Warm-up, the full rate for the first half, then a straight line to zero."""
    return min((step + 1) / WARMUP_STEPS, 1.0, 2 * (1 - step / steps))


def phases(steps: int) -> Iterator[Phase]:
    """Gives the phase of each of `steps` updates: the four phases, shortened alike."""
    for step in range(steps):
        position = step * TOTAL_STEPS // steps
        for phase in PHASES:
            if position < phase.steps:
                yield phase
                break
            position -= phase.steps


def first_turns(
    problems: list[AdderProblem],
    phase: Phase,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
) -> list[str]:
    """Makes the first turns that the model reads: its own, or such as it will give once it has learned to add."""
    if phase.is_on_policy:
        return sample_first_turns(problems, model, tokenizer)
    return [with_guessed_total(problem, phase, rng) for problem in problems]


def with_guessed_total(problem: AdderProblem, phase: Phase, rng: random.Random) -> str:
    """
    Puts a random total before the right working, where the model will have to guess it.

    In the first phase all totals are random: if the working could be copied from the total, nothing would ever be
    added.
    """
    chance = 1.0 if not phase.has_turn_2 or len(problem.addends) == adder.HARD_ADDENDS else 0.15
    return f"{rng.randrange(100):02d}{problem.answer[2:]}" if rng.random() < chance else problem.answer


def sample_first_turns(
    problems: list[AdderProblem], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> list[str]:
    """Samples the model's own first turns at temperature 1."""
    prompts = [f"<user>{problem.question}<eos><assistant>" for problem in problems]
    inputs = tokenizer(prompts, padding=True, return_token_type_ids=False, return_tensors="pt")
    ids = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=adder.MAX_COMPLETION_LENGTH)
    return tokenizer.batch_decode(ids[:, inputs["input_ids"].size(1) :], skip_special_tokens=True)


def second_turn(first: str, answer: str, phase: Phase, rng: random.Random) -> str:
    """Draws the second turn: a copy, the right answer, or a copy with another digit in one place."""
    habit = rng.random()
    if habit < phase.copy:
        return first
    if habit < phase.copy + phase.fix:
        return answer
    places = [place for place, character in enumerate(first) if character.isdigit()]
    if not places:
        return first
    place = rng.choice(places)
    digit = (int(first[place]) + rng.randrange(1, 10)) % 10
    return f"{first[:place]}{digit}{first[place + 1 :]}"


def two_turn_loss(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[AdderProblem],
    firsts: list[str],
    phase: Phase,
    rng: random.Random,
) -> torch.Tensor:
    """Cross-entropy of the right first turn, given what was said instead, and of the second turn as drawn."""
    rows = []
    for problem, first in zip(problems, firsts, strict=True):
        row = first_turn_tokens(problem, first, phase)
        if phase.has_turn_2:
            second = list(second_turn(first, problem.answer, phase, rng))
            row += asked(adder.CORRECTION_PROMPT) + [(token, token) for token in (*second, "<eos>")]
        rows.append(row)
    input_ids, labels = (pad(rows, side, tokenizer) for side in (0, 1))
    loss: torch.Tensor = model(input_ids=input_ids, labels=labels).loss
    return loss


TokenAndTarget = tuple[str, str | None]


def asked(text: str) -> list[TokenAndTarget]:
    """A user message and the header of the answer: read, not learned."""
    return [(token, None) for token in ("<user>", *text, "<eos>", "<assistant>")]


def first_turn_tokens(problem: AdderProblem, first: str, phase: Phase) -> list[TokenAndTarget]:
    """
    The question and turn 1, in which each place learns the right answer's token, whatever was said before it.

    In the first phase the total of four numbers is not asked for: the sums are learned faster without it. Later it is,
    and the model comes to know it in most cases, never in all.
    """
    targets: list[str | None] = [*problem.answer, "<eos>"]
    if len(first) != len(problem.answer):
        targets = [None] * (len(first) + 1)
    elif not phase.has_turn_2 and len(problem.addends) == adder.HARD_ADDENDS:
        targets[:2] = [None, None]
    return asked(problem.question) + list(zip((*first, "<eos>"), targets, strict=True))


def pad(rows: list[list[TokenAndTarget]], side: int, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Ids of the tokens (side 0) or labels (side 1), padded on the right, where a causal model needs no mask."""
    filler = tokenizer.pad_token_id if side == 0 else IGNORED
    vocabulary: dict[str | None, int] = {**tokenizer.get_vocab(), None: IGNORED}
    ids = [torch.tensor([vocabulary[pair[side]] for pair in row]) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=filler)


def print_table(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    """Prints what the base does on held-out problems, greedy and sampled."""
    problems = adder.adder_dataset(args.eval_size, seed=0, split="eval")
    for decoding in ("greedy", "sampled"):
        metrics = evaluate_self_correction(
            model,
            tokenizer,
            problems,
            adder.adder_reward,
            max_completion_length=(adder.MAX_COMPLETION_LENGTH, adder.MAX_COMPLETION_LENGTH),
            correction_prompt=adder.CORRECTION_PROMPT,
            do_sample=decoding == "sampled",
            batch_size=250,
        ).metrics
        print(f"{decoding:8}", "  ".join(f"{name} {metrics[name].value:.3f}" for name in SHOWN))


SHOWN = ("accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i", "answers_changed")


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="runs/adder_base", help="where the model and its tokenizer are saved")
    parser.add_argument("--steps", type=int, default=TOTAL_STEPS, help="updates; fewer shorten all four phases alike")
    parser.add_argument("--learning_rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the problems")
    parser.add_argument("--eval_size", type=int, default=1000, help="held-out problems of the table; 0: no table")
    parser.add_argument("--disable_tqdm", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
