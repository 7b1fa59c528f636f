"""Tests of reading run folders and of drawing all that they hold: names, several runs, unlike tasks, overwriting."""

import json

import pandas as pd
import pytest

from trl_score.log_keys import SCORE_LOG_KEYS
from trl_score.plots import figures_of_runs, plot_runs, read_run, read_runs
from trl_score.plots.run_folder import label_folders

HISTORY_FIGURES = ["training_curves", "rewards", "answer_change_rate", "kl_per_turn", "turn_lengths"]
ACCURACY = {"value": 0.5, "low": 0.4, "high": 0.6}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_log(folder, reward="sum_reward", steps=6):
    keys = {key: 0.5 for key in SCORE_LOG_KEYS if key != "score/stage"}
    history = [
        {"step": step, **keys, "score/stage": 1 + step // 4, f"rewards/{reward}/mean": 0.5} for step in range(1, steps)
    ]
    write_json(folder / "trainer_state.json", {"log_history": history, "max_steps": steps})


def write_records(path, prompts=("1+2", "3+4"), samples=1, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"prompt": prompt, "turns": ["4", "3"], "rewards": [0.0, float(prompt == prompts[0])], **fields}
        for prompt in prompts
        for _ in range(samples)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "SCoRe"
    write_log(folder)
    write_records(folder / "records.jsonl")
    return folder


def test_everything_that_can_be_drawn_is(run_folder, tmp_path):
    write_records(run_folder / "records_sampled.jsonl", samples=4)
    for step in (2, 10):
        write_records(run_folder / f"checkpoint-{step}" / "records.jsonl")
        write_records(run_folder / f"checkpoint-{step}" / "records_given.jsonl", is_turn_1_offline=True)
    stage = {"accuracy_t1": ACCURACY, "accuracy_t2": ACCURACY}
    write_json(run_folder / "summary.json", {"base": {"greedy": stage, "sampled": stage}, "seed": 0})
    written = plot_runs([run_folder], tmp_path / "new" / "figures")
    names = [*HISTORY_FIGURES, "edit_distance", "accuracy_by_turn", "inference_scaling", "first_turns", "stage_summary"]
    assert [path.name for path in written] == [f"{name}{suffix}" for name in names for suffix in (".png", ".svg")]
    assert all(path.parent == tmp_path / "new" / "figures" and path.stat().st_size > 1000 for path in written)


def test_what_was_not_logged_or_recorded_is_left_out(run_folder, tmp_path):
    (run_folder / "records.jsonl").unlink()
    assert list(figures_of_runs([read_run(run_folder)])) == HISTORY_FIGURES
    write_records(tmp_path / "evaluated" / "records.jsonl")
    assert list(figures_of_runs([read_run(tmp_path / "evaluated")])) == ["edit_distance", "accuracy_by_turn"]
    short = tmp_path / "short"
    write_json(short / "trainer_state.json", {"log_history": [{"step": 1, "score/kl_t1": 0.1, "loss": 0.5}]})
    assert list(figures_of_runs([read_run(short)])) == ["kl_per_turn"]


def test_several_runs_lie_over_each_other(run_folder, tmp_path):
    write_log(tmp_path / "RL", steps=4)
    figures = figures_of_runs(read_runs({"SCoRe": run_folder, "no Stage I": tmp_path / "RL"}))
    for name in HISTORY_FIGURES:
        fig, _ = figures[name]()
        legends = fig.legends or [ax.get_legend() for ax in fig.axes]
        assert {"SCoRe", "no Stage I"} <= {text.get_text() for text in legends[0].get_texts()}


def test_histograms_compare_base_with_trained_and_training_with_evaluation(run_folder):
    write_records(run_folder / "records_base.jsonl")
    write_records(run_folder / "checkpoint-5" / "records.jsonl")
    row = {"prompt": "q", "completion_t1": "a", "completion_t2": "b", "r_t1": 1.0, "r_t2": 1.0}
    folder = run_folder / "completions"
    folder.mkdir()
    for name, num_rows in {"completions_00002": 9, "completions_00010": 2, "eval_completions_00010": 3}.items():
        pd.DataFrame([row] * num_rows).to_parquet(folder / f"{name}.parquet")
    _, panels = figures_of_runs([read_run(run_folder)])["edit_distance"]()
    assert [ax.get_title(loc="left") for ax in panels] == [
        "base (n = 2)",
        "SCoRe (n = 2)",
        "train (n = 2)",  # of the last step
        "eval (n = 3)",
    ]
    assert "insert-and-delete" in panels[-1].get_xlabel()


def test_records_are_named_after_their_files(tmp_path):
    for name in ("records.jsonl", "records_base.jsonl", "greedy/records.jsonl", "greedy/records-seed1.jsonl"):
        write_records(tmp_path / name)
    assert list(read_run(tmp_path).records) == ["base", "", "greedy", "greedy/seed1"]


def test_records_of_the_last_checkpoint_stand_for_the_run_where_there_are_no_others(tmp_path):
    for step in (20, 100):
        write_records(tmp_path / f"checkpoint-{step}" / "records.jsonl")
    assert list(read_run(tmp_path).final_records) == ["checkpoint-100"]
    write_records(tmp_path / "records.jsonl")
    assert list(read_run(tmp_path).final_records) == [""]


def test_first_turns_are_a_curve_over_checkpoints(run_folder):
    for step in (20, 100):
        write_records(run_folder / f"checkpoint-{step}" / "records.jsonl")
        write_records(run_folder / f"checkpoint-{step}" / "records_given.jsonl", is_turn_1_offline=True)
    _, ax = figures_of_runs([read_run(run_folder)])["first_turns"]()
    drawn = {container.get_label(): container[0] for container in ax.containers}
    assert drawn["given first turns"].get_xdata() == pytest.approx([20.4, 100.4], rel=1e-12)
    assert list(drawn["own first turns"].get_ydata()) == [0.5, 0.5]  # one of two wrong first turns was corrected


def test_given_first_turns_are_in_no_figure_of_the_models_own(run_folder):
    write_records(run_folder / "records_given.jsonl", is_turn_1_offline=True)
    figures = figures_of_runs([read_run(run_folder)])
    _, panels = figures["edit_distance"]()
    assert [ax.get_title(loc="left") for ax in panels] == ["SCoRe (n = 2)"]
    _, ax = figures["accuracy_by_turn"]()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["SCoRe"]


def test_a_run_of_given_first_turns_alone_is_drawn_and_says_so(tmp_path):
    write_records(tmp_path / "repair" / "records.jsonl", is_turn_1_offline=True)
    figures = figures_of_runs([read_run(tmp_path / "repair")])
    assert list(figures) == ["edit_distance", "accuracy_by_turn"]
    _, ax = figures["accuracy_by_turn"]()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["repair, given first turns"]


def test_scaling_of_several_runs_names_them(run_folder, tmp_path):
    for folder in (run_folder, tmp_path / "RL"):
        write_records(folder / "records.jsonl", samples=2)
    _, ax = figures_of_runs(read_runs([run_folder, tmp_path / "RL"]))["inference_scaling"]()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0] == "SCoRe, 2K in parallel" and labels[3] == "RL, K in parallel, each corrected once"


