"""
Draw the figures of one run, or of several over each other, as PNG and SVG.

What is drawn depends on what lies in the folders: the log of a training, the records of evaluations, tables of
rollouts, the summary of a final evaluation. No model is loaded.

  trl-score plot runs/demo --output figures
  trl-score plot runs/score runs/no_stage_1 --labels "SCoRe" "no Stage I" --output figures
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Adds the options of the command.

    Args:
        parser (`argparse.ArgumentParser`):
            Its parser.
    """
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write into; made if missing")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="what each run is called (default: its folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace figures that are there already")


def run(arguments: argparse.Namespace) -> int:
    """
    Draws and saves.

    Args:
        arguments (`argparse.Namespace`):
            The options.

    Returns:
        `int`: The exit code.

    Raises:
        FileNotFoundError: If a folder does not exist, or holds neither a log nor records.
        FileExistsError: If a figure is there already and may not be replaced.
        ValueError: If there is not one label of its own for each run, a file is cut off, two runs are of unlike tasks,
            or there is nothing to draw.
    """
    from trl_score.plots import plot_runs

    folders = arguments.runs
    if arguments.labels is not None:
        if len(arguments.labels) != len(folders) or len(set(arguments.labels)) != len(folders):
            raise ValueError(
                f"Expected a label of its own for each of {len(folders)} runs, got {arguments.labels}. Give one per "
                "run in `--labels`, in the order of the runs."
            )
        folders = dict(zip(arguments.labels, folders, strict=True))
    for path in plot_runs(folders, arguments.output, overwrite=arguments.overwrite):
        print(path)
    return 0
