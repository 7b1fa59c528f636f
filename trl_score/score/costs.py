"""
What a step of SCoRe costs: floating-point operations, memory and traffic, from shapes alone. docs/scale.md uses it, and
compares it with what was measured.

Formulas of dense decoders with grouped-query attention and a gated MLP (Llama, Qwen, Mistral and their kin), the usual
counts of Kaplan et al. (arXiv 2001.08361) and of ZeRO (arXiv 1910.02054), for two turns in one row. Rows are taken to
be full: padding costs as much as text.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Engine: TypeAlias = Literal["ddp", "zero1", "zero2", "zero3", "fsdp2"]

TILE_TOKENS, TILE_WORDS = 4096, 32768
"""At most so many tokens and words of the logits are there at a time, in TRL's LM head."""


@dataclass(frozen=True)
class ModelSize:
    """
    What of a model decides on its costs.

    Args:
        num_parameters (`int`):
            All of them.
        num_layer_parameters (`int`):
            Those of the linear layers in the decoder's layers: what multiplies each token.
        num_layers (`int`):
            Decoder layers.
        hidden_size (`int`):
            Width of the residual stream.
        intermediate_size (`int`):
            Width of the MLP.
        query_size (`int`):
            Heads times head size.
        kv_size (`int`):
            Key-value heads times head size.
        vocab_size (`int`):
            Rows of the output matrix.
    """

    num_parameters: int
    num_layer_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    query_size: int
    kv_size: int
    vocab_size: int

    @classmethod
    def of(cls, config: Any) -> "ModelSize":
        """
        Reads a model's size from its configuration; no weights are made.

        Args:
            config ([`~transformers.PreTrainedConfig`]):
                Configuration of a dense decoder.

        Returns:
            `ModelSize`: its size.

        Raises:
            `ValueError`: If the configuration has experts: a token passes only some of them.
        """
        import torch
        from transformers import AutoModelForCausalLM

        if getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None):
            raise ValueError(f"Expected a dense decoder, got {config.model_type!r}, which has experts.")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        num_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        linear = [module for module in model.base_model.modules() if isinstance(module, torch.nn.Linear)]
        return cls(
            num_parameters=model.num_parameters(),
            num_layer_parameters=sum(module.weight.numel() for module in linear),
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            query_size=config.num_attention_heads * head_size,
            kv_size=num_kv_heads * head_size,
            vocab_size=config.vocab_size,
        )


@dataclass(frozen=True)
class RolloutSize:
    """
    Tokens of one two-turn rollout.

    Args:
        prompt (`int`):
            Of the prompt.
        turn_1 (`int`):
            Of turn 1.
        correction (`int`):
            Of the correction prompt, with what closes turn 1.
        turn_2 (`int`):
            Of turn 2.
    """

    prompt: int
    turn_1: int
    correction: int
    turn_2: int

    @property
    def num_completion_tokens(self) -> int:
        """`int`: Tokens after the prompt, of which both turns are learned from."""
        return self.turn_1 + self.correction + self.turn_2

    @property
    def num_tokens(self) -> int:
        """`int`: Tokens of the whole row."""
        return self.prompt + self.num_completion_tokens


# Operations


def forward_flops(model: ModelSize, num_tokens: int, *, num_cached: int = 0, num_logits: int = 1) -> int:
    """
    Operations of one forward: 2 for each weight and token, and 4 for each pair of tokens, layer and query channel.

    A kernel that leaves out the half of the pairs that causal attention masks does up to half of the second term less.

    Args:
        model (`ModelSize`):
            The model.
        num_tokens (`int`):
            Tokens of the row.
        num_cached (`int`, *optional*, defaults to `0`):
            Tokens before them, whose keys and values are in a cache.
        num_logits (`int`, *optional*, defaults to `1`):
            Tokens that logits are computed of.

    Returns:
        `int`: operations of one row.

    Example:

    ```python
    >>> from trl_score.score.costs import ModelSize, forward_flops
    >>> model = ModelSize(1200, 1000, 2, 8, 16, 8, 4, 25)
    >>> forward_flops(model, 3)  # 2 * 1000 * 3 + 4 * 2 * 8 * 3 * 3 + 2 * 25 * 8
    6976

    ```
    """
    linear = 2 * model.num_layer_parameters * num_tokens
    attention = 4 * model.num_layers * model.query_size * num_tokens * (num_cached + num_tokens)
    return linear + attention + 2 * model.vocab_size * model.hidden_size * num_logits


