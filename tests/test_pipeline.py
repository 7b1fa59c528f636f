"""The pipeline against the evaluation that it must agree with, its defaults, and the forms of its input."""

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from local_models import FAMILIES
from peft import LoraConfig, get_peft_model
from score_runs import addition_dataset, odd_length, short_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score import SCoReTrainer, SelfCorrectionPipeline
from trl_score.evaluation import evaluate_self_correction
from trl_score.pipeline import _CALL_OPTIONS, DEFAULT_MAX_NEW_TOKENS, CorrectedAnswer, read_score_config
from trl_score.score.prompts import DEFAULT_CORRECTION_PROMPT

BUDGETS = (12, 8)
QUESTIONS = [f"What is {first} + {second}?" for first in range(3) for second in (5, 17, 250)]


def make_pipe(folder, **options):
    return SelfCorrectionPipeline(folder, **{"max_new_tokens": BUDGETS, **options})


@pytest.fixture(scope="module")
def pipe(local_model):
    return make_pipe(local_model("qwen2"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, local_model):
    """The folder of an adapter that SCoReTrainer saved, with settings of its own."""
    folder = tmp_path_factory.mktemp("trained")
    options = {"max_steps": 1, "max_completion_length_t1": 5, "max_completion_length_t2": 7}
    SCoReTrainer(
        str(local_model("qwen2")),
        odd_length,
        args=short_config(folder, correction_prompt="Once more.", chat_template_kwargs={"tone": "dry"}, **options),
        train_dataset=addition_dataset(),
        peft_config=LoraConfig(target_modules=["q_proj"], r=2),
    ).save_model()
    return folder


def evaluate(pipe, prompts, **options):
    """Every turn as the evaluation gives it."""
    dataset = Dataset.from_dict({"prompt": prompts})
    options = {"max_completion_length": BUDGETS, "batch_size": 4, **options}
    records = evaluate_self_correction(pipe.model, pipe.tokenizer, dataset, odd_length, **options).records
    return [(record.prompt, record.turns, record.answers, record.truncated) for record in records]


def fields(answers):
    return [(answer.prompt, answer.turns, answer.answers, answer.truncated) for answer in answers]


# Equal to the evaluation


@pytest.mark.parametrize("kind", ["qwen2", "gemma", "plain"])
def test_it_answers_as_the_evaluation(local_model, kind):
    pipe = make_pipe(local_model(kind), batch_size=4)
    answers = pipe(QUESTIONS)
    is_chat = FAMILIES[kind].chat_template is not None
    prompts = [[{"role": "user", "content": text}] for text in QUESTIONS] if is_chat else QUESTIONS
    assert fields(answers) == evaluate(pipe, prompts)
    assert {cut for answer in answers for cut in answer.truncated} == {True, False}  # both happen


def test_it_samples_as_the_evaluation(pipe):
    options = {"do_sample": True, "temperature": 1.3, "seed": 7}
    prompts = [[{"role": "user", "content": text}] for text in QUESTIONS]
    sampled = fields(pipe(QUESTIONS, batch_size=4, **options))
    assert sampled == evaluate(pipe, prompts, **options)
    assert sampled != evaluate(pipe, prompts, **{**options, "seed": 8})
    assert sampled != evaluate(pipe, prompts)


def test_three_turns_as_the_evaluation(pipe):
    options = {"num_turns": 3, "correction_prompt": "Check it."}
    answers = pipe(QUESTIONS, max_new_tokens=(12, 8, 4), batch_size=4, **options)
    prompts = [[{"role": "user", "content": text}] for text in QUESTIONS]
    assert fields(answers) == evaluate(pipe, prompts, max_completion_length=(12, 8, 4), **options)
    assert {len(answer.turns) for answer in answers} == {3}
    assert len(pipe(QUESTIONS[0], num_turns=1, max_new_tokens=12).turns) == 1


# What goes in


def test_one_prompt_gives_one_answer_and_several_a_list(pipe):
    conversation = [{"role": "user", "content": QUESTIONS[0]}]
    single = pipe(QUESTIONS[0])
    assert isinstance(single, CorrectedAnswer) and single.prompt == conversation
    assert pipe(conversation) == single
    assert pipe([QUESTIONS[0]]) == pipe([conversation]) == pipe(iter([QUESTIONS[0]])) == [single]
    assert pipe(Dataset.from_dict({"prompt": QUESTIONS[:2]})["prompt"]) == pipe(QUESTIONS[:2])
    assert pipe([]) == []


def test_a_conversation_is_asked_as_it_is(pipe):
    conversation = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": QUESTIONS[0]},
    ]
    assert fields([pipe(conversation)]) == evaluate(pipe, [conversation])
    assert pipe(conversation).turns != pipe(QUESTIONS[0]).turns


@pytest.mark.parametrize("prompt", ["", "  ", [[]], ["a", ""]])
def test_an_empty_prompt_is_refused(pipe, prompt):
    with pytest.raises(ValueError, match="Expected a question, got"):
        pipe(prompt)


@pytest.mark.parametrize("prompt", [[3], [None], [["a"]]])
def test_what_is_no_prompt_is_refused(pipe, prompt):
    with pytest.raises(TypeError, match="Expected a text or a list of chat messages, got"):
        pipe(prompt)


def test_messages_need_a_template(local_model):
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        make_pipe(local_model("plain"))([{"role": "user", "content": "Hello"}])


def test_a_template_that_cannot_be_continued_is_refused_with_its_reason(pipe, local_model):
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    refusing = SelfCorrectionPipeline(pipe.model, tokenizer)
    with pytest.raises(ValueError, match="cannot be continued with a second turn: it writes the first answer 0 times"):
        refusing("Hello")


