"""The small models that other tests rely on: they load, generate, and speak their family's format."""

import pytest
import torch
from jinja2 import TemplateError
from local_models import CHAT_KINDS, FAMILIES, KINDS, VOCAB_SIZE, build_model, build_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTION = {"role": "user", "content": "What is 17 + 25?"}
ANSWER = {"role": "assistant", "content": "42"}
AGAIN = {"role": "user", "content": "Check it."}

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "llama_pad_eos": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "Gemma2ForCausalLM",
    "plain": "LlamaForCausalLM",
}

# The dialogue question, answer, question, with a generation prompt, written out by hand from each family's format.
LLAMA_DIALOGUE = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 17 + 25?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n42<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nCheck it.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
CHATML_DIALOGUE = (
    "<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n42<|im_end|>\n"
    "<|im_start|>user\nCheck it.<|im_end|>\n<|im_start|>assistant\n"
)
DIALOGUES = {
    "llama": LLAMA_DIALOGUE,
    "llama_pad_eos": LLAMA_DIALOGUE,
    "qwen2": "<|im_start|>system\nYou answer with care.<|im_end|>\n" + CHATML_DIALOGUE,
    "qwen3": CHATML_DIALOGUE,
    "gemma": (
        "<bos><start_of_turn>user\nWhat is 17 + 25?<end_of_turn>\n<start_of_turn>model\n42<end_of_turn>\n"
        "<start_of_turn>user\nCheck it.<end_of_turn>\n<start_of_turn>model\n"
    ),
}

# The special tokens come first in the vocabulary, in the order in which each family lists them.
END_OF_TURN_IDS = {"llama": 5, "llama_pad_eos": 5, "qwen2": 2, "qwen3": 2, "gemma": 4, "plain": 1}
STOP_IDS = {"llama": [1, 5], "llama_pad_eos": [1, 5], "qwen2": [0, 2], "qwen3": [0, 2], "gemma": [1, 4], "plain": [1]}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def prompt_ids(tokenizer):
    if tokenizer.chat_template is None:
        return tokenizer(QUESTION["content"])["input_ids"]
    return tokenizer.apply_chat_template([QUESTION], add_generation_prompt=True, return_dict=True)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_loads_as_its_architecture(local_model, kind):
    model, tokenizer = load(local_model(kind))
    assert type(model).__name__ == ARCHITECTURES[kind]
    assert model.config.head_dim == 32
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == VOCAB_SIZE


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_loads_as_it_was(local_model, kind):
    built, loaded = build_tokenizer(kind), AutoTokenizer.from_pretrained(local_model(kind))
    text = "What is 17 + 25?\n\n  Then: \\boxed{642}, naïve 漢字.\n"
    assert loaded(text)["input_ids"] == built(text)["input_ids"]
    assert loaded.chat_template == FAMILIES[kind].chat_template
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == (
        FAMILIES[kind].bos_token,
        FAMILIES[kind].eos_token,
        FAMILIES[kind].pad_token,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_byte_level_bpe_keeps_any_text(local_model, kind):
    tokenizer = AutoTokenizer.from_pretrained(local_model(kind))
    text = "  def f(x):\n\treturn x**2  # ½ 漢字 🙂\n\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_chat_template_writes_the_format_of_the_family(local_model, kind):
    tokenizer = AutoTokenizer.from_pretrained(local_model(kind))
    dialogue = tokenizer.apply_chat_template([QUESTION, ANSWER, AGAIN], add_generation_prompt=True, tokenize=False)
    assert dialogue == DIALOGUES[kind]


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_special_tokens_of_the_template_are_single_ids(local_model, kind):
    tokenizer = AutoTokenizer.from_pretrained(local_model(kind))
    ids = tokenizer.apply_chat_template([QUESTION, ANSWER], return_dict=True)["input_ids"]
    assert ids.count(END_OF_TURN_IDS[kind]) == (3 if kind == "qwen2" else 2)  # Qwen2 adds a system message
    assert tokenizer.decode(ids, skip_special_tokens=True).replace("\n", " ").split()[-1] == "42"


@pytest.mark.parametrize("kind", KINDS)
def test_end_of_turn_and_stop_ids(local_model, kind):
    model, tokenizer = load(local_model(kind))
    assert tokenizer.convert_tokens_to_ids(FAMILIES[kind].end_of_turn) == END_OF_TURN_IDS[kind]
    assert model.generation_config.eos_token_id == STOP_IDS[kind]


def test_the_traps_of_the_families(local_model):
    tokenizers = {kind: AutoTokenizer.from_pretrained(local_model(kind)) for kind in KINDS}
    assert [kind for kind, tokenizer in tokenizers.items() if tokenizer.pad_token == tokenizer.eos_token] == [
        "llama_pad_eos"
    ]
    ends_turns_with_eos = [kind for kind in KINDS if FAMILIES[kind].end_of_turn == tokenizers[kind].eos_token]
    assert set(KINDS) - set(ends_turns_with_eos) == {"gemma"}
    assert [kind for kind in KINDS if FAMILIES[kind].after_end_of_turn] == ["qwen2", "qwen3", "gemma"]


def test_qwen3_drops_the_thinking_of_an_earlier_answer_only(local_model):
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen3"))
    thinking = {"role": "assistant", "content": "<think>\n17 + 25\n</think>\n\n42"}
    last = tokenizer.apply_chat_template([QUESTION, thinking], tokenize=False)
    earlier = tokenizer.apply_chat_template([QUESTION, thinking, AGAIN], tokenize=False)
    assert "<think>\n17 + 25\n</think>\n\n42<|im_end|>" in last
    assert "<|im_start|>assistant\n42<|im_end|>" in earlier


@pytest.mark.parametrize(
    ("messages", "message"),
    [([{"role": "system", "content": "Be brief."}, QUESTION], "System role"), ([QUESTION, AGAIN], "must alternate")],
)
def test_gemma_refuses_system_and_repeated_roles(local_model, messages, message):
    tokenizer = AutoTokenizer.from_pretrained(local_model("gemma"))
    with pytest.raises(TemplateError, match=message):
        tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("kind", KINDS)
def test_some_turns_end_by_themselves_and_others_at_the_budget(local_model, kind):
    model, tokenizer = load(local_model(kind))
    ids = torch.tensor([prompt_ids(tokenizer)] * 64)
    torch.manual_seed(0)
    sampled = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=True)
    completions = sampled[:, ids.shape[1] :]
    ended = (completions == END_OF_TURN_IDS[kind]).any(dim=1)
    assert 0 < ended.sum() < 64


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_does_not_change_greedy_tokens(local_model, kind):
    model, tokenizer = load(local_model(kind))
    ids = torch.tensor([prompt_ids(tokenizer)])
    padded = torch.nn.functional.pad(ids, (7, 0), value=tokenizer.pad_token_id)
    attention_mask = torch.nn.functional.pad(torch.ones_like(ids), (7, 0), value=0)
    alone = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    beside = model.generate(padded, attention_mask=attention_mask, max_new_tokens=12, do_sample=False)
    assert beside[0, padded.shape[1] :].tolist() == alone[0, ids.shape[1] :].tolist()


def test_weights_depend_on_the_seed_and_on_nothing_else():
    tokenizer = build_tokenizer("qwen2")
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first, again, other = (build_model("qwen2", tokenizer, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
