"""The model card, made from a folder alone: what it says, that its metadata are valid, and that its Markdown is."""

import json

import pytest
import yaml
from hub_server import metadata_problems
from markdown_it import MarkdownIt
from run_folders import CORRECTION, RECORD, adapter_run, summary, write_json

from trl_score.publishing.card import Licence, is_edited, method_of, render_card, write_card
from trl_score.publishing.results import draw_figures, main_results, result_tables, write_number


@pytest.fixture
def run(tmp_path):
    folder = adapter_run(tmp_path / "run")
    write_json(folder / "summary.json", summary())
    return folder


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def section(card, heading):
    return card.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def html(card):
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2])


def test_metadata_say_what_it_is_and_what_of(run):
    data = metadata(render_card(run, licence=Licence("other", "Ann's", "https://example.org/licence")))
    expected = {
        "base_model": "ann/base",
        "base_model_relation": "adapter",
        "datasets": ["ann/sums"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": "Ann's",
        "license_link": "https://example.org/licence",
        "tags": ["lora", "score", "trl"],
    }
    assert {key: data[key] for key in expected} == expected


def test_metadata_hold_the_results_of_the_last_stage_greedy(run):
    model = metadata(render_card(run))["model-index"][0]
    assert model["name"] == "corrector"
    metrics = {metric["type"]: metric["value"] for result in model["results"] for metric in result["metrics"]}
    # summary(): 0.3 + 0.01 for each metric, in their order; greedy after Stage II
    assert metrics == {
        "accuracy_t1": 0.3,
        "accuracy_t2": 0.31,
        "delta_t1_t2": 0.32,
        "delta_i_to_c": 0.33,
        "delta_c_to_i": 0.34,
        "answers_changed": 0.35,
    }


@pytest.mark.parametrize("options", [{}, {"base_model": "bob/other"}, {"with_results": False}, {"repo_id": "bob/own"}])
def test_metadata_are_valid(run, options):
    assert metadata_problems(render_card(run, **options)) == []


def test_the_check_of_metadata_finds_what_the_hub_refuses(run):
    card = render_card(run)
    assert metadata_problems(card.replace("base_model: ann/base", "base_model: /home/ann/base"))
    assert metadata_problems(card.replace("tags:\n- lora", "tags:\n- 1\n- lora"))


def test_a_full_model_is_a_fine_tuned_version(run):
    (run / "adapter_config.json").unlink()
    card = render_card(run)
    data = metadata(card)
    assert (data["library_name"], data["base_model_relation"]) == ("transformers", "finetune")
    assert "A fine-tuned version of [ann/base](https://huggingface.co/ann/base), trained on [ann/sums]" in card


def test_a_base_that_is_not_on_the_hub_is_not_named(run):
    write_json(run / "training_config.json", {**RECORD, "base_model": None})
    write_json(run / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "/home/ann/base"})
    card = render_card(run)
    assert "base_model" not in metadata(card) and "/home/ann" not in card
    assert "a model that is not on the Hub" in card


def test_it_says_what_was_trained_on_what(run):
    facts = section(render_card(run), "Training")
    for text in (
        "| Base model | [ann/base](https://huggingface.co/ann/base), commit `0123456789ab` |",
        "| Trained before | SCoRe, Stage I on ann/sums, 30 steps |",
        "| Stage | Stage I, then Stage II |",
        "| Reward functions | `MathReward`, `length\\|cost` |",
        "| Tokens of turn 1, turn 2 | 256, 128 |",
        "| Adapter | LoRA, rank 8, alpha 16, on `v_proj` |",
        "| `learning_rate` | `5e-06` |",
        RECORD["links"][0],
    ):
        assert text in facts
    assert "top_p" not in facts  # not set


def test_it_shows_the_correction_prompt_word_for_word(run):
    # The prompt holds a fence of three, so that around it has four.
    assert f"````text\n{CORRECTION}\n````\n" in render_card(run)


def test_deviations_are_numbered_as_in_the_record(run):
    assert "\n1. Groups of 8.\n2. The KL is the k1 estimate.\n" in section(
        render_card(run), "Deviations from the paper"
    )


def test_results_have_intervals(run):
    results = section(render_card(run), "Results")
    assert "| base, greedy | 1500 | 0.0 (−0.5 to 0.5) | 1.0 (0.5 to 1.5) | +2.0 (+1.5 to +2.5) |" in results
    assert "| after Stage II, greedy | 1500 | 30.0 (29.5 to 30.5) |" in results
    assert "| `score/accuracy_t2` | 62.5 |" in results  # the last evaluation in training


