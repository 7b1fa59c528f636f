"""Evaluating a small real model: records, the paper's metrics, and what must not change the result."""

import copy
import math
import random
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from local_models import FAMILIES
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from trl_score.evaluation import evaluate_self_correction, load_model, load_tokenizer, stop_ids
from trl_score.evaluation.respondents import hash_weights
from trl_score.metrics import self_correction_metrics
from trl_score.score.prompts import DEFAULT_CORRECTION_PROMPT

BUDGETS = (12, 8)
KINDS = ("qwen2", "gemma", "plain")


def even_length(completions, **kwargs):
    """Right by chance, about one time in two, so that a random model has something to fix and to break."""
    texts = [completion if isinstance(completion, str) else completion[0]["content"] for completion in completions]
    return [float(len(text) % 2 == 0) for text in texts]


class Local:
    """A small model of one kind, its tokenizer, and problems for it."""

    def __init__(self, kind, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        questions = [f"What is {first} + {second}?" for first in range(4) for second in (5, 17, 250)]
        is_chat = FAMILIES[kind].chat_template is not None
        prompts = [[{"role": "user", "content": text}] for text in questions] if is_chat else questions
        self.dataset = Dataset.from_dict({"prompt": prompts, "number": list(range(len(prompts)))})

    def evaluate(self, reward_func=even_length, dataset=None, **kwargs):
        options = {"max_completion_length": BUDGETS, **kwargs}
        return evaluate_self_correction(
            self.model, self.tokenizer, self.dataset if dataset is None else dataset, reward_func, **options
        )


@pytest.fixture(scope="module")
def locals_of(local_model):
    """Gives the small model of a kind, loaded once for this file."""
    loaded = {}

    def local_of(kind="qwen2"):
        if kind not in loaded:
            loaded[kind] = Local(kind, local_model(kind))
        return loaded[kind]

    return local_of


# Records


@pytest.mark.parametrize("kind", KINDS)
def test_one_record_per_problem_in_order(locals_of, kind):
    local = locals_of(kind)
    records = local.evaluate(batch_size=5).records
    assert [record.prompt for record in records] == local.dataset["prompt"][:]
    assert [record.rewards for record in records] == [tuple(even_length(record.turns)) for record in records]
    assert not any(
        token in text for record in records for text in record.turns for token in FAMILIES[kind].special_tokens
    )


@pytest.mark.parametrize("kind", KINDS)
def test_turns_keep_to_their_budgets_and_say_where_they_were_cut(locals_of, kind):
    ids_of_turns = []

    def recording(completions, completion_ids, **kwargs):
        ids_of_turns.append(completion_ids)
        return [0.0] * len(completions)

    local = locals_of(kind)
    records = local.evaluate(recording, do_sample=True).records
    ends = set(stop_ids(local.model, local.tokenizer))
    for turn, (ids_of_turn, budget) in enumerate(zip(ids_of_turns, BUDGETS, strict=True)):
        assert [record.truncated[turn] for record in records] == [ids[-1] not in ends for ids in ids_of_turn]
        assert all(len(ids) == budget or ids[-1] in ends for ids in ids_of_turn)
    assert len({record.truncated for record in records}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_turn_2_answers_the_correction_prompt_and_turn_1_does_not(locals_of, kind):
    check, sing = (locals_of(kind).evaluate(correction_prompt=text).records for text in ("Check it.", "Sing a song."))
    assert [record.turns[0] for record in check] == [record.turns[0] for record in sing]
    assert [record.turns[1] for record in check] != [record.turns[1] for record in sing]


# Any number of turns, and rows of their own


@pytest.mark.parametrize("kind", KINDS)
def test_more_turns_go_on_where_fewer_ended(locals_of, kind):
    local = locals_of(kind)
    one, two, four = (local.evaluate(num_turns=count, max_completion_length=8) for count in (1, 2, 4))
    assert [record.turns for record in two.records] == [record.turns[:2] for record in four.records]
    assert [record.turns for record in one.records] == [record.turns[:1] for record in four.records]
    assert all(len(record.rewards) == len(record.truncated) == len(record.answers) == 4 for record in four.records)
    assert one.metrics.keys() == {"accuracy_t1"}
    assert two.metrics["accuracy_t1"] == four.metrics["accuracy_t1"] == one.metrics["accuracy_t1"]
    assert four.metrics["delta_t1_t4"].value == pytest.approx(
        four.metrics["accuracy_t4"].value - four.metrics["accuracy_t1"].value
    )


def test_reward_is_told_every_turns_number(locals_of):
    numbers = []

    def recording(completions, turn, completions_t1, **kwargs):
        numbers.append((turn, completions_t1 == completions))
        return [0.0] * len(completions)

    locals_of().evaluate(recording, num_turns=3, max_completion_length=8)
    assert numbers == [(1, True), (2, False), (3, False)]


@pytest.mark.parametrize("kind", ["qwen2", "plain"])
def test_rows_have_their_own_request_and_budgets(locals_of, kind):
    local = locals_of(kind)
    prompts = [None, "Sing a song."] * 6
    budgets_t1, budgets_t2 = [3, None] * 6, [None, 2] * 6
    dataset = (
        local.dataset.add_column("correction_prompt", prompts)
        .add_column("max_completion_length_t1", budgets_t1)
        .add_column("max_completion_length_t2", budgets_t2)
    )
    own = local.evaluate(dataset=dataset, correction_prompt="Check it.").records
    plain = local.evaluate(correction_prompt="Check it.", max_completion_length=(3, 8)).records
    other = local.evaluate(correction_prompt="Sing a song.", max_completion_length=(12, 2)).records
    # Even rows are as in a run with their budget and the run's request, odd ones as in one with theirs.
    expected = [plain[row] if row % 2 == 0 else other[row] for row in range(12)]
    assert [record.turns for record in own] == [record.turns for record in expected]
    assert [record.truncated for record in own] == [record.truncated for record in expected]


def test_a_row_that_asks_in_a_way_the_template_refuses_is_refused_before_anything_is_answered(locals_of):
    local = locals_of("gemma")
    prompts = [None] * 11 + [[{"role": "system", "content": "Check it."}]]
    dataset = local.dataset.add_column("correction_prompt", prompts)
    with pytest.raises(ValueError, match="cannot be continued with a second turn: it refuses"):
        local.evaluate(lambda **kwargs: pytest.fail("too late"), dataset=dataset)


@pytest.mark.parametrize("kind", ["qwen2", "plain"])
def test_given_first_turns_are_turn_1(locals_of, kind):
    local = locals_of(kind)
    given = ["It is 5.", None] + ["It is 6."] * 10
    records = local.evaluate(dataset=local.dataset.add_column("turn_1", given), offline_turn_1_column="turn_1").records
    own = local.evaluate().records
    assert [record.is_turn_1_offline for record in records] == [text is not None for text in given]
    for record, alone, text in zip(records, own, given, strict=True):
        assert record.turns[0] == (alone.turns[0] if text is None else text)
        assert text is not None or record.turns == alone.turns
    assert [record.turns[1] for record in records] != [record.turns[1] for record in own]
    assert [record.rewards[0] for record in records] == even_length([record.turns[0] for record in records])


def test_sample_k_takes_given_first_turn_k(locals_of):
    local = locals_of()
    dataset = local.dataset.select([0]).add_column("turn_1", [["It is 5.", "It is 6."]])
    options = {"offline_turn_1_column": "turn_1", "num_samples": 3}
    records = local.evaluate(dataset=dataset, **options).records
    assert [record.turns[0] for record in records] == ["It is 5.", "It is 6.", "It is 5."]
    assert [record.sample for record in records] == [0, 1, 2]


@pytest.mark.parametrize("value", ["", [], ["a", ""], 7])
def test_a_first_turn_that_is_none_is_named(locals_of, value):
    local = locals_of()
    dataset = local.dataset.add_column("turn_1", [value] * 12)
    with pytest.raises(ValueError, match=r"Column 'turn_1' must hold a first turn, a list of them, or None"):
        local.evaluate(dataset=dataset, offline_turn_1_column="turn_1")


@pytest.mark.parametrize("value", [0, 2.5, "8"])
def test_a_rows_budget_that_is_none_is_named(locals_of, value):
    local = locals_of()
    dataset = local.dataset.add_column("max_completion_length_t2", [None] * 11 + [value])
    with pytest.raises(ValueError, match=r"Column 'max_completion_length_t2' must hold whole numbers of at least 1"):
        local.evaluate(lambda **kwargs: pytest.fail("too late"), dataset=dataset)


def test_a_conversation_beyond_the_context_is_said_once(locals_of, caplog):
    local = locals_of()
    options = {"dataset": local.dataset.select([0, 1]), "batch_size": 1, "num_turns": 2}
    local.evaluate(max_completion_length=8, **options)
    assert not caplog.records
    dataset = options["dataset"].add_column("turn_1", ["word " * 500] * 2)  # the context has 512 tokens
    options = {**options, "dataset": dataset, "offline_turn_1_column": "turn_1"}
    local.evaluate(max_completion_length=(600, 2), **options)
    (said,) = [record for record in caplog.records if record.name == "trl_score.evaluation.respondents"]
    assert "is longer than the model's context of 512" in said.getMessage()


# Several samples


def test_samples_of_a_problem_differ_and_are_resampled_together(locals_of):
    local = locals_of()
    evaluation = local.evaluate(num_samples=3, do_sample=True, batch_size=5)
    records = evaluation.records
    assert [record.sample for record in records] == [0] * 12 + [1] * 12 + [2] * 12
    assert [record.prompt for record in records] == local.dataset["prompt"][:] * 3
    assert len({record.turns for record in records}) > 24
    # Twelve problems of three samples, and not 36 problems.
    expected = self_correction_metrics([record.correct for record in records], groups=list(range(12)) * 3)
    assert {name: evaluation.metrics[name] for name in expected} == expected


def test_each_batch_and_sample_draws_for_itself(locals_of):
    # A run's second sample, and its second batch, are the same whether or not what comes before them is drawn.
    local = locals_of()
    twice = local.evaluate(num_samples=2, do_sample=True, batch_size=6).records
    assert twice[:12] == local.evaluate(do_sample=True, batch_size=6).records
    same = local.dataset.select([0] * 12)
    first, second = np.array_split(
        [record.turns for record in local.evaluate(dataset=same, do_sample=True, batch_size=6).records], 2
    )
    assert first.tolist() != second.tolist()


# Metrics


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
def test_turn_2_is_turn_1_plus_fixed_less_broken(locals_of, kind, do_sample):
    evaluation = locals_of(kind).evaluate(do_sample=do_sample)
    outcomes = [record.outcome for record in evaluation.records]
    values = {name: interval.value for name, interval in evaluation.metrics.items()}
    count = len(outcomes)
    assert values["accuracy_t1"] == pytest.approx((outcomes.count("right") + outcomes.count("broken")) / count)
    assert values["delta_i_to_c"] == pytest.approx(outcomes.count("fixed") / count)
    assert values["delta_c_to_i"] == pytest.approx(outcomes.count("broken") / count)
    assert values["delta_t1_t2"] == pytest.approx(values["accuracy_t2"] - values["accuracy_t1"])
    assert values["accuracy_t2"] == pytest.approx(
        values["accuracy_t1"] + values["delta_i_to_c"] - values["delta_c_to_i"]
    )
    assert values["answers_changed"] == pytest.approx(
        sum(first.strip() != second.strip() for first, second in (record.turns for record in evaluation.records))
        / count
    )
    for name, interval in evaluation.metrics.items():
        assert interval.low <= interval.value <= interval.high, name


def test_there_is_something_to_fix_and_to_break(locals_of):
    outcomes = {record.outcome for kind in KINDS for record in locals_of(kind).evaluate(do_sample=True).records}
    assert outcomes == {"fixed", "broken", "right", "wrong"}


def test_unscorable_turns_are_left_out_and_never_wrong(locals_of):
    # Problems 0 to 5 cannot be scored in either turn, and all others are right: 100%, where counting zeros gives 50%.
    def half(completions, number, **kwargs):
        return [None if index < 6 else 1.0 for index in number]

    evaluation = locals_of().evaluate(half)
    assert [record.outcome for record in evaluation.records] == ["unscorable"] * 6 + ["right"] * 6
    assert evaluation.metrics["accuracy_t1"].value == evaluation.metrics["accuracy_t2"].value == 1.0


def test_nothing_scorable_is_an_error_and_no_number(locals_of):
    with pytest.raises(ValueError, match="at least one problem that is scorable at turns 1 and 2, got none among 12"):
        locals_of().evaluate(lambda completions, **kwargs: [None] * len(completions))


# The reward function


@pytest.mark.parametrize("kind", KINDS)
def test_reward_function_is_called_as_in_training(locals_of, kind):
    calls = []

    def recording(prompts, completions, completion_ids, number, turn, completions_t1):
        calls.append((prompts, completions, completion_ids, number, turn, completions_t1))
        return [0.0] * len(completions)

    local = locals_of(kind)
    dataset = local.dataset.add_column("completion", ["not for rewards"] * len(local.dataset))
    records = local.evaluate(recording, dataset=dataset.add_column("completion_ids", [0] * len(dataset))).records
    assert [call[4] for call in calls] == [1, 2]
    for turn, (prompts, completions, completion_ids, number, _, completions_t1) in enumerate(calls):
        texts = [record.turns[turn] for record in records]
        is_chat = FAMILIES[kind].chat_template is not None
        assert completions == ([[{"role": "assistant", "content": text}] for text in texts] if is_chat else texts)
        assert local.tokenizer.batch_decode(completion_ids, skip_special_tokens=True) == texts
        assert (prompts, number) == (local.dataset["prompt"][:], list(range(12)))
        assert completions_t1 == calls[0][1]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0], ValueError, "'wrong' returned 1 rewards for the 12 completions of turn 1"),
        (["1"] * 12, TypeError, "'wrong' returned '1' of type str for row 0 of turn 1"),
        ([math.nan] * 12, ValueError, "'wrong' returned nan for row 0 of turn 1"),
    ],
)
def test_wrong_rewards_name_the_function_and_the_row(locals_of, values, error, message):
    def wrong(completions, **kwargs):
        return values

    with pytest.raises(error, match=message):
        locals_of().evaluate(wrong)


