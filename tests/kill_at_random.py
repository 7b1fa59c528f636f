"""
Kills runs at random moments, goes on with each, and compares it with the run that nobody killed (`make test-kill`).

    python tests/kill_at_random.py --seed 0 --moments 20

A moment is the N-th call or return of a function, Python's or a compiled one, in the main thread of process 0; N is
drawn from the seed, evenly over the run. The kinds of runs (full and LoRA, one process and two) take turns. Of two
processes, the other one is killed too once the first is gone. Ends with exit code 1 if a run differs, and keeps it.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import torch  # noqa: E402
from kill_harness import KILLED, KINDS, Runs, differences, output_of, reference_is_of_something  # noqa: E402
from local_models import save_local_model  # noqa: E402

logger = logging.getLogger("kill_at_random")


def make_reference(runs: Runs, kind: str, folder: Path) -> int:
    """Makes the run that nobody kills, and returns the number of events in it."""
    codes = runs.run(folder, kill={"event": 0}, **KINDS[kind])
    if set(codes) != {0} or not reference_is_of_something(folder):
        raise RuntimeError(f"The reference {kind!r} ended with {codes}:\n{output_of(folder)[-4000:]}")
    return int(torch.load(folder / "end.pt", weights_only=False)["num_events"])


def kill_and_go_on(runs: Runs, kind: str, event: int, folder: Path) -> str:
    """Kills a run at an event, goes on with it to its end, and says where it was killed."""
    codes = runs.run(folder, kill={"event": event}, **KINDS[kind])
    where = "before the first checkpoint"
    if (whole := sorted(folder.glob("checkpoint-*/whole.json"), key=lambda path: path.stat().st_mtime)) != []:
        where = f"after {whole[-1].parent.name} was whole"
    if half := [path.name for path in folder.glob("checkpoint-*") if not (path / "whole.json").exists()]:
        where += f", while {', '.join(half)} was being written"
    if KILLED not in codes:
        where = f"not killed, it ended with {codes}"
    codes = runs.run(folder, resume=True, **KINDS[kind])
    return where if set(codes) == {0} else f"{where}; THE RESUMED RUN ENDED WITH {codes}:\n{output_of(folder)[-4000:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--moments", type=int, default=20)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    root = Path(tempfile.mkdtemp(prefix="kill-at-random-"))
    rng = random.Random(arguments.seed)
    runs = Runs(save_local_model("qwen2", root / "model"))
    num_events = {kind: make_reference(runs, kind, root / f"reference-{kind}") for kind in KINDS}
    logger.info("seed %d, events of the runs: %s", arguments.seed, num_events)
    num_different = 0
    for moment in range(arguments.moments):
        kind = list(KINDS)[moment % len(KINDS)]
        event = rng.randint(1, num_events[kind])
        folder = root / f"moment-{moment}"
        where = kill_and_go_on(runs, kind, event, folder)
        found = differences(root / f"reference-{kind}", folder) if (folder / "end.pt").is_file() else ["no end"]
        share = event / num_events[kind]
        logger.info(
            "moment %d: %s, event %d (%.0f%%), %s: %s", moment, kind, event, 100 * share, where, found or "same"
        )
        num_different += bool(found)
        if not found:
            shutil.rmtree(folder)
    runs.close()
    logger.info("%d of %d moments differ", num_different, arguments.moments)
    if not num_different:
        shutil.rmtree(root)
    return int(num_different > 0)


if __name__ == "__main__":
    sys.exit(main())
