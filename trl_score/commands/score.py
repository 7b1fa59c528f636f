"""
Train a language model to correct itself with SCoRe: two turns, two stages. Without a configuration and without a model,
the embedded task: no network, a few minutes on two cores, then a table, a figure and some dialogues.

  trl-score score
  trl-score score --config examples/configs/qwen2.5-1.5b_lora.yaml --dataset_name problems.jsonl
  trl-score score --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --dataset_name openai/gsm8k --dataset_config main \\
      --reward_funcs my_module.my_reward --use_peft
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

    return make_program_parser("score", prog, description, launches=True)


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

    return start("score", arguments)
