"""What a process needs to hold in one training step, from the sizes in `trl_score.score.costs`. Pure; an estimate."""

from dataclasses import asdict, dataclass

from trl_score.score.costs import Engine, ModelSize, activation_bytes, state_bytes


@dataclass(frozen=True)
class Precision:
    """
    Bytes of one value.

    Args:
        weight (`float`):
            Of a frozen weight: 4 in fp32, 2 in bf16, about 0.5 in 4-bit.
        trained (`int`):
            Of a weight that is trained, and of its gradient.
        computed (`int`):
            Of an activation: 2 where bf16 or fp16 is computed in.
    """

    weight: float
    trained: int
    computed: int


@dataclass(frozen=True)
class Batch:
    """
    What one forward and backward on one process is made of.

    Args:
        num_rows (`int`):
            Rows.
        num_tokens (`int`):
            Tokens of a row, at most.
        logits (`float`):
            Bytes of the logits that are there at a time, and of what their gradient needs.
    """

    num_rows: int
    num_tokens: int
    logits: float


@dataclass(frozen=True)
class MemoryNeed:
    """
    Bytes of one process.

    Args:
        weights (`float`): The model, with its adapter.
        reference (`float`): A reference that is a copy of the model.
        gradients (`float`): Of what is trained.
        optimizer (`float`): AdamW's state.
        activations (`float`): What the layers keep for the backward.
        logits (`float`): The logits that are there at a time, and what their gradient needs.
    """

    weights: float
    reference: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """`float`: All of it."""
        return sum(asdict(self).values())


def memory_need(
    size: ModelSize,
    batch: Batch,
    precision: Precision,
    *,
    num_trained: int,
    engine: Engine = "ddp",
    num_processes: int = 1,
    has_reference_copy: bool = False,
    gradient_checkpointing: bool = False,
    num_micro_batches: int = 1,
) -> MemoryNeed:
    """
    Estimates the bytes of one process in the update of one micro-batch.

    With P parameters of which p are trained, W processes, b_w bytes of a frozen weight and b_t of a trained one:

    - weights = (P - p) b_w + p b_t, over W under ZeRO-3 and FSDP2;
    - reference = P b_w where it is a copy, over W likewise; the same model with its adapter off costs nothing;
    - gradients = p b_t, over W from ZeRO-2 on, but under FSDP2 only where a step is one micro-batch;
    - optimizer = 2 p b_t (AdamW's moments), under ZeRO 12 p (fp32, with a copy of the weights), over W from ZeRO-1 on;
    - activations = rows times [`~trl_score.score.costs.activation_bytes`];
    - logits as the batch says: [`~trl_score.score.costs.logit_bytes`] of SCoRe, [`chunk_bytes`] of CLoud.

    Generation's key-value cache is not in it: it is freed before the update. What a library allocates beside, such as
    buffers of collectives and fragments, is not in it either.

    Args:
        size ([`~trl_score.score.costs.ModelSize`]):
            The model.
        batch ([`Batch`]):
            A micro-batch.
        precision ([`Precision`]):
            Bytes of a value.
        num_trained (`int`):
            Parameters that are trained: all, or the adapter's, which come on top of the model's.
        engine (`str`, *optional*, defaults to `"ddp"`):
            What is split over the processes.
        num_processes (`int`, *optional*, defaults to `1`):
            How many there are.
        has_reference_copy (`bool`, *optional*, defaults to `False`):
            Whether the reference is a model of its own.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`):
            Whether activations are computed again in the backward.
        num_micro_batches (`int`, *optional*, defaults to `1`):
            Micro-batches of a step.

    Returns:
        [`MemoryNeed`]: bytes.
    """
    is_adapter = num_trained < size.num_parameters
    # The counts of `state_bytes` are whole bytes a weight; a quantized weight has less than one.
    state = state_bytes(
        size.num_parameters + num_trained * is_adapter,
        num_trained,
        engine=engine,
        num_processes=num_processes,
        bytes_per_weight=precision.weight,  # type: ignore[arg-type]
        bytes_per_trained_weight=precision.trained,
        has_reference_copy=has_reference_copy,
        num_micro_batches=num_micro_batches,
    )
    kept = activation_bytes(
        size, batch.num_tokens, bytes_per_value=precision.computed, gradient_checkpointing=gradient_checkpointing
    )
    return MemoryNeed(
        weights=state.weights,
        reference=state.reference,
        gradients=state.gradients,
        optimizer=state.optimizer,
        activations=batch.num_rows * kept,
        logits=batch.logits,
    )


def chunk_bytes(num_tokens: int, vocab_size: int, *, logits_per_chunk: int, bytes_per_value: int) -> int:
    """
    Bytes of the logits that CLoud's critique loss holds at a time: a chunk of them in fp32, its log-softmax and its
    gradient, and where less is computed in, the chunk in that.

    Args:
        num_tokens (`int`):
            Tokens that logits are computed of, of all rows.
        vocab_size (`int`):
            Words.
        logits_per_chunk (`int`):
            Most logits of a chunk.
        bytes_per_value (`int`):
            2 in bf16, 4 in fp32.

    Returns:
        `int`: bytes.

    Example:

    ```python
    >>> chunk_bytes(10, 25, logits_per_chunk=100, bytes_per_value=2)  # 100 * (3 * 4 + 2)
    1400

    ```
    """
    return min(num_tokens * vocab_size, logits_per_chunk) * (12 + (bytes_per_value if bytes_per_value < 4 else 0))


def checkpoint_bytes(num_trained: int, precision: Precision, *, engine: Engine, has_optimizer: bool) -> float:
    """
    Bytes of one checkpoint on disk, of all processes together: what is trained, and AdamW's state.

    Args:
        num_trained (`int`):
            Parameters that are trained.
        precision ([`Precision`]):
            Bytes of a value.
        engine (`str`):
            Under ZeRO the optimizer's state has 12 bytes a parameter, else two values.
        has_optimizer (`bool`):
            Whether it is saved, so that the run can go on.

    Returns:
        `float`: bytes.

    Example:

    ```python
    >>> precision = Precision(weight=2, trained=4, computed=2)
    >>> checkpoint_bytes(100, precision, engine="zero2", has_optimizer=True)  # 100 * (4 + 12)
    1600.0

    ```
    """
    of_optimizer = 12 if engine.startswith("zero") else 2 * precision.trained
    return float(num_trained * (precision.trained + of_optimizer * has_optimizer))