def test_reward_object_is_named_by_its_class(locals_of):
    class Grader:
        def __call__(self, completions, **kwargs):
            return []

    with pytest.raises(ValueError, match="Reward function 'Grader' returned 0 rewards"):
        locals_of().evaluate(Grader())


# What must not change the result


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_results_depend_on_neither_batch_size_nor_order_nor_seed(locals_of, kind):
    local = locals_of(kind)
    expected = local.evaluate().records
    for batch_size in (1, 5):
        assert local.evaluate(batch_size=batch_size).records == expected
    assert local.evaluate(seed=1).records == expected
    backwards = local.dataset.select(range(len(local.dataset) - 1, -1, -1))
    assert local.evaluate(dataset=backwards).records == expected[::-1]


def test_a_seed_gives_the_same_samples_and_another_seed_others(locals_of):
    local = locals_of()
    first, again, other = (local.evaluate(do_sample=True, seed=seed) for seed in (0, 0, 1))
    assert first.records == again.records
    assert first.metrics == again.metrics
    assert first.records != other.records


@pytest.mark.parametrize("do_sample", [False, True])
def test_global_random_state_is_left_as_it_was(locals_of, do_sample):
    local = locals_of()
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    local.evaluate(do_sample=do_sample)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002


def test_models_own_sampling_settings_do_not_change_the_result(locals_of):
    local = locals_of()
    expected = {do_sample: local.evaluate(do_sample=do_sample).records for do_sample in (False, True)}
    original = local.model.generation_config
    # As Qwen2.5 comes, but sharper: each of these alone would change the samples, the penalty greedy decoding too.
    local.model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.01,
        top_k=1,
        top_p=0.1,
        min_p=0.9,
        repetition_penalty=5.0,
        eos_token_id=original.eos_token_id,
        pad_token_id=original.pad_token_id,
    )
    try:
        for do_sample, records in expected.items():
            assert local.evaluate(do_sample=do_sample).records == records
    finally:
        local.model.generation_config = original


