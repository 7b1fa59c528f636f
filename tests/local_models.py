"""
Small language models of the families that people train, built here in about a second with no network.

Each kind is a random causal language model (hidden 64, 2 layers, heads of 32, 512 tokens) with a byte-level BPE
tokenizer trained on `TRAINING_TEXT`, the special tokens of its family, and a chat template of that family's format:

- `llama` (Llama): headers; nothing after `<|eot_id|>`; two stop tokens; a pad token of its own.
- `llama_pad_eos` (Llama): the same, with `pad_token == eos_token`.
- `qwen2` (Qwen2): ChatML; a system message by default; a newline after `<|im_end|>`; no bos; the pad token stops too.
- `qwen3` (Qwen3): ChatML; drops `<think>...</think>` from answers that a later user message follows.
- `gemma` (Gemma 2): role `model`, no system role; `<end_of_turn>` and a newline; the eos token is another one.
- `plain` (Llama): no chat template: text goes in, text comes out, `</s>` ends it.

The weights depend on the kind and on `seed` alone. The output row of the end-of-turn token is enlarged, so that of a
few dozen sampled turns some end by themselves and others run into their budget, as with a real model.

In a test, ask the fixture of `conftest.py` for a folder, which `from_pretrained` reads as it reads a model of the Hub:

    from local_models import CHAT_KINDS, FAMILIES

    @pytest.mark.parametrize("kind", CHAT_KINDS)
    def test_something(local_model, kind):
        model = AutoModelForCausalLM.from_pretrained(local_model(kind))
        tokenizer = AutoTokenizer.from_pretrained(local_model(kind))
        end_of_turn_id = tokenizer.convert_tokens_to_ids(FAMILIES[kind].end_of_turn)
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCAB_SIZE = 512
CONTEXT_LENGTH = 512  # tokens: `max_position_embeddings` of every kind
DEFAULT_SEED = 4  # of the weights: one at which models of every kind end some turns by themselves, and not others

# Enough words and digits for 512 tokens; of our own, so that the tests download nothing and copy nobody.
TRAINING_TEXT = """
What is 17 + 25? Add the tens: 10 + 20 = 30. Add the ones: 7 + 5 = 12. The sum is 42. The answer is \\boxed{42}.
Look at the answer above once more. There may be a mistake in it. Check each step, and write the answer again.
What is 96 - 38? Take away the tens: 96 - 30 = 66. Take away the ones: 66 - 8 = 58. The answer is \\boxed{58}.
What is 12 * 11? Twelve times ten is 120, and twelve more is 132. So the answer is \\boxed{132}, not \\boxed{122}.
A train leaves the town at 8 in the morning and reaches the sea at 11. How long does it travel? It travels 3 hours.
Ann has three boxes with seven pencils each, and gives four pencils away. How many are left? There are 17 pencils left.
Write a function that returns the larger of two numbers.
def larger(first, second):
    return first if first > second else second
assert larger(3, 5) == 5
assert larger(9, 2) == 9
Is the first step right? Yes. Is the second step right? No: 7 + 5 is 12, and one is carried. Then the sum is 642.
Solve x + 4 = 10. Take 4 from both sides: x = 6. Solve 3x = 27. Divide both sides by 3: x = 9. Solve x^2 = 49: x = 7.
The area of a square with side 5 is 25. The area of a triangle with base 6 and height 4 is half of 24, which is 12.
Numbers: 0 1 2 3 4 5 6 7 8 9 10 100 1000 3.14 2.5 1/2 3/4 -7 50% 365 24 60 2024 1999 31 28 144 256 512 1024.
First think about the question, then answer it in one line. The user asks and the assistant replies. Wait, let me check.
"""

LLAMA_TEMPLATE = """
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

QWEN2_TEMPLATE = """
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\nYou answer with care.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

QWEN3_TEMPLATE = """
{%- set turns = namespace(last_user=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set turns.last_user = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and loop.index0 < turns.last_user and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

GEMMA_TEMPLATE = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- raise_exception('System role not supported') }}
    {%- endif %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}
