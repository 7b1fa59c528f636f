"""The correction prompt between two turns, on the chat templates of several families."""

import pytest
from local_models import CHAT_KINDS, FAMILIES, KINDS, build_tokenizer

from trl_score.score.prompts import (
    DEFAULT_CORRECTION_PROMPT,
    Correction,
    as_correction_messages,
    audit_template,
    is_conversational_prompt,
    text_correction,
    tokenize_prompts,
)

QUESTION = {"role": "user", "content": "What is 17 + 25?"}
SYSTEM = {"role": "system", "content": "Be brief."}

# What stands between "42" and turn 2, written out by hand from each family's format; first what closes turn 1.
CHATML_REQUEST = "\n<|im_start|>user\nCheck it.<|im_end|>\n<|im_start|>assistant\n"
LLAMA_REQUEST = (
    "<|start_header_id|>user<|end_header_id|>\n\nCheck it.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
BETWEEN = {
    "llama": ("<|eot_id|>", LLAMA_REQUEST),
    "llama_pad_eos": ("<|eot_id|>", LLAMA_REQUEST),
    "qwen2": ("<|im_end|>", CHATML_REQUEST),
    "qwen3": ("<|im_end|>", CHATML_REQUEST),
    "gemma": (
        "<end_of_turn>",
        "\n<start_of_turn>user\nCheck it.<end_of_turn>\n<start_of_turn>model\n",
    ),
}


# A plain ChatML template, in two pieces, to be spoiled below.
CHATML_LOOP = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.fixture(scope="module")
def tokenizers():
    """One tokenizer of each kind. Tests that give one another template take `with_template`."""
    return {kind: build_tokenizer(kind) for kind in KINDS}


@pytest.fixture
def with_template(tokenizers):
    """Gives a tokenizer with another chat template, and takes the template back after the test."""
    tokenizer = tokenizers["qwen2"]
    original = tokenizer.chat_template

    def change(template):
        tokenizer.chat_template = template
        return tokenizer

    yield change
    tokenizer.chat_template = original


def chat_ids(tokenizer, messages, **kwargs):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, **kwargs)["input_ids"]


# Correction


def test_closing_tokens_are_put_in_only_where_the_model_did_not_write_them():
    correction = Correction(closing_ids=[9], request_ids=[7, 8])
    assert correction.after([3, 9]) == [7, 8]
    assert correction.after([9]) == [7, 8]  # an empty turn, properly ended
    assert correction.after([3, 4]) == [9, 7, 8]  # cut by its budget
    assert correction.after([9, 4]) == [9, 7, 8]
    assert correction.after([]) == [9, 7, 8]  # an empty turn from a dataset


def test_correction_without_closing_tokens():
    correction = Correction(closing_ids=[], request_ids=[7])
    assert correction.after([3]) == correction.after([]) == [7]


def test_length_is_the_most_that_it_can_take():
    assert len(Correction([9], [7, 8])) == 3 == len(Correction([9], [7, 8]).after([1]))


def test_what_it_gives_is_nobodys_to_change():
    correction = Correction([9], [7, 8])
    correction.after([9]).append(1)
    assert correction.after([9]) == [7, 8]


# The request as messages


def test_a_text_is_one_user_message():
    assert as_correction_messages("Look again.") == [{"role": "user", "content": "Look again."}]


def test_messages_stay_and_are_copied():
    messages = [SYSTEM, QUESTION]
    assert as_correction_messages(messages) == messages
    assert as_correction_messages(messages)[0] is not SYSTEM


def test_the_default_asks_to_look_again_and_never_says_whether_turn_1_was_right():
    text = DEFAULT_CORRECTION_PROMPT.lower()
    assert "again" in text
    assert "may or may not" in text


