"""
The laboratory: every method on the embedded task, several seeds each, then one table and the figures.

    python examples/lab/run_lab.py                                      # all of it, `make lab`
    python examples/lab/run_lab.py --methods score pair_sft --seeds 0 1 # a part
    python examples/lab/run_lab.py --jobs 8                             # on more cores, one each

Each (method, seed) is a run of `examples/train_baseline.py` in a process of its own. What is finished is not done
again: end it with Ctrl-C, or kill it, and start it anew. A result counts as finished if method and configuration are
still those that it was made with; the code is not looked at, only its commit noted.

Results: `runs/lab/summary.json` (docs/lab.md has its layout), its tables as Markdown in `tables.md`, the figures beside
it, and of each run its folder and log.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from lab_evaluations import SETTINGS
from lab_figures import draw_figures
from lab_jobs import Failure, Job, fingerprint_of, run_jobs, sole_user
from lab_summary import METHODS, markdown_tables, print_tables, summarise
from rich.console import Console

from trl_score.data import adder

HERE = Path(__file__).parent
TRAINING_SCRIPT = HERE.parent / "train_baseline.py"
CONFIG = HERE / "lab.yaml"
SEEDS = (0, 1, 2, 3, 4)
FURTHER_EVALUATIONS: dict[str, tuple[str, ...]] = {
    "base": ("turns", "chain", "scaling"),
    "star_plus": ("chain",),
    "pair_sft": ("chain", "first_turns"),
    "score": ("turns", "chain", "scaling"),
}
"""Method -> the evaluations that its figures need beside its two turns, see lab_evaluations.py."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
    "TOKENIZERS_PARALLELISM": "false",
}


def training_job(method: str, seed: int, config: Path, output: Path) -> Job:
    """
    Describes the training of one method with one seed.

    Args:
        method (`str`):
            The method, as `train_baseline.py` calls it.
        seed (`int`):
            Its seed.
        config (`Path`):
            The configuration of all methods.
        output (`Path`):
            The laboratory's folder.

    Returns:
        `Job`: the job.
    """
    folder = output / method / f"seed{seed}"
    # TrlParser knows `--config FILE` as two words only.
    flags = ("--config", str(config), f"--method={method}", f"--seed={seed}", f"--output_dir={folder}")
    return Job(
        name=f"{method}, seed {seed}",
        command=(sys.executable, str(TRAINING_SCRIPT), *flags),
        folder=folder,
        # What the file says, not how: a comment may change.
        fingerprint=fingerprint_of({"method": method, "config": yaml.safe_load(config.read_text())}),
        needed=("summary.json", "records.jsonl", "records_sampled.jsonl"),
    )


def evaluation_job(training: Job, method: str, seed: int) -> Job:
    """
    Describes the further evaluations of a trained model.

    Args:
        training (`Job`):
            The job that trained it.
        method (`str`):
            Its method.
        seed (`int`):
            Its seed.

    Returns:
        `Job`: the job.
    """
    kinds = FURTHER_EVALUATIONS[method]
    model = adder.adder_base_path() if method == "base" else training.folder
    folder = training.folder.with_name(f"seed{seed}_more")
    flags = (f"--model={model}", f"--seed={seed}", f"--output={folder}", "--kinds", *kinds)
    return Job(
        name=f"{method}, seed {seed}, further evaluations",
        command=(sys.executable, str(HERE / "lab_evaluations.py"), *flags),
        folder=folder,
        fingerprint=fingerprint_of(
            {"training": training.fingerprint, "settings": {kind: SETTINGS[kind] for kind in kinds}}
        ),
    )


def run_laboratory(
    methods: Sequence[str],
    seeds: Sequence[int],
    config: Path,
    output: Path,
    num_at_once: int,
    max_load: float = math.inf,
) -> list[Failure]:
    """
    Trains and evaluates what is not finished yet.

    Args:
        methods (`Sequence[str]`):
            The methods.
        seeds (`Sequence[int]`):
            The seeds of each.
        config (`Path`):
            The configuration of all methods.
        output (`Path`):
            The laboratory's folder.
        num_at_once (`int`):
            Most jobs at a time.
        max_load (`float`, *optional*):
            As in `lab_jobs.run_jobs`.

    Returns:
        `list[Failure]`: the jobs that failed. What needs a failed one is left out.
    """
    # Seed by seed: were it ended early, all methods would have the same seeds.
    trainings = {(method, seed): training_job(method, seed, config, output) for seed in seeds for method in methods}
    failures = run_jobs(list(trainings.values()), num_at_once, ENVIRONMENT, "training", max_load=max_load)
    evaluations = [
        evaluation_job(training, method, seed)
        for (method, seed), training in trainings.items()
        if method in FURTHER_EVALUATIONS and training.is_finished
    ]
    return failures + run_jobs(evaluations, num_at_once, ENVIRONMENT, "further evaluations", max_load=max_load)


def finished_seeds(methods: Sequence[str], seeds: Sequence[int], config: Path, output: Path) -> list[int]:
    """
    Finds the seeds that all methods have finished.

    Args:
        methods, seeds, config, output:
            As in [`run_laboratory`].

    Returns:
        `list[int]`: those seeds: methods are only compared on the same ones.
    """
    return [seed for seed in seeds if all(training_job(method, seed, config, output).is_finished for method in methods)]


def make_parser() -> argparse.ArgumentParser:
    """Makes the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: %(default)s")
    parser.add_argument(
        "--config", type=Path, default=CONFIG, help="of all methods; default: lab.yaml beside this file"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/lab"), help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time; default: one for each core")
    parser.add_argument("--max_load", type=float, default=math.inf, help="no second job while the load is above this")
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line, and refuses what would be seen to be wrong only after hours."""
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    if chosen.jobs < 1:
        parser.error(f"Expected `--jobs` to be 1 or more, got {chosen.jobs}.")
    if not chosen.config.is_file():
        parser.error(f"Expected `--config` to be a file, got {str(chosen.config)!r}, which is none.")
    # A method or seed that is named twice is run once.
    chosen.methods, chosen.seeds = list(dict.fromkeys(chosen.methods)), list(dict.fromkeys(chosen.seeds))
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line names, and shows all that is finished of it."""
    chosen = parse(arguments)
    console = Console()
    with sole_user(chosen.output):
        what = (chosen.methods, chosen.seeds, chosen.config, chosen.output)
        failures = run_laboratory(*what, chosen.jobs, chosen.max_load)
        seeds = finished_seeds(*what)
        if seeds:
            summary = summarise(chosen.output, chosen.methods, seeds)
            file = chosen.output / "summary.json"
            file.write_text(json.dumps(summary, indent=2) + "\n")
            (chosen.output / "tables.md").write_text(markdown_tables(summary))
            print_tables(console, summary)
            figures = draw_figures(chosen.output, summary)
            console.print(f"Numbers: {file}   Figures: {', '.join(figure.name for figure in figures)}")
    for failure in failures:
        console.print(f"\n{failure.job.name} {failure.reason}. The end of {failure.job.log_file}:", style="bold")
        console.print(failure.tail, markup=False, highlight=False)
    if set(seeds) < set(chosen.seeds):
        console.print(f"\nOnly seeds {seeds} of {chosen.seeds} are finished by all methods.")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nEnded. What was finished is kept: the same command goes on from there.")
    except BlockingIOError as error:
        sys.exit(str(error))