def generation_flops(model: ModelSize, rollout: RolloutSize) -> int:
    """
    Operations of generating both turns with a key-value cache that is made anew for turn 2.

    Args:
        model (`ModelSize`):
            The model.
        rollout (`RolloutSize`):
            Tokens of a rollout.

    Returns:
        `int`: operations of one rollout.
    """
    before_turn_2 = rollout.prompt + rollout.turn_1 + rollout.correction
    return _turn_flops(model, rollout.prompt, rollout.turn_1) + _turn_flops(model, before_turn_2, rollout.turn_2)


def _turn_flops(model: ModelSize, num_before: int, num_new: int) -> int:
    if num_new == 0:
        return 0
    # The prefill gives the first new token; the last one is not read again.
    decoding = sum(forward_flops(model, 1, num_cached=num_before + step) for step in range(num_new - 1))
    return forward_flops(model, num_before) + decoding


def log_prob_flops(model: ModelSize, rollout: RolloutSize) -> int:
    """
    Operations of one forward over a whole row, with the logits of all tokens after the prompt.

    Args:
        model (`ModelSize`):
            The model.
        rollout (`RolloutSize`):
            Tokens of a rollout.

    Returns:
        `int`: operations of one rollout.
    """
    return forward_flops(model, rollout.num_tokens, num_logits=rollout.num_completion_tokens + 1)


def step_flops(
    model: ModelSize,
    rollout: RolloutSize,
    *,
    num_forwards: int = 1,
    is_lora: bool = False,
    gradient_checkpointing: bool = False,
) -> int:
    """
    Operations of a rollout in one step: generation, forwards that nothing is learned from, the update.

    The backward costs two forwards, and with LoRA one, as no gradient of the frozen weights is made (the adapter's own
    operations are left out). The logits, which are not kept, are computed once more. Checkpointing adds one forward of
    the layers.

    Args:
        model (`ModelSize`):
            The model.
        rollout (`RolloutSize`):
            Tokens of a rollout.
        num_forwards (`int`, *optional*, defaults to `1`):
            Forwards without a backward: the reference's. One more, the policy's, where the KL is in the return and a
            rollout batch is learned from in several micro-batches.
        is_lora (`bool`, *optional*, defaults to `False`):
            Whether only an adapter is trained.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`):
            Whether activations are computed again in the backward.

    Returns:
        `int`: operations of one rollout.
    """
    forward = log_prob_flops(model, rollout)
    update = forward * (2 if is_lora else 3) + forward_flops(model, 0, num_logits=rollout.num_completion_tokens + 1)
    if gradient_checkpointing:
        update += forward_flops(model, rollout.num_tokens, num_logits=0)
    return generation_flops(model, rollout) + num_forwards * forward + update


# Memory


def kv_cache_bytes(model: ModelSize, num_tokens: int, *, bytes_per_value: int = 2) -> int:
    """
    Bytes of the key-value cache of one row.

    Args:
        model (`ModelSize`):
            The model.
        num_tokens (`int`):
            Tokens of the row.
        bytes_per_value (`int`, *optional*, defaults to `2`):
            2 in bf16, 4 in fp32.

    Returns:
        `int`: bytes.

    Example:

    ```python
    >>> from trl_score.score.costs import ModelSize, kv_cache_bytes
    >>> kv_cache_bytes(ModelSize(1200, 1000, 2, 8, 16, 8, 4, 25), 10)  # keys and values, 2 layers, 4 wide
    320

    ```
    """
    return 2 * model.num_layers * model.kv_size * num_tokens * bytes_per_value


