"""
Push the folder of a run to the Hub: the model or adapter, the tokenizer, the settings, the numbers and figures that are
there, and the model card. Optimizer states, pickles and logs stay here. No model is loaded, and pushing the same folder
twice makes no second commit.

  trl-score push runs/score --repo_id ann/corrector
  trl-score push runs/score --dry_run
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Adds the options of the command.

    Args:
        parser (`argparse.ArgumentParser`):
            Its parser.
    """
    parser.add_argument("run", metavar="RUN", help="output folder of a run, or one of its checkpoints")
    parser.add_argument("--repo_id", metavar="NAME", help="repository, made if missing (default: that of the run)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to, which must exist (default: main)")
    parser.add_argument(
        "--base_model", metavar="NAME", help="the base model's name on the Hub, if it was a local folder"
    )
    parser.add_argument(
        "--commit_message", default="Push the run", metavar="TEXT", help="message of the commit (default: %(default)s)"
    )
    parser.add_argument("--dry_run", action="store_true", help="list what would be pushed, and stop")


def run(arguments: argparse.Namespace) -> int:
    """
    Pushes, and prints where to.

    Args:
        arguments (`argparse.Namespace`):
            The options.

    Returns:
        `int`: The exit code.

    Raises:
        FileNotFoundError: If no model lies in the folder.
        ValueError: If the repository is not known, or a file cannot be published.
        PushError: If the Hub refuses, or cannot be reached.
    """
    from pathlib import Path

    from trl_score.publishing.files import published_files
    from trl_score.publishing.push import push_run

    if arguments.dry_run:
        for file in published_files(Path(arguments.run), arguments.base_model):
            print(f"{file.num_bytes:>14,}  {file.path}")
        return 0
    commit = push_run(
        arguments.run,
        arguments.repo_id,
        private=arguments.private or None,
        revision=arguments.revision,
        base_model=arguments.base_model,
        commit_message=arguments.commit_message,
    )
    print(commit.commit_url)
    return 0