@pytest.mark.parametrize(
    ("correction_prompt", "message"),
    [
        ("", "must not be empty, got ''"),
        (" \n\t", "must not be empty"),
        ([], "at least one message, got"),
        ([{"role": "user", "content": ""}], "must not be empty"),
        ([{"role": "user", "content": None}], "must not be empty, got None"),
        ([{"role": "user"}], "must not be empty, got None"),
        ([{"content": "Look again."}], "messages with a 'role' and a 'content'"),
        (["Look again."], "messages with a 'role' and a 'content', got 'Look again.'"),
        ([{"role": "assistant", "content": "Let me look."}], "no message of it may be the assistant's"),
    ],
)
def test_bad_correction_prompts_are_refused(correction_prompt, message):
    with pytest.raises(ValueError, match=rf"`correction_prompt` .*{message}"):
        as_correction_messages(correction_prompt)


# Prompts to ids


def test_prompts_are_told_apart_by_their_type():
    assert is_conversational_prompt([QUESTION])
    assert not is_conversational_prompt("What is 17 + 25?")


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_chat_prompts_end_where_turn_1_begins(tokenizers, kind):
    tokenizer = tokenizers[kind]
    prompts = [[QUESTION], [{"role": "user", "content": "And what is 3 * 4, please?"}]]
    ids = tokenize_prompts(prompts, tokenizer)
    assert ids == [chat_ids(tokenizer, prompt) for prompt in prompts]  # unpadded, one by one
    header = BETWEEN[kind][1].split("Check it.")[1].split(FAMILIES[kind].end_of_turn)[1].lstrip("\n")
    assert tokenizer.decode(ids[0]).endswith(header)


def test_plain_prompts_get_the_tokenizers_own_special_tokens(tokenizers):
    tokenizer = tokenizers["plain"]
    ids = tokenize_prompts(["2 + 2 =", "What is 12 * 11?"], tokenizer)
    assert [tokenizer.decode(row) for row in ids] == ["<s>2 + 2 =", "<s>What is 12 * 11?"]


@pytest.mark.parametrize("prompts", [["2 + 2 =", [QUESTION]], [[QUESTION], "2 + 2 ="]])
def test_mixed_prompts_are_refused(tokenizers, prompts):
    with pytest.raises(ValueError, match=r"of one kind, got prompt 0 of type \w+ and prompt 1 of type \w+"):
        tokenize_prompts(prompts, tokenizers["qwen2"])


def test_template_arguments_reach_prompts_and_correction(with_template):
    header = HEADER.replace("assistant\n", "assistant\n{{ 'HM ' if think }}")
    tokenizer = with_template(CHATML_LOOP + header)
    plain, thinking = (tokenize_prompts([[QUESTION]], tokenizer, {"think": think})[0] for think in (False, True))
    assert tokenizer.decode(thinking) == tokenizer.decode(plain) + "HM "
    correction = audit_template("Check it.", tokenizer, {"think": True})
    assert tokenizer.decode(correction.request_ids) == CHATML_REQUEST + "HM "


# What a template writes between the turns


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_template_is_read_into_closing_and_request(tokenizers, kind):
    correction = audit_template("Check it.", tokenizers[kind])
    decoded = tokenizers[kind].decode(correction.closing_ids), tokenizers[kind].decode(correction.request_ids)
    assert decoded == BETWEEN[kind]
    assert len(correction.closing_ids) == 1


@pytest.mark.parametrize("kind", CHAT_KINDS)
@pytest.mark.parametrize("answer", ["42", "Add the tens: 30.\nAdd the ones: 12.\n\nThe answer is \\boxed{42}.", ""])
@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "truncated"])
def test_ids_equal_the_templates_own_rendering_of_the_conversation(tokenizers, kind, answer, is_closed):
    tokenizer = tokenizers[kind]
    turn_1 = tokenizer.encode(answer, add_special_tokens=False)
    if is_closed:
        turn_1.append(tokenizer.convert_tokens_to_ids(FAMILIES[kind].end_of_turn))
    correction = audit_template(DEFAULT_CORRECTION_PROMPT, tokenizer)
    joined = [*tokenize_prompts([[QUESTION]], tokenizer)[0], *turn_1, *correction.after(turn_1)]
    conversation = [
        QUESTION,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": DEFAULT_CORRECTION_PROMPT},
    ]
    assert joined == chat_ids(tokenizer, conversation)