def activation_bytes(
    model: ModelSize, num_tokens: int, *, bytes_per_value: int = 2, gradient_checkpointing: bool = False
) -> int:
    """
    Bytes that the layers keep of one row for the backward.

    Counted in transformers' Llama and Qwen2 with an attention that does not keep its weights (SDPA, FlashAttention):
    each layer keeps 8 values of the hidden size for each token, 4 of the MLP's width and 2 of the keys' width; in bf16
    its two norms keep their input in fp32 besides. With checkpointing the layer's input alone is kept, and what one
    layer keeps comes back while its backward is made.

    Args:
        model (`ModelSize`):
            The model.
        num_tokens (`int`):
            Tokens of the row.
        bytes_per_value (`int`, *optional*, defaults to `2`):
            2 in bf16, 4 in fp32.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`):
            Whether only each layer's input is kept.

    Returns:
        `int`: bytes.
    """
    values = 8 * model.hidden_size + 4 * model.intermediate_size + 2 * model.kv_size
    of_layer = bytes_per_value * values + (4 * model.hidden_size if bytes_per_value < 4 else 0)
    if gradient_checkpointing:
        return num_tokens * (model.num_layers * bytes_per_value * model.hidden_size + of_layer)
    return num_tokens * model.num_layers * of_layer


def logit_bytes(model: ModelSize, num_logits: int, *, bytes_per_value: int = 2, is_head_trained: bool = True) -> int:
    """
    Bytes that the LM head needs for the log-probabilities of a micro-batch and their gradient.

    TRL's LM head never holds the logits of all tokens: it makes one tile of them after the other, and in the backward
    makes each again and turns it into its gradient in place. The gradient of its weight is summed up in fp32. On a
    CPU tiles are narrower, and take less.

    Args:
        model (`ModelSize`):
            The model.
        num_logits (`int`):
            Tokens that log-probabilities are computed of, of all rows.
        bytes_per_value (`int`, *optional*, defaults to `2`):
            2 in bf16, 4 in fp32.
        is_head_trained (`bool`, *optional*, defaults to `True`):
            Whether the head, or the embeddings that it is tied to, are trained; with LoRA they are not.

    Returns:
        `int`: bytes.

    Example:

    ```python
    >>> from trl_score.score.costs import ModelSize, logit_bytes
    >>> model = ModelSize(1200, 1000, 2, 8, 16, 8, 4, 25)
    >>> logit_bytes(model, 10)  # a tile of 10 by 25 in bf16, and 25 by 8 in fp32
    1300

    ```
    """
    tile = min(num_logits, TILE_TOKENS) * min(model.vocab_size, TILE_WORDS) * bytes_per_value
    return tile + 4 * model.vocab_size * model.hidden_size * is_head_trained


@dataclass(frozen=True)
class StateBytes:
    """
    Bytes of a process that do not depend on the batch.

    Args:
        weights (`float`):
            Of the policy.
        reference (`float`):
            Of a reference that is a copy of the model; an adapter that is switched off costs nothing.
        gradients (`float`):
            Of what is trained.
        optimizer (`float`):
            AdamW's two moments, in the type of the weights; under ZeRO in fp32, with a copy of the weights in fp32.
    """

    weights: float
    reference: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """`float`: All of them."""
        return self.weights + self.reference + self.gradients + self.optimizer


def state_bytes(
    num_parameters: int,
    num_trained: int,
    *,
    engine: Engine = "ddp",
    num_processes: int = 1,
    bytes_per_weight: int = 2,
    bytes_per_trained_weight: int = 4,
    has_reference_copy: bool = True,
    num_micro_batches: int = 1,
) -> StateBytes:
    """
    Bytes of weights, reference, gradients and AdamW on each process (ZeRO, arXiv 1910.02054, section 5).

    Args:
        num_parameters (`int`):
            All parameters of the policy, an adapter's among them.
        num_trained (`int`):
            Those that are trained: all, or the adapter's.
        engine (`str`, *optional*, defaults to `"ddp"`):
            ZeRO-1 splits the optimizer over the processes, ZeRO-2 the gradients too, ZeRO-3 and FSDP2 everything.
        num_processes (`int`, *optional*, defaults to `1`):
            Processes that they are split over.
        bytes_per_weight (`int`, *optional*, defaults to `2`):
            Of the frozen weights, the reference's among them: 2 in bf16, 4 in fp32, about 0.5 in 4-bit.
        bytes_per_trained_weight (`int`, *optional*, defaults to `4`):
            Of the weights that are trained, and of their gradients: 4 in fp32, also where autocast computes in bf16.
        has_reference_copy (`bool`, *optional*, defaults to `True`):
            Whether the reference is a model of its own, as in full fine-tuning.
        num_micro_batches (`int`, *optional*, defaults to `1`):
            Micro-batches of a step. With several, FSDP2 keeps whole gradients until the last, as accelerate adds them
            up before it splits them.

    Returns:
        `StateBytes`: bytes of one process.

    Example:

    ```python
    >>> from trl_score.score.costs import state_bytes
    >>> state = state_bytes(100, 100, engine="zero2", num_processes=4, bytes_per_trained_weight=2)
    >>> state.weights, state.reference, state.gradients, state.optimizer  # 2 and 2, then 2 / 4 and 12 / 4 per parameter
    (200.0, 200.0, 50.0, 300.0)

    ```
    """
    sharded = {"ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp2": 3}[engine]
    share = [1.0, *(1 / num_processes if sharded >= stage else 1.0 for stage in (1, 2, 3))]
    frozen_bytes = (num_parameters - num_trained) * bytes_per_weight
    optimizer_bytes = 12 if engine in ("zero1", "zero2", "zero3") else 2 * bytes_per_trained_weight
    keeps_whole_gradients = engine == "fsdp2" and num_micro_batches > 1
    return StateBytes(
        weights=(frozen_bytes + num_trained * bytes_per_trained_weight) * share[3],
        reference=num_parameters * bytes_per_weight * share[3] * has_reference_copy,
        gradients=num_trained * bytes_per_trained_weight * (1.0 if keeps_whole_gradients else share[2]),
        optimizer=num_trained * optimizer_bytes * share[1],
    )