def test_labels_tell_equal_names_apart(tmp_path):
    assert list(label_folders([tmp_path / "a" / "seed0", tmp_path / "b" / "seed0"])) == ["a/seed0", "b/seed0"]
    with pytest.raises(ValueError, match=r"Expected each run once, got .* name one twice"):
        label_folders([tmp_path, f"{tmp_path}/."])


def test_nothing_is_overwritten_unless_it_is_said(run_folder, tmp_path):
    output = tmp_path / "figures"
    output.mkdir()
    (output / "rewards.svg").write_text("mine")
    with pytest.raises(FileExistsError, match=r"1 that are there already, such as '.*rewards\.svg'.*`--overwrite`"):
        plot_runs([run_folder], output)
    assert [path.name for path in output.iterdir()] == ["rewards.svg"]
    assert (output / "rewards.svg").read_text() == "mine"
    plot_runs([run_folder], output, overwrite=True)
    assert "<svg" in (output / "rewards.svg").read_text()


def test_folders_without_a_run_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder of a run, got '.*nowhere', which is no folder"):
        plot_runs([tmp_path / "nowhere"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Expected logs .* or records .* in '.*empty', got neither"):
        plot_runs([tmp_path / "empty"], tmp_path)
    with pytest.raises(ValueError, match="at least one run, got none"):
        plot_runs([], tmp_path)


def test_a_run_of_something_else_is_named(tmp_path):
    write_json(tmp_path / "sft" / "trainer_state.json", {"log_history": [{"step": 1, "loss": 0.5}]})
    with pytest.raises(ValueError, match=r"logs of SCoRe or records .* Logged were \['loss', 'step'\]"):
        plot_runs([tmp_path / "sft"], tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("name", ["records.jsonl", "trainer_state.json", "summary.json"])
def test_a_file_that_was_cut_off_is_named(run_folder, tmp_path, name):
    file = run_folder / name
    file.write_text(file.read_text()[:-10] if file.exists() else '{"base": {')
    with pytest.raises(ValueError, match=rf"{name}'.* cut off"):
        plot_runs([run_folder], tmp_path / "figures")


def test_unlike_tasks_are_refused(run_folder, tmp_path):
    write_log(tmp_path / "maths", reward="maths_reward")
    message = r"like tasks .* 'SCoRe' with the reward functions \['sum_reward'\] and 'maths' with \['maths_reward'\]"
    with pytest.raises(ValueError, match=message):
        read_runs([run_folder, tmp_path / "maths"])
    write_records(run_folder / "records.jsonl", task="gsm8k")
    write_records(tmp_path / "other" / "records.jsonl", task="math")
    with pytest.raises(ValueError, match=r"with the tasks \['gsm8k'\] and 'other' with \['math'\]"):
        read_runs([run_folder, tmp_path / "other"])


def test_without_a_task_the_problems_tell(run_folder, tmp_path):
    write_records(tmp_path / "other" / "records.jsonl", prompts=("5*6",))
    with pytest.raises(ValueError, match="no problem that both 'SCoRe' and 'other' were evaluated on"):
        read_runs([run_folder, tmp_path / "other"])
    write_records(tmp_path / "other" / "records.jsonl", prompts=("5*6", "1+2"))
    assert len(read_runs([run_folder, tmp_path / "other"])) == 2
