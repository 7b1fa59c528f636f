"""
Write one self-contained HTML page on a run: the table, the figures, the configuration, the verdicts of the collapse
detectors, and rollouts that can be filtered.

  trl-score report runs/demo --output report.html
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Adds the options of the command.

    Args:
        parser (`argparse.ArgumentParser`):
            Its parser.
    """
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--output", required=True, metavar="FILE", help="page to write, or a folder for report.html")
    parser.add_argument(
        "--num_rollouts", type=int, default=50, metavar="N", help="most rollouts to show (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a page that is there already")


def run(arguments: argparse.Namespace) -> int:
    """
    Writes the page.

    Args:
        arguments (`argparse.Namespace`):
            The options.

    Returns:
        `int`: The exit code.

    Raises:
        FileNotFoundError: If there is no such folder, or neither a log nor records lie in it.
        FileExistsError: If the page is there already and may not be replaced.
        ValueError: If a file of the run is cut off, there is nothing to draw, or `num_rollouts` is below 1.
    """
    from trl_score.report import write_report

    page = write_report(
        arguments.run, arguments.output, num_rollouts=arguments.num_rollouts, overwrite=arguments.overwrite
    )
    print(page)
    return 0