def test_thinking_that_the_template_would_strip_stays_in_turn_2s_prompt(tokenizers):
    tokenizer = tokenizers["qwen3"]
    answer = "<think>\n17 + 25\n</think>\n\n42"
    turn_1 = tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False)
    correction = audit_template("Check it.", tokenizer)
    joined = [*tokenize_prompts([[QUESTION]], tokenizer)[0], *turn_1, *correction.after(turn_1)]
    start = "<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(joined) == f"{start}{answer}<|im_end|>{CHATML_REQUEST}"


def test_a_stop_token_that_is_not_the_templates_leaves_turn_1_to_be_closed(tokenizers):
    # Llama may end with <|end_of_text|>; the template wants <|eot_id|> before the next message.
    tokenizer = tokenizers["llama"]
    correction = audit_template("Check it.", tokenizer)
    end_of_text, end_of_turn = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    assert correction.after([40, end_of_text])[0] == end_of_turn


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_several_messages_may_stand_between_the_turns(tokenizers, kind):
    tokenizer = tokenizers[kind]
    messages = [SYSTEM, {"role": "user", "content": "Check it."}]
    correction = audit_template(messages, tokenizer)
    answer = {"role": "assistant", "content": "42"}
    turn_1 = tokenizer.encode("42", add_special_tokens=False)
    joined = [*tokenize_prompts([[QUESTION]], tokenizer)[0], *turn_1, *correction.after(turn_1)]
    assert joined == chat_ids(tokenizer, [QUESTION, answer, *messages])


def test_correction_prompt_is_trimmed_where_the_template_trims(tokenizers):
    tokenizer = tokenizers["gemma"]
    assert audit_template("  Check it.\n", tokenizer) == audit_template("Check it.", tokenizer)


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_special_tokens_are_not_doubled(tokenizers, kind):
    # A tokenizer that adds a bos token must not add one in the middle of the row.
    tokenizer = tokenizers[kind]
    correction = audit_template("Check it.", tokenizer)
    assert tokenizer.bos_token_id is None or tokenizer.bos_token_id not in correction.after([])


