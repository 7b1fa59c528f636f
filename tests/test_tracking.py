"""
Figures and table in the trackers, read back from the files that each of them really writes.

wandb and trackio are large, so that the tests install neither: `pip install trl_score[trackers]` runs those tests too.
"""

import io
import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from score_runs import addition_dataset, odd_length, short_config
from transformers import TrainerControl, TrainerState

from trl_score import SCoReTrainer
from trl_score.log_keys import SCORE_LOG_KEYS
from trl_score.plots.run_folder import Run
from trl_score.plots.run_metrics import TABLE_METRICS
from trl_score.tracking import RunTracker, draw_images, metrics_table

HISTORY_FIGURES = ["training_curves", "rewards", "answer_change_rate", "kl_per_turn", "turn_lengths"]
LAST_LOG = {"train_runtime": 1.0}


def needs(package):
    reason = f"{package} is not installed: `pip install trl_score[trackers]` brings it"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


def log_history(num_steps=4):
    keys = {**dict.fromkeys(SCORE_LOG_KEYS, 0.25), "score/stage": 1}
    training = [{"step": step, **keys, "score/accuracy_t1": step / 10} for step in range(1, num_steps + 1)]
    evaluation = {f"eval_{key}": 0.5 for key in SCORE_LOG_KEYS} | {"eval_score/accuracy_t2": 0.75}
    return [*training, {"step": num_steps, **evaluation}]


def make_state(**fields):
    return TrainerState(**{"global_step": 4, "is_world_process_zero": True, "log_history": log_history(), **fields})


def send(folder, report_to, state=None, logs=None, tracker=None):
    folder.mkdir(exist_ok=True)
    args = short_config(folder, report_to=report_to)
    (tracker or RunTracker()).on_log(args, state or make_state(), TrainerControl(), logs=logs or LAST_LOG)


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def read_png(encoded):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(encoded)))


# The table


def test_table_has_evaluations_of_the_folder_and_of_the_log():
    metric = {"value": 0.5, "low": 0.25, "high": None}
    summary = {"base": {"greedy": dict.fromkeys(TABLE_METRICS, metric)}, "num_problems": 9}
    table = metrics_table(Run("demo", Path("demo"), log_history(), summary=summary))
    assert table["model"].tolist() == ["base, greedy", "evaluation, step 4", "training, step 4"]
    assert table["n"].tolist()[0] == 9 and table["n"].isna().tolist() == [False, True, True]
    assert table["accuracy_t1"].tolist() == [0.5, 0.5, 0.4]
    assert table["accuracy_t2"].tolist() == [0.5, 0.75, 0.25]
    assert table["delta_t1_t2_low"].tolist()[0] == 0.25
    assert table["delta_t1_t2_high"].isna().all() and table["delta_t1_t2_low"].isna().tolist() == [False, True, True]


@pytest.fixture(scope="module")
def images():
    return draw_images(Run("demo", Path("demo"), log_history()))


def test_images_are_the_pixels_of_the_figures(images):
    assert list(images) == HISTORY_FIGURES
    for image in images.values():
        assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) > 400
        assert (image[0, 0] == 255).all() and image.std() > 10  # white ground, and something on it


# When it sends


@pytest.mark.parametrize(
    ("report_to", "state", "logs"),
    [
        ("none", make_state(), LAST_LOG),
        ("tensorboard", make_state(is_world_process_zero=False), LAST_LOG),
        ("tensorboard", make_state(), {"loss": 1.0}),
    ],
)
def test_it_sends_once_from_one_process_to_those_that_are_on(tmp_path, report_to, state, logs):
    send(tmp_path, report_to, state, logs)
    assert not (tmp_path / "runs").exists()


def test_evaluations_are_sent_if_asked_for(tmp_path):
    args, state = short_config(tmp_path, report_to="tensorboard"), make_state()
    RunTracker().on_evaluate(args, state, TrainerControl())
    assert not (tmp_path / "runs").exists()
    RunTracker(every_evaluation=True).on_evaluate(args, state, TrainerControl())
    assert "figures/training_curves" in read_tensorboard(tmp_path / "runs" / "figures").Tags()["images"]