def test_temperature_is_that_of_sampling(locals_of):
    # Close to 0, sampling is greedy.
    local = locals_of()
    assert local.evaluate(do_sample=True, temperature=1e-4).records == local.evaluate().records


def test_dropout_is_off_and_the_mode_is_given_back(local_model):
    local = Local("llama", local_model("llama"))
    expected = local.evaluate().records
    for module in local.model.modules():
        if "attention_dropout" in vars(module):
            module.attention_dropout = 0.9
    local.model.train()
    assert local.evaluate().records == expected
    assert local.model.training


def test_default_correction_prompt_is_that_of_training(locals_of):
    local = locals_of()
    assert local.evaluate(correction_prompt=DEFAULT_CORRECTION_PROMPT).records == local.evaluate().records


def test_progress_bar_only_if_asked_for(locals_of, capsys):
    local = locals_of()
    local.evaluate()
    assert capsys.readouterr().err == ""
    local.evaluate(progress="base", batch_size=6)
    assert "base: " in capsys.readouterr().err


# Kept in a folder


def test_sampled_run_that_was_cut_goes_on_to_the_same_records(locals_of, tmp_path):
    local = locals_of()
    options = {"do_sample": True, "num_samples": 2, "batch_size": 5, "output_dir": tmp_path}
    whole = local.evaluate(**options)
    expected = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert expected.keys() == {"evaluation.json", "metrics.json", "records.jsonl"}
    (tmp_path / "records.jsonl").write_bytes(expected["records.jsonl"][:-4000])
    (tmp_path / "metrics.json").unlink()
    assert local.evaluate(**options) == whole
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == expected