def test_records_stand_for_the_model_where_there_is_no_summary(run):
    for name, num_right in (("records.jsonl", 3), ("records_base.jsonl", 1)):
        rows = [
            {"prompt": f"{row}?", "turns": ["1", "2"], "rewards": [0.0, float(row < num_right)]} for row in range(4)
        ]
        (run / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main_results(run)["accuracy_t2"] == 0.31  # summary(), after Stage II
    (run / "summary.json").unlink()
    assert main_results(run)["accuracy_t2"] == 0.75  # 3 of 4
    card = render_card(run)
    assert "| records, base | 4 | 0.0 (" in card and "| records | 4 | 0.0 (" in card


def test_without_results_there_is_no_section_of_them(run):
    card = render_card(run, with_results=False)
    assert "## Results" not in card and "model-index" not in card


def test_figures_are_drawn_as_the_run_stands_and_shown(run):
    draw_figures(run)
    before = {place.name: place.read_bytes() for place in run.glob("figures/*")}
    assert set(before) == {"training_curves.png", "stage_summary.png"}
    card = render_card(run)
    assert card.index("](figures/training_curves.png)") < card.index("](figures/stage_summary.png)")
    # The run goes on: its curves are others, its summary is the same.
    state = json.loads((run / "trainer_state.json").read_text())
    more = [{**state["log_history"][0], "step": step, "score/accuracy_t1": 0.9} for step in (5, 6)]
    write_json(run / "trainer_state.json", {"log_history": [*state["log_history"], *more]})
    draw_figures(run)
    after = {place.name: place.read_bytes() for place in run.glob("figures/*")}
    assert [name for name in before if after[name] != before[name]] == ["training_curves.png"]


def test_a_figure_of_the_users_own_is_shown_and_not_drawn_again(run):
    (run / "training_curves.png").write_bytes(b"png")
    draw_figures(run)
    assert not (run / "figures" / "training_curves.png").exists()
    assert "](training_curves.png)" in render_card(run)


def test_markdown_is_sound(run):
    for name in ("training_curves.png", "stage_summary.png"):
        write_json(run / "figures" / name, {})
    page = html(render_card(run))
    assert [page.count(f"<{tag}") for tag in ("table", "img", "h1", "details")] == [4, 3, 1, 1]
    assert page.count("<h2>") == 6
    assert "| " not in page and "**" not in page and "](" not in page


def test_the_same_folder_gives_the_same_card(run):
    first = write_card(run).read_bytes()
    assert write_card(run).read_bytes() == first


def test_only_an_edited_card_counts_as_edited(run):
    assert not is_edited(run)
    card = write_card(run)
    assert not is_edited(run)
    text = card.read_text()
    card.write_text(text.replace("# corrector", "# Corrector"))
    assert is_edited(run)
    card.write_text("My own card.\n")
    assert is_edited(run)


def test_a_cloud_model_says_how_it_is_asked_for_a_critique(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "cloud", "critique_prompt": "Judge it."})
    write_json(
        tmp_path / "summary.json",
        {"cloud": {"accuracy": {"value": 0.85, "low": 0.83, "high": 0.87}}, "num_pairs": 1500},
    )
    card = render_card(tmp_path, "ann/critic")
    assert "```text\nJudge it.\n```" in card
    assert 'CLoudScorer.from_pretrained("ann/critic")' in card and 'CLoudReward("ann/critic")' in card
    assert "Held-out pairs ordered rightly, of 1500" in card and "| cloud | 85.0 (83.0 to 87.0) |" in card
    data = metadata(card)
    assert (data["library_name"], data["pipeline_tag"]) == ("trl_score", "text-classification")
    assert metadata_problems(card) == []


def test_a_run_of_before_there_were_records_has_a_card(run):
    (run / "training_config.json").unlink()
    card = render_card(run)
    assert metadata(card)["base_model"] == "ann/base" and "## Deviations" not in card
    assert metadata_problems(card) == []


def test_a_folder_of_no_trainer_of_ours_is_refused(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    with pytest.raises(ValueError, match=r"Expected a model of SCoReTrainer or .*score_config\.json"):
        method_of(tmp_path)


def test_pairs_of_turns_of_an_evaluation_are_shown_without_its_records(tmp_path):
    names = ("accuracy_t1", "accuracy_t3", "delta_t1_t3", "delta_i_to_c", "delta_c_to_i", "answers_changed")
    pair = {name: {"value": 0.1 * index, "low": 0.0, "high": 1.0} for index, name in enumerate(names)}
    write_json(tmp_path / "metrics.json", {"num_problems": 12, "pairs": {"t1_t3": pair, "t2_t3": None}})
    [table] = result_tables(tmp_path)
    interval = "(0.0 to 100.0)"
    assert table.rows[0] == [
        *("turns 1 and 3", "12", f"0.0 {interval}", f"10.0 {interval}", "+20.0 (+0.0 to +100.0)"),
        *(f"30.0 {interval}", f"40.0 {interval}", f"50.0 {interval}"),
    ]
    assert table.rows[1] == ["turns 2 and 3", "12", *["–"] * 6]


def test_a_file_that_breaks_off_is_told(run):
    (run / "summary.json").write_text(json.dumps(summary())[:50])
    with pytest.raises(ValueError, match=r"summary\.json"):
        render_card(run)


def test_main_results_of_a_run_that_was_only_evaluated_in_training(tmp_path):
    folder = adapter_run(tmp_path / "run")
    assert main_results(folder)["accuracy_t2"] == 0.625


def test_a_missing_value_is_a_dash():
    assert write_number({}) == "–"
