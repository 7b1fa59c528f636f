"""
Train a reward model that writes a critique before it gives a reward: CLoud. Without a configuration and without a
model, the embedded task: no network, a few minutes on two cores, then a table and some critiques.

  trl-score cloud
  trl-score cloud --config examples/configs/llama3.1-8b_cloud.yaml --dataset_name pairs.jsonl
  trl-score cloud --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --dataset_name pairs_with_critiques.jsonl \\
      --stage both --learning_rate 1e-6
"""

import argparse

from trl_score.command_parser import CommandParser


def make_parser(prog: str, description: str) -> CommandParser:
    """
    Makes the parser of the command: its options are those of the configurations.

    Args:
        prog (`str`):
            What the user typed up to here.
        description (`str`):
            What `--help` says first.

    Returns:
        [`CommandParser`]: The parser.
    """
    from trl_score.programs.parser import make_program_parser

    return make_program_parser("cloud", prog, description, launches=True)


def run(arguments: argparse.Namespace) -> int:
    """
    Trains, on as many processes as the launcher's options say.

    Args:
        arguments (`argparse.Namespace`):
            The options.

    Returns:
        `int`: The exit code.

    Raises:
        ValueError: If a configuration or the data cannot be used.
    """
    from trl_score.programs.launcher import start

    return start("cloud", arguments)
