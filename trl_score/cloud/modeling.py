"""The reward model: a causal language model, and a head that reads a reward off the end of a critique.

One forward gives both of CLoud's terms (arXiv 2408.11791, section 2.2): the reward at each row's closing token, and the
negative log-likelihood of the critique's tokens, for which the LM head is applied at those tokens only. The names of
the parameters, `reward_base_model.*` and `reward_head.*`, are those of the published checkpoints.

Importing this file registers the model with Transformers' `AutoConfig` and `AutoModel`. It is *not* registered as a
sequence classifier: whoever loads one of those scores a text as it stands, and a model trained to write a critique
first would silently be read where it has not written any.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import ModelOutput, find_adapter_config_file

from trl_score.cloud.prompts import CRITIQUE_PROMPT

if TYPE_CHECKING:
    from peft import PeftModel

IGNORED_LABEL = -100
# Logits that the LM head makes at once: 128 MiB in fp32, 256 tokens with a vocabulary of 128 k.
LOGITS_PER_CHUNK = 2**25
PUBLISHED_ARCHITECTURE = "FeedbackRewardModel"
PUBLISHED_CLASSIC_METHOD = "vanilla"  # what a published configuration's `feedback_method` says of a classic model
# By these, left on a model by Transformers, Trainer, TRL and PEFT know a quantized one.
QUANTIZATION_ATTRIBUTES = (
    "hf_quantizer",
    "is_quantized",
    "quantization_method",
    "is_loaded_in_4bit",
    "is_loaded_in_8bit",
)
# Arguments that say where a file lies, which every `from_pretrained` takes.
LOCATION_ARGUMENTS = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download")


@dataclass
class CLoudOutput(ModelOutput):
    """
    What one forward of [`CLoudRewardModel`] gives. The last three come with `labels` only.

    Args:
        rewards (`torch.Tensor` of shape `(R,)`):
            Reward of each row, in fp32, not normalised.
        critique_nll (`torch.Tensor` of shape `(R,)`, *optional*):
            Nats: the negative log-likelihood of each row's supervised tokens, summed.
        num_supervised (`torch.Tensor` of shape `(R,)`, *optional*):
            How many tokens that sum is over.
        num_correct (`torch.Tensor` of shape `(R,)`, *optional*):
            How many of them were the model's most likely token.

    R: rows, each one response (with its critique).
    """

    rewards: torch.Tensor | None = None
    critique_nll: torch.Tensor | None = None
    num_supervised: torch.Tensor | None = None
    num_correct: torch.Tensor | None = None


class CLoudConfig(PreTrainedConfig):
    """
    Configuration of a [`CLoudRewardModel`].

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the causal language model. A model needs it; only Transformers makes one without.
        critique_prompt (`str`, *optional*, defaults to [`CRITIQUE_PROMPT`]):
            The sentence that asks for a critique, as the model was trained with it. `None`: a classic reward model,
            which writes none and whose reward is read at the end of the response.
        head_dropout (`float`, *optional*, defaults to `0.0`):
            Dropout of the reward head. The paper's head takes the base's attention dropout, which Llama 3 sets to 0.
        reward_mean (`float`, *optional*, defaults to `0.0`):
            Mean of the rewards over some reference data. The model returns rewards as they are; who wants them
            normalised takes (reward - `reward_mean`) / `reward_std`.
        reward_std (`float`, *optional*, defaults to `1.0`):
            Their standard deviation.

    Raises:
        `ValueError`: If `num_labels` is not 1, `head_dropout` not in [0, 1) or `reward_std` not positive.

    Example:

    ```python
    >>> from transformers import LlamaConfig
    >>> config = CLoudConfig(LlamaConfig(hidden_size=64), critique_prompt=None)
    >>> config.num_labels, config.get_text_config().hidden_size
    (1, 64)

    ```
    """

    model_type = "cloud"
    sub_configs = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: PreTrainedConfig | Mapping[str, Any] | None = None,
        critique_prompt: str | None = CRITIQUE_PROMPT,
        head_dropout: float = 0.0,
        reward_mean: float = 0.0,
        reward_std: float = 1.0,
        **kwargs: Any,
    ) -> None:
        num_labels = kwargs.pop("num_labels", 1)
        if num_labels != 1:
            raise ValueError(f"A reward model gives one number, got `num_labels={num_labels}`. Leave it out.")
        if not 0.0 <= head_dropout < 1.0:
            raise ValueError(f"`head_dropout` must lie in [0, 1), got {head_dropout}.")
        if reward_std <= 0.0:
            raise ValueError(f"`reward_std` must be positive, got {reward_std}.")
        self.text_config = AutoConfig.for_model(**text_config) if isinstance(text_config, Mapping) else text_config
        if self.text_config is not None:
            # `super().__init__` sets both on `text_config` too, and where they are not given sets them to None.
            kwargs.setdefault("attn_implementation", {"text_config": self.text_config._attn_implementation})
            kwargs.setdefault("experts_implementation", {"text_config": self.text_config._experts_implementation})
        self.critique_prompt = critique_prompt
        self.head_dropout = head_dropout
        self.reward_mean = reward_mean
        self.reward_std = reward_std
        super().__init__(num_labels=1, **kwargs)


class FullPrecisionLinear(nn.Linear):
    """
    A linear layer that computes in fp32 whatever its weights are stored in, also under autocast.

    Rewards lie close together: in bf16, with three significant digits, many a chosen and rejected response would tie.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Applies the layer: (..., in_features) to (..., out_features) in fp32 (fp64 if the weights are)."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class RewardHead(nn.Module):
    """
    Dropout, linear, tanh, dropout, linear to one number: the head of the published checkpoints.

    Args:
        hidden_size (`int`):
            Width D of the hidden states that it reads.
        dropout (`float`):
            Probability of both dropouts.
    """

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        # One module twice, and one of torch's own: `disable_dropout` looks for those.
        self.dropout = nn.Dropout(dropout)
        self.dense = FullPrecisionLinear(hidden_size, hidden_size)
        self.out_proj = FullPrecisionLinear(hidden_size, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Reads the rewards `(R,)`, in fp32, off hidden states `(R, D)`."""
        hidden = torch.tanh(self.dense(self.dropout(hidden)))
        rewards: torch.Tensor = self.out_proj(self.dropout(hidden))
        return rewards.squeeze(-1)


class CLoudRewardModel(PreTrainedModel, GenerationMixin):
    """
    A causal language model with a reward head: it writes a critique and is scored after it.

    Make one from a language model with [`CLoudRewardModel.from_causal_lm`], load a trained one with `from_pretrained`,
    and one of any kind (adapter, published checkpoint) with [`load_reward_model`].

    Differences from the paper's own code, beside working with any causal language model:
    1. The head computes in fp32 (see [`FullPrecisionLinear`]).
    2. The reward is read at the last position whose attention mask is 1, so that padding may be on either side.
    3. A checkpoint that lacks a weight, or has one too many, is an error, where Transformers would draw it at random.

    Args:
        config ([`CLoudConfig`]):
            Configuration, with its `text_config`.
        reward_base_model (`PreTrainedModel`, *optional*):
            The causal language model; left out, one with random weights is made from `config.text_config`.

    Raises:
        `ValueError`: If there is no `text_config`, or the language model has no LM head or is an encoder-decoder.
    """

    config_class = CLoudConfig
    base_model_prefix = "reward_base_model"
    supports_gradient_checkpointing = True
    # What the base cannot do the base refuses.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: CLoudConfig, reward_base_model: PreTrainedModel | None = None) -> None:
        if config.text_config is None:
            raise ValueError(
                "A CLoud reward model needs `config.text_config`, the configuration of its language model, got None. "
                "To start from a language model use `CLoudRewardModel.from_causal_lm`; for a checkpoint published "
                "without it use `load_published(path, base_config=...)`."
            )
        super().__init__(config)
        if reward_base_model is None:
            reward_base_model = AutoModelForCausalLM.from_config(config.text_config)
        else:
            _keep_weights(reward_base_model)
        _check_base(reward_base_model)
        self.reward_base_model = reward_base_model
        self.__dict__.update(
            {name: value for name, value in vars(reward_base_model).items() if name in QUANTIZATION_ATTRIBUTES}
        )
        # One object: resizing the embeddings, or setting a pad token, must reach the configuration that is saved.
        config.text_config = reward_base_model.config
        self.reward_head = RewardHead(config.get_text_config().hidden_size, config.head_dropout)
        self.post_init()

    @classmethod
    def from_causal_lm(
        cls,
        model: PreTrainedModel | str | Path,
        *,
        critique_prompt: str | None = CRITIQUE_PROMPT,
        head_dropout: float = 0.0,
        **model_kwargs: Any,
    ) -> Self:
        """
        Puts a new reward head, drawn at random, on a causal language model.

        Args:
            model (`PreTrainedModel`, `str` or `Path`):
                The language model, which is not copied, or what `AutoModelForCausalLM.from_pretrained` takes.
            critique_prompt (`str`, *optional*, defaults to [`CRITIQUE_PROMPT`]):
                See [`CLoudConfig`]; `None` for a classic reward model.
            head_dropout (`float`, *optional*, defaults to `0.0`):
                See [`CLoudConfig`].
            **model_kwargs:
                Passed to `AutoModelForCausalLM.from_pretrained`.

        Returns:
            [`CLoudRewardModel`]: in the language model's dtype, on its device.

        Raises:
            `TypeError`: If `model` is a PEFT model.
            `ValueError`: If the language model has no LM head, or computes its logits in a way not known here.

        Example:

        ```python
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> size = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=32)
        >>> model = CLoudRewardModel.from_causal_lm(LlamaForCausalLM(LlamaConfig(**size)))
        >>> model(torch.tensor([[3, 4, 5], [6, 7, 8]])).rewards.shape
        torch.Size([2])

        ```
        """
        if isinstance(model, str | Path):
            model = AutoModelForCausalLM.from_pretrained(model, **model_kwargs)
        if not isinstance(model, PreTrainedModel):
            raise TypeError(
                f"`model` must be a causal language model of Transformers, or a path to one, got "
                f"{type(model).__name__}. Of a PEFT model pass the base, and put the adapter on the reward model."
            )
        config = CLoudConfig(
            text_config=model.config,
            critique_prompt=critique_prompt,
            head_dropout=head_dropout,
            name_or_path=model.config.name_or_path,
        )
        reward_model = cls(config, reward_base_model=model)
        lm_head = next(model.get_output_embeddings().parameters())
        reward_model.reward_head.to(device=lm_head.device, dtype=lm_head.dtype)
        is_training = model.training
        _check_logits(reward_model.eval())
        return reward_model.train(is_training)

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """Transformers asks before it sets how experts are computed, here and below. It looks for them in this file."""
        return True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **kwargs: Any) -> Any:
        """
        Loads a reward model, as Transformers does, but refuses a checkpoint that does not hold exactly its weights.

        Args:
            pretrained_model_name_or_path (`str` or `Path`):
                Folder or id on the Hub, written by `save_pretrained` or `push_to_hub`.
            *model_args:
                Passed on.
            **kwargs:
                Passed on. `ignore_mismatched_sizes` has no effect.

        Returns:
            [`CLoudRewardModel`]: in evaluation mode. With `output_loading_info=True` a pair of it and the information.

        Raises:
            `ValueError`: If weights are missing, unexpected or of another shape: the reward head's, for instance,
                because the folder holds a language model.
        """
        output_loading_info = kwargs.pop("output_loading_info", False)
        kwargs["ignore_mismatched_sizes"] = True  # then `info` names them, in place of an error that does not
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        _check_loaded(str(pretrained_model_name_or_path), info)
        return (model, info) if output_loading_info else model

    @property
    def backbone(self) -> nn.Module:
        """The language model without its LM head: its `last_hidden_state` is what both heads read."""
        backbone: nn.Module = self.reward_base_model.base_model
        return backbone

    @property
    def generation_config(self) -> GenerationConfig:
        """The language model's: saved, loaded and used by `generate` as its own."""
        return self.reward_base_model.generation_config

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        # Transformers sets one of its own making before there is a language model.
        if "reward_base_model" in self._modules:
            self.reward_base_model.generation_config = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CLoudOutput:
        """
        Reads each row's reward and, given labels, sums the negative log-likelihood of its critique.

        Args:
            input_ids (`torch.Tensor` of shape `(R, L)`, *optional*):
                Token ids, padded on either side; or `inputs_embeds` among `kwargs`.
            attention_mask (`torch.Tensor` of shape `(R, L)`, *optional*):
                1 on the row's own tokens. The reward is read at the last of them. Left out: every token.
            labels (`torch.Tensor` of shape `(R, L)`, *optional*):
                The ids of the supervised tokens, each at its own position (not shifted), -100 elsewhere.
            position_ids (`torch.Tensor` of shape `(R, L)`, *optional*):
                Left out, each row's tokens are counted from 0, wherever its padding is.
            **kwargs:
                Passed to the language model.

        Returns:
            [`CLoudOutput`]: rewards, and the critique's sums where there are labels. A batch with no supervised token
            has sums of 0 that can be differentiated.

        Raises:
            `ValueError`: If `attention_mask` is not two-dimensional.

        R: rows; L: padded length.
        """
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"`attention_mask` must have the shape (rows, length), got {tuple(attention_mask.shape)}: the last "
                "position of each row is found with it."
            )
        if attention_mask is not None and position_ids is None:
            position_ids = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
        hidden = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{**kwargs, "use_cache": False, "return_dict": True},
        ).last_hidden_state  # (R, L, D), after the final norm
        output = CLoudOutput(rewards=self.reward_of(_last_hidden(hidden, attention_mask)))
        if labels is not None:
            self._add_critique_sums(output, hidden, labels)
        return output

    def reward_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """
        Reads rewards off hidden states at closing tokens: the head alone.

        Args:
            hidden (`torch.Tensor` of shape `(R, D)`):
                The backbone's `last_hidden_state` where each row closes.

        Returns:
            `torch.Tensor` of shape `(R,)`: the rewards, in fp32.
        """
        rewards: torch.Tensor = self.reward_head(hidden)
        return rewards

    def logits_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """
        Applies the LM head and what the architecture does to its logits (Gemma's soft cap, Cohere's scale and others).

        Args:
            hidden (`torch.Tensor` of shape `(..., D)`):
                The backbone's `last_hidden_state` at any positions.

        Returns:
            `torch.Tensor` of shape `(..., V)`: next-token logits, as the language model's own forward gives them.
        """
        # Called as a module, inside the wrapped forward: that is what makes ZeRO-3 and FSDP gather its weight.
        logits: torch.Tensor = self.get_output_embeddings()(hidden)
        scale, soft_cap = logit_transform(self.reward_base_model.config.get_text_config())
        if scale != 1.0:
            logits = logits * scale
        if soft_cap is not None:
            logits = torch.tanh(logits / soft_cap) * soft_cap
        return logits

    def _add_critique_sums(self, output: CLoudOutput, hidden: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds the sums over each row's supervised tokens. Hidden (R, L, D), labels (R, L)."""
        targets = labels[:, 1:].to(hidden.device)  # (R, L - 1): position t predicts token t + 1
        is_supervised = targets != IGNORED_LABEL
        nll, is_correct = self._token_nll(hidden[:, :-1][is_supervised], targets[is_supervised])

        def sum_rows(values: torch.Tensor) -> torch.Tensor:
            # Not `index_add`, whose order of summing changes from run to run on a GPU.
            return values.new_zeros(is_supervised.shape).masked_scatter(is_supervised, values).sum(dim=1)

        output["critique_nll"] = sum_rows(nll)
        output["num_supervised"] = is_supervised.sum(dim=1)
        output["num_correct"] = sum_rows(is_correct)

    def _token_nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Nats of each target, and whether it was the most likely token, chunk by chunk. Hidden (N, D), targets (N,).

        With several chunks each is computed again in the backward pass, so that one chunk's logits is all that is ever
        held. The first chunk is computed even when it is empty: its gradients are zeros, and every process needs some.
        """
        size = max(1, LOGITS_PER_CHUNK // self.reward_base_model.config.get_text_config().vocab_size)
        num_chunks = self._agreed_num_chunks(max(1, math.ceil(len(targets) / size)))
        chunks = []
        for start in range(0, num_chunks * size, size):
            chunk = hidden[start : start + size], targets[start : start + size]
            if num_chunks == 1:
                chunks.append(self._chunk_nll(*chunk))
            else:
                # Re-entrant checkpoints would finish the head's gradient once per chunk, which DDP refuses.
                chunks.append(checkpoint(self._chunk_nll, *chunk, use_reentrant=False))
        return torch.cat([nll for nll, _ in chunks]), torch.cat([is_correct for _, is_correct in chunks])

    def _chunk_nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats of each target (N,), in fp32, and whether it was the most likely token."""
        logits = self.logits_of(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nll = F.cross_entropy(logits, targets, reduction="none")
        return nll, logits.detach().argmax(dim=-1) == targets

    def _agreed_num_chunks(self, num_chunks: int) -> int:
        """
        Returns how often to call the LM head: where its weight is sharded, as often as the process with most tokens.

        Each call gathers the weight from all processes, and a process that made fewer would leave the rest waiting.
        """
        lm_head = self.get_output_embeddings()
        if not (is_deepspeed_zero3_enabled() or any(isinstance(weight, DTensor) for weight in lm_head.parameters())):
            return num_chunks
        if not torch.distributed.is_initialized():
            return num_chunks
        most = torch.tensor(num_chunks, device=self.device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        return int(most)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generates with the language model, which takes all arguments. The reward head has no part in it."""
        return self.reward_base_model.generate(*args, **kwargs)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """Asks the language model. PEFT wraps this method."""
        return self.reward_base_model.prepare_inputs_for_generation(*args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's input embeddings."""
        return self.reward_base_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the language model's input embeddings."""
        self.reward_base_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's LM head."""
        return self.reward_base_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Sets the language model's LM head."""
        self.reward_base_model.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resizes the language model's embeddings, LM head and configuration."""
        return self.reward_base_model.resize_token_embeddings(*args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draws the head's weights as `nn.Linear` does, by `nn.init`, which spares what has been loaded."""
        if isinstance(module, FullPrecisionLinear):
            bound = 1.0 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.uniform_(module.bias, -bound, bound)


def logit_transform(text_config: PreTrainedConfig) -> tuple[float, float | None]:
    """
    Reads off a language model's configuration what its forward does to the LM head's output.

    Args:
        text_config (`PreTrainedConfig`):
            Configuration of the language model.

    Returns:
        `tuple[float, float | None]`: a factor, and the bound c of c tanh(logits / c), which comes after it, if any.

    Example:

    ```python
    >>> from transformers import Gemma2Config, GraniteConfig
    >>> logit_transform(Gemma2Config()), logit_transform(GraniteConfig(logits_scaling=8.0))
    ((1.0, 30.0), (0.125, None))

    ```
    """
    settings = text_config.to_dict()
    soft_cap = settings.get("final_logit_softcapping")
    # Cohere; Muse Glimmer; Falcon-H1.
    for factor in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if settings.get(factor) is not None:
            return settings[factor], soft_cap
    divisor = settings.get("logits_scaling")  # Granite, MiniCPM3; a factor in HyperCLOVA X alone
    if divisor is None:
        return 1.0, soft_cap
    return (divisor if text_config.model_type == "hyperclovax" else 1.0 / divisor), soft_cap


def _last_hidden(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The hidden state (R, D) at each row's last position whose mask is 1. Hidden (R, L, D), mask (R, L)."""
    if attention_mask is None:
        return hidden[:, -1]
    positions = torch.arange(hidden.size(1), device=hidden.device)
    last = (attention_mask.to(hidden.device).bool() * positions).argmax(dim=-1)
    return hidden[torch.arange(hidden.size(0), device=hidden.device), last]


def _check_base(model: PreTrainedModel) -> None:
    """Refuses a language model in which the two heads cannot be put side by side."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ValueError(f"The language model must be decoder-only, got the encoder-decoder {name}.")
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"The language model must have an LM head, got {name}, which has none. Load it as a causal LM."
        )
    if model.base_model is model:
        raise ValueError(f"The language model must keep its backbone apart from its LM head, {name} does not.")


@torch.no_grad()
def _check_logits(model: CLoudRewardModel) -> None:
    """Refuses a language model whose forward does something to its logits that `logits_of` does not know of."""
    if is_deepspeed_zero3_enabled() or any(weight.is_meta for weight in model.parameters()):
        return  # the weights are not here
    ids = torch.tensor([[0, 1]], device=model.device)
    expected = model.reward_base_model(input_ids=ids, use_cache=False).logits
    found = model.logits_of(model.backbone(input_ids=ids, use_cache=False).last_hidden_state)
    if (found - expected).abs().max() > 1e-2 * expected.abs().max():
        raise ValueError(
            f"{type(model.reward_base_model).__name__} changes the output of its LM head in a way that is not known "
            "here, so that the critique loss would not be its own. `logit_transform` is the place to add it."
        )


def _keep_weights(model: PreTrainedModel) -> None:
    """Marks a language model's modules, some of which may be new (resized embeddings), as not to be drawn again."""
    for module in model.modules():
        module._is_hf_initialized = True


def _check_loaded(path: str, info: Mapping[str, Any]) -> None:
    """Refuses a checkpoint whose weights are not exactly the model's."""
    problems = [
        f"{kind} {', '.join(sorted(map(str, info[key]))[:4])}{' ...' if len(info[key]) > 4 else ''}"
        for kind, key in (
            ("missing", "missing_keys"),
            ("unexpected", "unexpected_keys"),
            ("of another shape", "mismatched_keys"),
        )
        if info[key]
    ]
    if problems:
        raise ValueError(
            f"The weights in {path} are not those of a CLoud reward model of this configuration: "
            f"{'; '.join(problems)}. To put a new reward head on a language model use "
            "`CLoudRewardModel.from_causal_lm`."
        )


def load_reward_model(
    path: str | Path,
    *,
    critique_prompt: str | EllipsisType | None = ...,
    base_config: PreTrainedConfig | str | Path | None = None,
    base_model: str | Path | None = None,
    **model_kwargs: Any,
) -> "CLoudRewardModel | PeftModel":
    """
    Loads a trained reward model of any kind: a full checkpoint, a PEFT adapter, or a published checkpoint.

    Args:
        path (`str` or `Path`):
            Folder or id on the Hub.
        critique_prompt (`str`, *optional*):
            Needed where the checkpoint does not say it (published ones, and adapters saved without the model's
            `config.json`); elsewhere it replaces what the checkpoint says. `None` for a classic model.
        base_config (`PreTrainedConfig`, `str` or `Path`, *optional*):
            For a published checkpoint, see [`load_published`].
        base_model (`str` or `Path`, *optional*):
            For an adapter: where its base lies, a language model or a full reward model. Defaults to the place that
            the adapter names.
        **model_kwargs:
            Passed to `from_pretrained`, such as `dtype`.

    Returns:
        [`CLoudRewardModel`], or for an adapter a `PeftModel` around one, which passes its attributes on.

    Raises:
        `ValueError`: If `path` holds something else, an adapter comes without the reward head that it was trained
            with, a weight has the wrong shape, or the critique prompt is known neither from the checkpoint nor from
            the caller.
    """
    location = {key: value for key, value in model_kwargs.items() if key in LOCATION_ARGUMENTS}
    if find_adapter_config_file(str(path), **location) is not None:
        return _load_adapter(path, critique_prompt, base_model, model_kwargs)
    settings, _ = PreTrainedConfig.get_config_dict(path, **location)
    if _is_published_layout(settings):
        if base_config is None or critique_prompt is ...:
            raise ValueError(
                f"{path} is a checkpoint in the published layout, which says neither its language model's "
                "configuration nor its critique prompt. Pass `base_config` and `critique_prompt`."
            )
        return load_published(path, base_config=base_config, critique_prompt=critique_prompt, **model_kwargs)
    if settings.get("model_type") != CLoudConfig.model_type:
        raise ValueError(
            f"{path} must hold a CLoud reward model, got one of the type {settings.get('model_type')!r}. To put a new "
            "reward head on a language model use `CLoudRewardModel.from_causal_lm`."
        )
    model: CLoudRewardModel = CLoudRewardModel.from_pretrained(path, **model_kwargs)
    if critique_prompt is not ...:
        model.config.critique_prompt = critique_prompt
    return model


def load_published(
    path: str | Path,
    *,
    base_config: PreTrainedConfig | str | Path,
    critique_prompt: str | None,
    **model_kwargs: Any,
) -> CLoudRewardModel:
    """
    Loads a checkpoint in the layout in which the paper's authors published theirs.

    Its weights have the names of ours, but its `config.json` holds neither the language model's configuration nor the
    sentence that it was trained to write critiques after.

    Args:
        path (`str` or `Path`):
            Folder or id on the Hub.
        base_config (`PreTrainedConfig`, `str` or `Path`):
            The language model's configuration, or where to find it: the model that the checkpoint was trained from.
        critique_prompt (`str` or `None`):
            Word for word as in training. `None` for a classic model, and for no other.
        **model_kwargs:
            Passed to [`CLoudRewardModel.from_pretrained`], such as `dtype`.

    Returns:
        [`CLoudRewardModel`]: save it, and it holds all that it needs.

    Raises:
        `ValueError`: If `path` is not in that layout, its weights are not exactly those of such a model, or
            `critique_prompt` and the checkpoint disagree on whether it writes critiques.
    """
    location = {key: value for key, value in model_kwargs.items() if key in LOCATION_ARGUMENTS}
    settings, _ = PreTrainedConfig.get_config_dict(path, **location)
    if not _is_published_layout(settings):
        raise ValueError(
            f"{path} must hold a checkpoint of the architecture {PUBLISHED_ARCHITECTURE!r} without a `text_config`, "
            f"got architectures {settings.get('architectures')}, model type {settings.get('model_type')!r}. Load "
            "others with `load_reward_model`."
        )
    method = settings.get("feedback_method")
    if method is not None and (method == PUBLISHED_CLASSIC_METHOD) != (critique_prompt is None):
        raise ValueError(
            f"`critique_prompt` must be None for a classic model and a sentence for any other, got {critique_prompt!r} "
            f"for one whose `feedback_method` is {method!r}."
        )
    if not isinstance(base_config, PreTrainedConfig):
        base_config = AutoConfig.from_pretrained(base_config)
    config = CLoudConfig(
        text_config=base_config,
        critique_prompt=critique_prompt,
        head_dropout=base_config.to_dict().get("attention_dropout", 0.0),
        name_or_path=str(path),
    )
    model: CLoudRewardModel = CLoudRewardModel.from_pretrained(path, config=config, **model_kwargs)
    return model


def _is_published_layout(settings: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of the authors'. A later one of theirs says "cloud", as ours do."""
    if settings.get("text_config") is not None:
        return False
    is_named_so = PUBLISHED_ARCHITECTURE in (settings.get("architectures") or [])
    return is_named_so or settings.get("model_type") == CLoudConfig.model_type


def _load_adapter(
    path: str | Path,
    critique_prompt: str | EllipsisType | None,
    base_model: str | Path | None,
    model_kwargs: Mapping[str, Any],
) -> "PeftModel":
    """Loads an adapter on its base, with the reward head it was trained with."""
    from peft import PeftConfig, PeftModel, load_peft_weights

    location = {key: value for key, value in model_kwargs.items() if key in LOCATION_ARGUMENTS}
    base_kwargs = {key: value for key, value in model_kwargs.items() if key not in location}
    base_path = base_model or PeftConfig.from_pretrained(str(path), **location).base_model_name_or_path
    if not base_path:
        raise ValueError(f"The adapter in {path} does not say what it was trained on. Pass `base_model`.")
    weights = load_peft_weights(str(path), device="cpu", **location)
    if AutoConfig.from_pretrained(base_path).model_type == CLoudConfig.model_type:
        model = load_reward_model(base_path, critique_prompt=critique_prompt, **base_kwargs)
    else:
        model = _new_model_for_adapter(path, base_path, critique_prompt, location, base_kwargs)
        _check_adapter_head(path, weights, model)
    return PeftModel.from_pretrained(model, str(path), **location)


def _new_model_for_adapter(
    path: str | Path,
    base_path: str | Path,
    critique_prompt: str | EllipsisType | None,
    location: Mapping[str, Any],
    base_kwargs: Mapping[str, Any],
) -> CLoudRewardModel:
    """Puts a head, to be filled by the adapter, on the language model that the adapter was trained on."""
    try:
        settings, _ = PreTrainedConfig.get_config_dict(path, **location)
    except OSError:
        settings = {}
    # Without a `config.json` Transformers gives that of the adapter's base.
    is_described = settings.get("model_type") == CLoudConfig.model_type
    if not is_described and critique_prompt is ...:
        raise ValueError(
            f"The adapter in {path} comes without the reward model's `config.json`, so that its critique prompt is "
            "not known. Pass `critique_prompt` (None for a classic model)."
        )
    config = CLoudConfig.from_dict(settings) if is_described else CLoudConfig()
    model = CLoudRewardModel.from_causal_lm(base_path, head_dropout=config.head_dropout, **base_kwargs)
    model.config.critique_prompt = config.critique_prompt if critique_prompt is ... else critique_prompt
    model.config.reward_mean, model.config.reward_std = config.reward_mean, config.reward_std
    return model


def _check_adapter_head(path: str | Path, weights: Mapping[str, torch.Tensor], model: CLoudRewardModel) -> None:
    """Refuses an adapter that does not hold the whole reward head, whose base has none."""
    for name, weight in model.reward_head.state_dict().items():
        saved = weights.get(f"base_model.model.reward_head.{name}")
        if saved is None:
            raise ValueError(
                f"The adapter in {path} was saved without its reward head (no `reward_head.{name}`), and its base is a "
                "language model, which has none: the rewards that it learned are lost. Train it with "
                '`modules_to_save=["reward_head"]` in the PEFT configuration.'
            )
        if saved.shape != weight.shape:
            raise ValueError(
                f"`reward_head.{name}` must have the shape {tuple(weight.shape)} on this language model, the adapter "
                f"in {path} holds {tuple(saved.shape)}. Pass the `base_model` that it was trained on."
            )


AutoConfig.register(CLoudConfig.model_type, CLoudConfig, exist_ok=True)
AutoModel.register(CLoudConfig, CLoudRewardModel, exist_ok=True)
