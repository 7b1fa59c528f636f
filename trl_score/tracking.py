"""
The figures and the table of a run where its numbers already are: in wandb, trackio and TensorBoard.

    SCoReTrainer(..., callbacks=[RunTracker()])

The trainer sends numbers as they are logged, and the rollouts' table with `log_completions`; this adds what
`trl-score plot` and `trl-score report` make of them. Nothing is imported of a tracker that `report_to` does not name.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trl_score.plots.log_history import LogHistory
from trl_score.plots.run_folder import Run, read_run
from trl_score.plots.run_metrics import TABLE_METRICS, evaluated_models
from trl_score.plots.runs import figures_of_runs

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FIGURES, TABLE = "figures", "self_correction"
"""What figures and the table are called in a tracker: `figures/training_curves`, `self_correction`."""

_LAST_LOG_KEY = "train_runtime"
_DPI = 150

Images: TypeAlias = Mapping[str, "NDArray[np.uint8]"]


class RunTracker(TrainerCallback):
    """
    Sends the figures of [`~trl_score.plots.plot_runs`] and the table of metrics to the run's trackers, at the end of
    training, from the main process.

    Where `report_to` names none of `"wandb"`, `"trackio"` and `"tensorboard"`, it does nothing. A figure that cannot be
    drawn is a warning: it ends no training.

    Args:
        every_evaluation (`bool`, *optional*, defaults to `False`):
            Whether to send them after each evaluation too. It takes a few seconds each time, while other processes
            wait.

    Example:

    ```python
    trainer = SCoReTrainer(model, reward, SCoReConfig("out", report_to="wandb"), callbacks=[RunTracker()])
    ```
    """

    def __init__(self, every_evaluation: bool = False) -> None:
        self.every_evaluation = every_evaluation

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Sends what there is so far, if asked to."""
        if self.every_evaluation:
            self._send(args, state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Sends all at the trainer's last log: at the end of training, trackio's own callback has closed its run."""
        if logs and _LAST_LOG_KEY in logs:
            self._send(args, state)

    def _send(self, args: TrainingArguments, state: TrainerState) -> None:
        senders = {"wandb": _send_to_wandb, "trackio": _send_to_trackio, "tensorboard": _send_to_tensorboard}
        wanted = [senders[name] for name in senders if name in (args.report_to or ())]
        if not wanted or not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir))
        try:
            run = read_run(folder, log_history=state.log_history)
            images, table = draw_images(run), metrics_table(run)
        except (ValueError, OSError) as error:
            logger.warning("The figures of step %d are not in the trackers: %s", state.global_step, error)
            return
        for send in wanted:
            send(images, table, state.global_step, folder)


def draw_images(run: Run) -> dict[str, "NDArray[np.uint8]"]:
    """
    Draws the figures that a run has the numbers for.

    Args:
        run ([`~trl_score.plots.Run`]):
            The run.

    Returns:
        `dict[str, ndarray]`: By name, pixels of shape (height, width, 3), 0 to 255.

    Raises:
        `ValueError`: If there is nothing to draw.
    """
    from matplotlib import pyplot

    images = {}
    for name, draw in figures_of_runs([run]).items():
        fig, _ = draw()
        images[name] = _pixels(fig)
        pyplot.close(fig)
    return images


def metrics_table(run: Run) -> "pd.DataFrame":
    """
    Puts the metrics of a run's evaluations into a table, and below them those of its log: each evaluation, and the last
    rollouts of training.

    Args:
        run ([`~trl_score.plots.Run`]):
            The run.

    Returns:
        `DataFrame`: Columns `model`, `n` (problems), and for each of `TABLE_METRICS` its value, and after it, with
        `_low` and `_high`, its 95% interval where it is known.

    Example:

    ```python
    >>> table = metrics_table(Run("demo", Path("demo"), [{"step": 9, "eval_score/accuracy_t1": 0.25}]))
    >>> table["model"].tolist(), table["accuracy_t1"].tolist()
    (['evaluation, step 9'], [0.25])

    ```
    """
    import pandas as pd

    rows = [_table_row(model.label, model.num_problems, model.metrics) for model in evaluated_models(run)]
    logged = [
        _table_row(label, None, {name: {"value": entry.get(f"{prefix}score/{name}")} for name in TABLE_METRICS})
        for label, prefix, entry in _logged_models(run.log_history)
    ]
    return pd.DataFrame([*rows, *logged])


def _logged_models(log_history: LogHistory) -> list[tuple[str, str, Mapping[str, Any]]]:
    evaluations = [entry for entry in log_history if "eval_score/accuracy_t1" in entry]
    trained = [entry for entry in log_history if "score/accuracy_t1" in entry][-1:]
    return [
        *((f"evaluation, step {entry['step']}", "eval_", entry) for entry in evaluations),
        *((f"training, step {entry['step']}", "", entry) for entry in trained),
    ]


def _table_row(
    label: str, num_problems: int | None, metrics: Mapping[str, Mapping[str, float | None]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": label, "n": num_problems}
    for name in TABLE_METRICS:
        metric = metrics.get(name, {})
        row |= {name: metric.get("value"), f"{name}_low": metric.get("low"), f"{name}_high": metric.get("high")}
    return row


def _pixels(fig: "Figure") -> "NDArray[np.uint8]":
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    fig.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(fig)
    canvas.draw()
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())
    return pixels[..., :3].copy()


def _send_to_wandb(images: Images, table: "pd.DataFrame", step: int, folder: Path) -> None:
    import wandb

    if wandb.run is not None:  # closed, or switched off by its own environment variables
        figures = {f"{FIGURES}/{name}": wandb.Image(image) for name, image in images.items()}
        wandb.log({**figures, TABLE: wandb.Table(dataframe=table), "train/global_step": step})


def _send_to_trackio(images: Images, table: "pd.DataFrame", step: int, folder: Path) -> None:
    import trackio

    figures = {f"{FIGURES}/{name}": trackio.Image(image) for name, image in images.items()}
    trackio.log({**figures, TABLE: trackio.Table(dataframe=table), "train/global_step": step})


def _send_to_tensorboard(images: Images, table: "pd.DataFrame", step: int, folder: Path) -> None:
    """Into a run of its own beside the numbers': the writer of those is the trainer's, and cannot be reached."""
    from torch.utils.tensorboard import SummaryWriter

    root = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or folder / "runs").expanduser()
    with SummaryWriter(log_dir=str(root / FIGURES)) as writer:
        for name, image in images.items():
            writer.add_image(f"{FIGURES}/{name}", image, step, dataformats="HWC")
        writer.add_text(TABLE, _markdown(table), step)


def _markdown(table: "pd.DataFrame") -> str:
    lines = [list(table.columns), ["---"] * len(table.columns)]
    lines += [["" if value is None or value != value else _number(value) for value in row] for row in table.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