def test_another_model_is_refused(locals_of, tmp_path):
    local = locals_of()
    local.evaluate(output_dir=tmp_path)
    weight = local.model.model.layers[0].mlp.up_proj.weight
    original = weight.detach().clone()
    with torch.no_grad():
        weight += 1e-3
    try:
        with pytest.raises(ValueError, match=r"Expected to go on with the evaluation in .*: weights is '"):
            local.evaluate(output_dir=tmp_path)
    finally:
        with torch.no_grad():
            weight.copy_(original)
    assert local.evaluate(output_dir=tmp_path).records


def test_weights_are_told_apart_by_value_name_and_shape():
    torch.manual_seed(0)
    first = torch.nn.Linear(64, 64)
    same = torch.nn.Linear(64, 64)
    same.load_state_dict(first.state_dict())
    assert hash_weights(first) == hash_weights(same)
    assert hash_weights(first) == hash_weights(torch.nn.Sequential(same)[0])
    assert hash_weights(first) != hash_weights(torch.nn.Sequential(same))
    with torch.no_grad():
        same.weight *= 1 + 1e-6
    assert hash_weights(first) != hash_weights(same)
    rounded = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
    assert hash_weights(rounded) == hash_weights(copy.deepcopy(rounded).float())


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_turns": 0}, "`num_turns` must be at least 1, got 0"),
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"num_turns": 3}, r"one for each of 3 turns \(`num_turns`\), got \(12, 8\)"),
        ({"max_completion_length": 0}, "tokens of at least 1"),
        ({"do_sample": True, "temperature": 0.0}, "`temperature` must be above 0, got 0.0"),
        ({"num_samples": 2}, "`num_samples` must be 1 for greedy decoding"),
        ({"correction_prompt": " "}, "`correction_prompt` must not be empty"),
        ({"offline_turn_1_column": "turn_1"}, "needs rows with a `prompt` and the column 'turn_1', got 12 rows"),
    ],
)
def test_options_out_of_range_are_named(locals_of, options, message):
    with pytest.raises(ValueError, match=message):
        locals_of().evaluate(**options)


