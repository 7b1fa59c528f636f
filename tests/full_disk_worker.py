"""
What `test_full_disk.py` starts in a mount namespace of its own, where a small disk can be mounted and vanishes with it.

    unshare --mount --map-root-user python full_disk_worker.py MODEL FOLDER

Trains on a disk that holds one checkpoint and a half, makes room and goes on, and trains where nothing can be written.
Writes `errors.json` (the error of each with its notes), and the weights of the run that went on and of one on a disk
that was never full.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch  # noqa: E402
from score_runs import addition_dataset, odd_length, short_config, weights_of  # noqa: E402

from trl_score.score.score_trainer import SCoReTrainer  # noqa: E402


def mount(folder: Path, options: str) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def train(model: str, folder: Path, resume: bool | None = None, **options: Any) -> dict[str, torch.Tensor]:
    args = short_config(folder, max_steps=3, save_strategy="steps", save_steps=1, **options)
    trainer = SCoReTrainer(model=model, reward_funcs=odd_length, args=args, train_dataset=addition_dataset())
    trainer.train(resume_from_checkpoint=resume)
    return weights_of(trainer.model)


def error_of(model: str, folder: Path) -> list[str]:
    """The error with which a run ends, and what was added to it."""
    try:
        train(model, folder)
    except Exception as error:  # noqa: BLE001 -- the error is what is looked at
        return [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]
    return []


def main(model: str, folder: Path) -> None:
    torch.set_num_threads(1)
    whole = train(model, folder / "whole")
    size = sum(path.stat().st_size for path in (folder / "whole" / "checkpoint-1").rglob("*"))
    disk = folder / "disk"
    mount(disk, f"size={int(1.5 * size)}")
    errors = {"full": error_of(model, disk)}
    left = sorted(path.name for path in disk.iterdir() if path.is_dir())
    subprocess.run(["mount", "-o", f"remount,size={5 * size}", str(disk)], check=True)
    resumed = train(model, disk, resume=True)
    read_only = folder / "read_only"
    mount(read_only, "size=1m,ro")
    errors["read-only"] = error_of(model, read_only)
    (folder / "errors.json").write_text(json.dumps({"errors": errors, "left": left}))
    torch.save({"whole": whole, "resumed": resumed}, folder / "weights.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
