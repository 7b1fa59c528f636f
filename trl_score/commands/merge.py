"""
Merge an adapter into its base model: a full model that answers alike, saved with the tokenizer, the chat template, the
settings and a card. A CLoud adapter becomes a full reward model, with its head.

  trl-score merge runs/score --output merged
  trl-score merge ann/corrector --output merged --dtype bfloat16
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Adds the options of the command.

    Args:
        parser (`argparse.ArgumentParser`):
            Its parser.
    """
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of a run or a checkpoint, or a name on the Hub")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the full model; new or empty")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="in what the weights are merged and saved (default: %(default)s, the base's own)",
    )
    parser.add_argument("--base_model", metavar="NAME", help="where the base lies (default: where the adapter says)")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base model")


def run(arguments: argparse.Namespace) -> int:
    """
    Merges, and prints where to and how far the outputs are from the adapter's.

    Args:
        arguments (`argparse.Namespace`):
            The options.

    Returns:
        `int`: The exit code.

    Raises:
        FileExistsError: If the output holds something.
        FileNotFoundError: If there is no adapter.
        ValueError: If the adapter is of another trainer, cannot be merged, or the merged model answers otherwise.
    """
    from trl_score.publishing.merge import merge_adapter

    merged = merge_adapter(
        arguments.adapter,
        arguments.output,
        dtype=arguments.dtype,
        base_model=arguments.base_model,
        trust_remote_code=arguments.trust_remote_code,
    )
    print(f"{merged.folder}: outputs on a probe differ by {merged.difference:.2g} at most (largest {merged.scale:.2g})")
    return 0
