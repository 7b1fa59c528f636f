"""
Models of random weights, a tokenizer and prompts, of any size, with no network.

The tokenizer's tokens are the words w0, w1, ... and the markers of ChatML, so a vocabulary may be as large as one
likes. What a model of random weights writes is noise, and takes as long as sense would.
"""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL_TOKENS = ("<unk>", "<pad>", "<|im_start|>", "<|im_end|>")
TEMPLATE = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + ' ' + message.content + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant ' }}
{%- endif %}
"""


@dataclass(frozen=True)
class ModelSize:
    """
    Size of a Qwen2 of random weights.

    Args:
        hidden (`int`):
            Hidden size, a multiple of 64.
        layers (`int`):
            Layers.
        vocabulary (`int`):
            Tokens.
    """

    hidden: int
    layers: int
    vocabulary: int

    def __str__(self) -> str:
        return f"hidden {self.hidden}, {self.layers} layers, {self.vocabulary:,} tokens"


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of so many tokens, most of which are words. `AutoTokenizer` would make Qwen's own of its files."""
    words = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(vocabulary - len(SPECIAL_TOKENS)))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )


def make_model(size: ModelSize, seed: int = 0) -> Qwen2ForCausalLM:
    """A Qwen2 of random weights whose tokens are about equally likely, on the CPU, in fp32."""
    config = Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64,
        num_key_value_heads=max(1, size.hidden // 128),
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index("<|im_end|>"),
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    return model


@cache
def model_folder(size: ModelSize) -> Path:
    """A folder with the model, for `from_pretrained`; it is there until the program ends."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark_model_"))
    atexit.register(shutil.rmtree, folder)
    make_model(size).save_pretrained(folder)
    return folder


def make_prompts(number: int, num_words: int) -> Dataset:
    """Chat prompts of so many words each, no two alike."""
    contents = [" ".join(f"w{row + 7 * word}" for word in range(num_words)) for row in range(number)]
    return Dataset.from_dict({"prompt": [[{"role": "user", "content": content}] for content in contents]})


def last_word_is_even(completions: list[Any], **kwargs: Any) -> list[float]:
    """A reward that takes no time: 1 where the last word of the text ends with an even digit."""
    return [float(completion[-1]["content"][-1:] in "02468") for completion in completions]