# Traffic


@dataclass(frozen=True)
class StepTraffic:
    """
    Bytes of the tensors that collectives carry in one step, on each process. A ring of W processes sends (W - 1) / W
    of a gathered or scattered tensor, and twice that of one that is all-reduced.

    Args:
        generation (`float`):
            Weights gathered, or brought to an engine, for both turns.
        forwards (`float`):
            Weights gathered for forwards that nothing is learned from.
        update (`float`):
            Weights gathered in forward and backward, once for each micro-batch.
        gradients (`float`):
            Gradients all-reduced, or reduced and scattered.
        after_step (`float`):
            Updated weights gathered from where the optimizer's parts are (ZeRO-1 and 2).
    """

    generation: float
    forwards: float
    update: float
    gradients: float
    after_step: float

    @property
    def total(self) -> float:
        """`float`: All of them."""
        return self.generation + self.forwards + self.update + self.gradients + self.after_step


def step_traffic(
    num_parameters: int,
    num_trained: int,
    *,
    engine: Engine,
    num_micro_batches: int = 1,
    num_forwards: int = 1,
    bytes_per_weight: int = 2,
    bytes_per_gradient: int = 2,
    gathers_for_generation: bool = True,
) -> StepTraffic:
    """
    Bytes that collectives carry in one step, in which each rollout is generated, scored by both models and learned
    from once.

    Args:
        num_parameters (`int`):
            All parameters of the policy.
        num_trained (`int`):
            Those that are trained.
        engine (`str`):
            The engine. ZeRO-3 and FSDP2 gather the weights for each forward and each backward, though small ones and
            the last layer's may stay; ZeRO-2 and ZeRO-3 reduce gradients in each micro-batch, the others once.
        num_micro_batches (`int`, *optional*, defaults to `1`):
            Micro-batches of a step.
        num_forwards (`int`, *optional*, defaults to `1`):
            Forwards without a backward in each micro-batch: the reference's and, unless a rollout batch is one
            micro-batch, the policy's.
        bytes_per_weight (`int`, *optional*, defaults to `2`):
            Of a weight as it is gathered.
        bytes_per_gradient (`int`, *optional*, defaults to `2`):
            Of a gradient as it is reduced.
        gathers_for_generation (`bool`, *optional*, defaults to `True`):
            Whether the weights are gathered once for both turns, or brought to vLLM.

    Returns:
        `StepTraffic`: bytes on each process.
    """
    is_sharded = engine in ("zero3", "fsdp2")
    gathered = num_parameters * bytes_per_weight if is_sharded else 0
    num_reductions = num_micro_batches if engine in ("zero2", "zero3") else 1
    return StepTraffic(
        generation=gathered if gathers_for_generation else 0.0,
        forwards=gathered * num_forwards * num_micro_batches,
        update=2 * gathered * num_micro_batches,
        gradients=num_trained * bytes_per_gradient * num_reductions,
        after_step=num_trained * bytes_per_weight if engine in ("zero1", "zero2") else 0.0,
    )