# What comes out


def test_answers_are_the_final_ones():
    answer = CorrectedAnswer("q", ("so \\boxed{1}", "so\\boxed{2}", "\\boxed{1}"), ("1", "2", "1"), (False,) * 3)
    assert (answer.final_answer, answer.is_changed) == ("1", False)
    changed = replace(answer, answers=("1", "2"))
    assert (changed.final_answer, changed.is_changed) == ("2", True)
    saved = json.loads(json.dumps(changed.as_dict()))
    assert saved["turns"] == list(changed.turns)
    assert (saved["final_answer"], saved["is_changed"]) == ("2", True)


# Options and their defaults


def test_defaults_are_those_of_training(trained):
    pipe = SelfCorrectionPipeline(str(trained))
    assert pipe.settings.correction_prompt == "Once more."
    assert pipe.settings.budgets == (5, 7)
    assert pipe.settings.chat_template_kwargs == {"tone": "dry"}
    answers = pipe(QUESTIONS[:4])
    assert fields(answers) == evaluate(
        pipe, [answer.prompt for answer in answers], max_completion_length=(5, 7), correction_prompt="Once more."
    )
    # The last budget counts for all further turns.
    assert pipe._settings_of_call({"num_turns": 4}).budgets == (5, 7, 7, 7)
    assert pipe._settings_of_call({"num_turns": 1}).budgets == (5,)


def test_what_is_said_goes_before_what_was_trained(trained):
    pipe = SelfCorrectionPipeline(trained, correction_prompt="Look.", max_new_tokens=3, chat_template_kwargs={})
    assert (pipe.settings.correction_prompt, pipe.settings.budgets) == ("Look.", (3, 3))
    assert pipe.settings.chat_template_kwargs == {}


def test_a_model_of_others_has_the_packages_defaults(local_model):
    pipe = SelfCorrectionPipeline(local_model("qwen2"))
    assert pipe.settings.correction_prompt == DEFAULT_CORRECTION_PROMPT
    assert pipe.settings.budgets == (DEFAULT_MAX_NEW_TOKENS,) * 2
    assert read_score_config("no-such/model") == {}


def test_an_adapter_in_memory_answers_as_its_folder(local_model, tmp_path):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(local_model("qwen2")), LoraConfig(target_modules=["q_proj"], r=2)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    in_memory = SelfCorrectionPipeline(model, tokenizer, max_new_tokens=BUDGETS)
    assert in_memory(QUESTIONS) == make_pipe(tmp_path)(QUESTIONS)
    assert in_memory(QUESTIONS) != make_pipe(local_model("qwen2"))(QUESTIONS)


def test_options_of_a_call_are_for_that_call(pipe):
    before = pipe(QUESTIONS[0])
    assert pipe(QUESTIONS[0], max_new_tokens=2, num_turns=3, do_sample=True).truncated == (True,) * 3
    assert pipe(QUESTIONS[0]) == before


def test_sampling_follows_torch_unless_it_has_a_seed(pipe):
    def sample(**options):
        return pipe(QUESTIONS, do_sample=True, **options)

    torch.manual_seed(3)
    first, second = sample(), sample()
    torch.manual_seed(3)
    assert sample() == first != second
    assert sample(seed=1) == sample(seed=1) != sample(seed=2)


def test_greedy_answers_leave_the_random_state_alone(pipe):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    pipe(QUESTIONS[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_turns": 0}, "`num_turns` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"max_new_tokens": (1, 2, 3)}, r"`max_new_tokens` .* one for each of 2 turns, got \(1, 2, 3\)"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be a number of tokens of at least 1, .* got 0"),
        ({"do_sample": True, "temperature": 0.0}, "`temperature` must be above 0"),
        ({"correction_prompt": " "}, "`correction_prompt` must not be empty"),
    ],
)
def test_options_out_of_range_are_named_before_a_model_is_loaded(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        SelfCorrectionPipeline("no-such/model", **options)
    with pytest.raises(ValueError, match=message):
        pipe(QUESTIONS[0], **{"max_new_tokens": 3, **options})


def test_an_unknown_option_is_named(pipe):
    with pytest.raises(TypeError, match=r"options among \['num_turns', .* got \['top_q'\]"):
        pipe(QUESTIONS[0], top_q=1)


def test_a_model_in_memory_needs_a_tokenizer(pipe):
    with pytest.raises(ValueError, match="a tokenizer with a model in memory, got a Qwen2ForCausalLM alone"):
        SelfCorrectionPipeline(pipe.model)


def test_a_cut_off_score_config_is_named(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "model")
    file = tmp_path / "model" / "score_config.json"
    file.write_text(file.read_text()[:20])
    with pytest.raises(ValueError, match=r"score_config\.json', got something else or a file that was cut off"):
        SelfCorrectionPipeline(tmp_path / "model")


def test_the_page_says_what_the_code_says():
    page = (Path(__file__).parents[1] / "docs" / "pipeline.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line[:2] == "| "]
    described = {name.strip("`"): default for name, default, *_ in rows if name.startswith("`")}
    parameters = inspect.signature(SelfCorrectionPipeline.__init__).parameters
    options = {name: value.default for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert [name for name in described if name in options] == list(options)
    as_trained = ("max_new_tokens", "correction_prompt", "chat_template_kwargs")
    assert {name: described[name] for name in options if name not in as_trained} == {
        name: f"`{default}`" for name, default in options.items() if name not in as_trained
    }
    assert set(options) == {*_CALL_OPTIONS}
    outcome = CorrectedAnswer("q", ("a",), ("a",), (False,)).as_dict()
    assert set(outcome) <= set(described)