def test_empty_dataset_or_one_without_prompts_is_refused(locals_of):
    local = locals_of()
    with pytest.raises(ValueError, match="needs rows with a `prompt`, got 0 rows"):
        local.evaluate(dataset=local.dataset.select([]))
    with pytest.raises(ValueError, match=r"got 12 rows with the columns \['question', 'number'\]"):
        local.evaluate(dataset=local.dataset.rename_column("prompt", "question"))


def test_template_that_cannot_be_continued_is_refused(local_model):
    local = Local("qwen2", local_model("qwen2"))
    local.tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(ValueError, match="cannot be continued with a second turn"):
        local.evaluate()


# Loading


def test_stop_ids_are_the_models_the_tokenizers_and_the_templates(locals_of):
    local = locals_of("gemma")
    assert sorted(stop_ids(local.model, local.tokenizer)) == [1, 4]
    original = local.model.generation_config
    local.model.generation_config = GenerationConfig(eos_token_id=1)
    try:
        assert stop_ids(local.model, local.tokenizer) == [1]
        assert stop_ids(local.model, local.tokenizer, closing_ids=[7, 4]) == [1, 4]
    finally:
        local.model.generation_config = original


def test_without_a_token_to_pad_with_nothing_is_generated(local_model):
    local = Local("plain", local_model("plain"))
    local.tokenizer.pad_token = local.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither a pad token nor an end token, got None for both"):
        local.evaluate()


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma"])
def test_a_folder_without_a_tokenizer_is_refused(local_model, tmp_path, kind):
    # From its configuration alone Transformers makes a tokenizer for some kinds, which knows no word.
    shutil.copytree(
        local_model(kind), tmp_path, ignore=shutil.ignore_patterns("*token*", "*.jinja"), dirs_exist_ok=True
    )
    with pytest.raises(ValueError, match=r"a tokenizer that can be read in '.*', got a folder without one"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ValueError, match="got no such folder and nothing within reach on the Hub"):
        load_tokenizer(str(tmp_path / "nowhere"))
    assert load_tokenizer(str(local_model(kind))).encode("a 1")


def test_model_is_loaded_for_evaluation(local_model):
    model = load_model(str(local_model("llama")))
    assert not model.training
    assert model.dtype == torch.float32 or torch.accelerator.is_available()


def test_adapter_is_loaded_with_its_base(local_model, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(local_model("llama"))
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    ids = torch.tensor([[1, 40, 50, 60]], device=loaded.device)
    torch.testing.assert_close(loaded(ids).logits.cpu(), adapted.eval()(ids.cpu()).logits)
