"""
Try a trained model by hand: it answers, is asked to look again, and answers again. The turns stand side by side, with
the words marked that changed.

  trl-score correct --model runs/maths "What is 12 * 11?"
  trl-score correct --model runs/maths < problem.txt
  trl-score correct --model runs/maths                      asks for questions, until Ctrl-D
  trl-score correct --model adder "47+86+25+60=?"           the embedded model, before any training

What is asked between the turns, and how long they may be, is as in training, where `score_config.json` beside the model
says it.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from trl_score.pipeline import CorrectedAnswer

EMBEDDED = "adder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Adds the options of the command.

    Args:
        parser (`argparse.ArgumentParser`):
            Its parser.
    """
    parser.add_argument(
        "question", nargs="?", metavar="QUESTION", help="what to ask; else standard input, or questions one by one"
    )
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="folder or Hub name of a model or an adapter, or 'adder'"
    )
    parser.add_argument("--tokenizer", metavar="NAME", help="folder or Hub name of another tokenizer than the model's")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per question")
    turns = parser.add_argument_group("turns")
    turns.add_argument(
        "--num_turns", "--turns", type=int, default=2, metavar="N", help="turns of each answer (default: %(default)s)"
    )
    turns.add_argument(
        "--max_new_tokens",
        type=int,
        nargs="+",
        metavar="N",
        help="most tokens of a turn, or a number for each turn (default: as in training, else 512)",
    )
    turns.add_argument(
        "--correction_prompt",
        metavar="TEXT",
        help="what is asked between turns (default: as in training, else the package's wording)",
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--do_sample", action="store_true", help="sample; greedy otherwise")
    sampling.add_argument("--temperature", type=float, metavar="T", help="of sampling (default: 1.0)")
    sampling.add_argument("--seed", type=int, metavar="N", help="of sampling (default: another one each time)")


def run(arguments: argparse.Namespace) -> int:
    """
    Answers the questions.

    Args:
        arguments (`argparse.Namespace`):
            The options.

    Returns:
        `int`: The exit code.

    Raises:
        OSError: If the model cannot be found.
        ValueError: If the question is empty, an option is out of range or goes with none of the others, there is no
            tokenizer, or the chat template cannot be continued.
    """
    is_asking = arguments.question is None and sys.stdin.isatty()
    question = arguments.question
    if question is None and not is_asking:
        question = sys.stdin.read().strip()
    if question is not None and not question.strip():
        raise ValueError(f"Expected a question, got {question!r}. Give it as an argument or on standard input.")
    options = _pipeline_options(arguments)

    import transformers
    from rich.console import Console

    from trl_score.pipeline import SelfCorrectionPipeline

    transformers.logging.disable_progress_bar()  # of loading weights
    pipe = SelfCorrectionPipeline(**options)
    console = Console(highlight=False)
    for asked in _ask(console) if is_asking else [question]:
        _show(console, pipe(asked), arguments.json)
    return 0


def _pipeline_options(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.do_sample and (arguments.temperature is not None or arguments.seed is not None):
        raise ValueError("`--temperature` and `--seed` are of sampling, got one without `--do_sample`. Add it.")
    budgets = arguments.max_new_tokens
    options = {
        "model": arguments.model,
        "tokenizer": arguments.tokenizer,
        "num_turns": arguments.num_turns,
        "max_new_tokens": budgets[0] if budgets is not None and len(budgets) == 1 else budgets,
        "correction_prompt": arguments.correction_prompt,
        "do_sample": arguments.do_sample,
        "temperature": 1.0 if arguments.temperature is None else arguments.temperature,
        "seed": arguments.seed,
    }
    if arguments.model == EMBEDDED:
        from trl_score.data import adder

        options["model"] = adder.adder_base_path()
        options["correction_prompt"] = arguments.correction_prompt or adder.CORRECTION_PROMPT
        options["max_new_tokens"] = options["max_new_tokens"] or adder.MAX_COMPLETION_LENGTH
    return options


def _ask(console: "Console") -> Iterator[str]:
    """Questions as they are typed, until the end of the input."""
    import readline  # noqa: F401  `input` then has editing keys and a history

    console.print("Type a question, or Ctrl-D to end.", style="dim")
    while True:
        try:
            question = input("question> ").strip()
        except EOFError:
            print()
            return
        if question:
            yield question


def _show(console: "Console", answer: "CorrectedAnswer", is_json: bool) -> None:
    if is_json:
        print(json.dumps(answer.as_dict(), ensure_ascii=False), flush=True)
        return
    from trl_score.terminal_view import print_turns

    prompt = answer.prompt
    question = prompt if isinstance(prompt, str) else str(prompt[-1].get("content") or "")
    print_turns(console, question, answer.turns, answer.answers, answer.truncated)