REFUSED = {
    "drops the answer": (
        CHATML_LOOP.replace("{{ m.content }}", "{{ m.content if m.role != 'assistant' }}") + HEADER,
        "writes the first answer 0 times",
    ),
    "shows the last message only": (
        "<|im_start|>{{ messages[-1].role }}\n{{ messages[-1].content }}<|im_end|>\n" + HEADER,
        "writes the first answer 0 times",
    ),
    "repeats the answer": (
        CHATML_LOOP + "{% for m in messages %}{{ m.content if m.role == 'assistant' }}{% endfor %}" + HEADER,
        "writes the first answer 2 times",
    ),
    "refuses a second user message": (
        "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + CHATML_LOOP + HEADER,
        r"refuses a conversation with the roles \['user', 'assistant', 'user'\] \(one question only\)",
    ),
    "fails on an answer": (
        CHATML_LOOP.replace("{{ m.content }}", "{{ m.content + (1 if m.role == 'assistant' else '') }}") + HEADER,
        "refuses a conversation",
    ),
    "ignores the correction": (
        CHATML_LOOP.replace("in messages", "in messages[:2]") + HEADER,
        "does not write the correction prompt 'Check it.' after the first answer",
    ),
    "writes the correction before the answer": (
        CHATML_LOOP.replace("in messages", "in messages | sort(attribute='role', reverse=true)") + HEADER,
        "does not write the correction prompt",
    ),
    "writes the question after the answer": (
        CHATML_LOOP + "You were asked: {{ messages[0].content }}\n" + HEADER,
        "depends on the conversation .*probe question one.* against .*another probe question",
    ),
    "writes the answers length after it": (
        CHATML_LOOP.replace("<|im_end|>", "{{ ' ' * (m.content == 'PROBEANSWERONE') }}<|im_end|>") + HEADER,
        "depends on the conversation",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_template_that_cannot_be_continued_is_refused(with_template, name):
    template, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"cannot be continued with a second turn: .*{message}.*nother chat"):
        audit_template("Check it.", with_template(template))


def test_the_template_behind_the_refused_ones_is_accepted(with_template):
    correction = audit_template("Check it.", with_template(CHATML_LOOP + HEADER))
    assert with_template(None).decode(correction.request_ids) == CHATML_REQUEST


def test_missing_template_is_refused(tokenizers):
    with pytest.raises(ValueError, match=r"prompts are chat messages, but the tokenizer has no chat template\. Set"):
        audit_template("Check it.", tokenizers["plain"])


@pytest.mark.parametrize("messages", [[SYSTEM], [SYSTEM, QUESTION]])
def test_system_message_is_refused_where_the_template_refuses_it(tokenizers, messages):
    with pytest.raises(ValueError, match=r"refuses .*'system'.*\(System role not supported\)") as raised:
        audit_template(messages, tokenizers["gemma"])
    assert raised.value.__cause__ is not None


def test_system_message_that_the_template_passes_over_is_refused(with_template):
    template = CHATML_LOOP.replace("in messages", "in messages | rejectattr('role', 'equalto', 'system')") + HEADER
    with pytest.raises(ValueError, match=r"does not write the correction prompt 'Be brief\.'"):
        audit_template([SYSTEM, QUESTION], with_template(template))


def test_empty_correction_prompt_is_refused_before_the_template_is_read(tokenizers):
    with pytest.raises(ValueError, match="must not be empty"):
        audit_template("", tokenizers["llama"])


def test_template_in_which_the_next_header_ends_a_turn(with_template):
    # As GLM does it: the model hands over by writing the next speaker's token itself.
    tokenizer = with_template("{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}{% endfor %}<|im_start|>")
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    correction = audit_template("Check it.", tokenizer)
    assert correction.closing_ids == [start]
    assert tokenizer.decode(correction.after([40, start])) == "user Check it.<|im_start|>"
    assert tokenizer.decode(correction.after([40])) == "<|im_start|>user Check it.<|im_start|>"


def test_template_without_an_end_token_closes_nothing(with_template):
    # Roles as plain text: nothing special stands between the turns, so a truncated turn needs nothing more.
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    tokenizer = with_template(template)
    correction = audit_template("Check it.", tokenizer)
    assert correction.closing_ids == []
    assert tokenizer.decode(correction.request_ids) == "\nuser: Check it.\nassistant: "


# Plain text


def test_plain_text_is_continued_in_paragraphs(tokenizers):
    tokenizer = tokenizers["plain"]
    correction = text_correction("Check it.", tokenizer)
    assert correction.closing_ids == [tokenizer.eos_token_id]
    assert tokenizer.decode(correction.request_ids) == "\n\nCheck it.\n\n"


def test_plain_text_joins_the_contents_of_messages(tokenizers):
    tokenizer = tokenizers["plain"]
    correction = text_correction([SYSTEM, {"role": "user", "content": "Check it."}], tokenizer)
    assert tokenizer.decode(correction.request_ids) == "\n\nBe brief.\nCheck it.\n\n"


def test_plain_text_without_an_end_token_closes_nothing():
    tokenizer = build_tokenizer("plain")
    tokenizer.eos_token = None
    assert text_correction("Check it.", tokenizer).closing_ids == []


def test_empty_plain_correction_is_refused(tokenizers):
    with pytest.raises(ValueError, match="must not be empty"):
        text_correction(" ", tokenizers["plain"])