def test_what_cannot_be_drawn_is_a_warning(tmp_path, caplog):
    state = make_state(log_history=[{"step": 4, "loss": 1.0}])
    with caplog.at_level(logging.WARNING, logger="trl_score.tracking"):
        send(tmp_path, "tensorboard", state)
    assert caplog.messages[0].startswith("The figures of step 4 are not in the trackers: Expected logs of SCoRe")
    assert not (tmp_path / "runs").exists()


# TensorBoard


def test_a_trained_run_has_its_figures_and_table_in_tensorboard(local_model, tmp_path):
    SCoReTrainer(
        str(local_model("qwen2")),
        odd_length,
        args=short_config(tmp_path, report_to="tensorboard", stage="1", eval_strategy="steps", eval_steps=2),
        train_dataset=addition_dataset(),
        eval_dataset=addition_dataset(num_rows=8),
        callbacks=[RunTracker()],
    ).train()
    events = read_tensorboard(tmp_path / "runs" / "figures")
    assert events.Tags()["images"] == [f"figures/{name}" for name in HISTORY_FIGURES]
    (image,) = events.Images("figures/training_curves")
    assert image.step == 2 and read_png(image.encoded_image_string).shape == (image.height, image.width, 3)
    (text,) = events.Tensors("self_correction/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| evaluation, step 2", "| training, step 2"]
    # The numbers are where they always are.
    (numbers,) = [path for path in (tmp_path / "runs").iterdir() if path.name != "figures"]
    assert "train/score/accuracy_t1" in read_tensorboard(numbers).Tags()["scalars"]


def test_tensorboard_goes_where_its_variable_says(tmp_path, monkeypatch, images):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "elsewhere"))
    send(tmp_path / "out", "tensorboard")
    (logged,) = read_tensorboard(tmp_path / "elsewhere" / "figures").Images("figures/rewards")
    assert logged.step == 4 and (read_png(logged.encoded_image_string) == images["rewards"]).all()


# wandb


@needs("wandb")
def test_wandb_has_the_figures_and_the_table(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=str(tmp_path)) as run:
        send(tmp_path / "out", "wandb")
        media = Path(run.dir) / "media"
    assert sorted(path.name.split("_0_")[0] for path in media.rglob("*.png")) == sorted(HISTORY_FIGURES)
    (table,) = media.rglob("*.table.json")
    saved = json.loads(table.read_text())
    assert saved["columns"][:3] == ["model", "n", "accuracy_t1"]
    assert [row[0] for row in saved["data"]] == ["evaluation, step 4", "training, step 4"]


@needs("wandb")
def test_wandb_that_is_not_running_is_left_alone(tmp_path):
    send(tmp_path, "wandb")  # raises where something is logged without a run


# trackio


TRACKIO_RUN = """
import sys
from pathlib import Path
import trackio
from test_tracking import send
trackio.init(project="demo", name="seed0")
send(Path(sys.argv[1]), "trackio")
trackio.finish()
from trackio.sqlite_storage import SQLiteStorage
import json
print(json.dumps(SQLiteStorage.get_logs("demo", "seed0")))
"""


@needs("trackio")
def test_trackio_has_the_figures_and_the_table(tmp_path):
    # In a process of its own: it reads once, when it is imported, where to write.
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", TRACKIO_RUN, str(tmp_path / "out")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (logged,) = json.loads(result.stdout.splitlines()[-1])
    for name in HISTORY_FIGURES:
        file = tmp_path / "trackio" / "media" / logged[f"figures/{name}"]["file_path"]
        assert read_png(file.read_bytes()).shape[2] == 4  # it adds an opaque alpha
    rows = logged["self_correction"]["_value"]
    assert [row["model"] for row in rows] == ["evaluation, step 4", "training, step 4"]
    assert rows[0]["accuracy_t2"] == 0.75