"""


@dataclass(frozen=True)
class Family:
    """
    What tells one family of models from another. The special tokens get the first ids, in the order given here.

    Args:
        config_class (`type[PreTrainedConfig]`): Configuration class, which decides the architecture.
        special_tokens (`tuple[str, ...]`): Every token that byte-level BPE must never split.
        bos_token (`str`, *optional*): Token that the tokenizer puts before plain text, `None` for Qwen.
        eos_token (`str`): `tokenizer.eos_token`.
        pad_token (`str`): `tokenizer.pad_token`.
        end_of_turn (`str`): Token with which the model ends an answer.
        after_end_of_turn (`str`): What the chat template writes between that token and the next message.
        stop_tokens (`tuple[str, ...]`): What ends generation, in the order of their ids; for Qwen the pad token too.
        chat_template (`str`, *optional*): Jinja source; `None` for a model that knows no chat.
    """

    config_class: type[PreTrainedConfig]
    special_tokens: tuple[str, ...]
    bos_token: str | None
    eos_token: str
    pad_token: str
    end_of_turn: str
    after_end_of_turn: str
    stop_tokens: tuple[str, ...]
    chat_template: str | None


LLAMA_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")

LLAMA = Family(
    config_class=LlamaConfig,
    special_tokens=LLAMA_TOKENS,
    bos_token="<|begin_of_text|>",
    eos_token="<|eot_id|>",
    pad_token="<|finetune_right_pad_id|>",
    end_of_turn="<|eot_id|>",
    after_end_of_turn="",
    stop_tokens=("<|end_of_text|>", "<|eot_id|>"),
    chat_template=LLAMA_TEMPLATE,
)
QWEN2 = Family(
    config_class=Qwen2Config,
    special_tokens=CHATML_TOKENS,
    bos_token=None,
    eos_token="<|im_end|>",
    pad_token="<|endoftext|>",
    end_of_turn="<|im_end|>",
    after_end_of_turn="\n",
    stop_tokens=("<|endoftext|>", "<|im_end|>"),
    chat_template=QWEN2_TEMPLATE,
)
GEMMA = Family(
    config_class=Gemma2Config,
    special_tokens=GEMMA_TOKENS,
    bos_token="<bos>",
    eos_token="<eos>",
    pad_token="<pad>",
    end_of_turn="<end_of_turn>",
    after_end_of_turn="\n",
    stop_tokens=("<eos>", "<end_of_turn>"),
    chat_template=GEMMA_TEMPLATE,
)
PLAIN = Family(
    config_class=LlamaConfig,
    special_tokens=("<s>", "</s>", "<pad>"),
    bos_token="<s>",
    eos_token="</s>",
    pad_token="<pad>",
    end_of_turn="</s>",
    after_end_of_turn="",
    stop_tokens=("</s>",),
    chat_template=None,
)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "llama_pad_eos": replace(LLAMA, pad_token=LLAMA.eos_token),
    "qwen2": QWEN2,
    "qwen3": replace(QWEN2, config_class=Qwen3Config, chat_template=QWEN3_TEMPLATE),
    "gemma": GEMMA,
    "plain": PLAIN,
}
KINDS: tuple[str, ...] = tuple(FAMILIES)
CHAT_KINDS: tuple[str, ...] = tuple(kind for kind, family in FAMILIES.items() if family.chat_template is not None)


def build_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """
    Trains the tokenizer of a family on `TRAINING_TEXT`.

    Args:
        kind (`str`): One of `KINDS`.

    Returns:
        `PreTrainedTokenizerFast`: Byte-level BPE with `VOCAB_SIZE` tokens; any text survives encoding and decoding.
    """
    family = FAMILIES[kind]
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Qwen writes every digit as a token of its own, and `AutoTokenizer` rebuilds a Qwen2 tokenizer that way.
    digits = [pre_tokenizers.Digits(individual_digits=True)] if kind.startswith("qwen") else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(family.special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT.splitlines(keepends=True), trainer)
    if family.bos_token is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos_token} $A",
            pair=f"{family.bos_token} $A {family.bos_token} $B",
            special_tokens=[(family.bos_token, tokenizer.token_to_id(family.bos_token))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos_token,
        eos_token=family.eos_token,
        pad_token=family.pad_token,
        # The markers of the chat template too: `skip_special_tokens=True` must drop them, as it does for real models.
        additional_special_tokens=list(family.special_tokens),
        chat_template=family.chat_template,
        model_max_length=CONTEXT_LENGTH,
    )


def build_model(kind: str, tokenizer: PreTrainedTokenizerFast, seed: int = DEFAULT_SEED) -> PreTrainedModel:
    """
    Draws the weights of a small model, without touching the global random state.

    Args:
        kind (`str`): One of `KINDS`.
        tokenizer (`PreTrainedTokenizerFast`): Its tokenizer, for the ids of the special tokens.
        seed (`int`, *optional*, defaults to `4`): The weights depend on it and on `kind` alone.

    Returns:
        `PreTrainedModel`: In fp32, on the CPU, in evaluation mode.
    """
    family = FAMILIES[kind]
    config = family.config_class(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        initializer_range=0.1,  # the usual 0.02 leaves all tokens nearly equal, and greedy choices hang on rounding
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    end_of_turn_id = tokenizer.convert_tokens_to_ids(family.end_of_turn)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    _widen_end_of_turn(model, end_of_turn_id, _example_prompt_ids(tokenizer))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(list(family.stop_tokens)),
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _example_prompt_ids(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Returns the ids of a short prompt, as the family writes it. Shape (1, prompt_length)."""
    question = "What is 17 + 25?"
    if tokenizer.chat_template is None:
        return tokenizer(question, return_tensors="pt")["input_ids"]
    messages = [{"role": "user", "content": question}]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return encoded["input_ids"]


@torch.no_grad()
def _widen_end_of_turn(model: PreTrainedModel, end_of_turn_id: int, prompt_ids: torch.Tensor) -> None:
    """
    Makes turns end, sooner or later, as a random model's never would.

    The last hidden state has norm 8, so the other logits are about N(0, 0.8). Eight times as wide, this one outweighs
    the other 511 together (log 511 = 6.2) in about one context in six. Its sign is such that a turn is not over before
    it began.
    """
    row = model.get_output_embeddings().weight[end_of_turn_id]
    row *= 8
    if model(prompt_ids).logits[0, -1, end_of_turn_id] > 0:
        row.neg_()


def save_local_model(kind: str, folder: Path, seed: int = DEFAULT_SEED) -> Path:
    """
    Builds a model and its tokenizer, and saves both where `from_pretrained` finds them.

    Args:
        kind (`str`): One of `KINDS`.
        folder (`Path`): Where to write; made if need be.
        seed (`int`, *optional*, defaults to `4`): Seed of the weights.

    Returns:
        `Path`: The folder.
    """
    tokenizer = build_tokenizer(kind)
    build_model(kind, tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
