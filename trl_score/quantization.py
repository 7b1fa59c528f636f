"""What both trainers ask of a quantized start, before it is loaded."""

from typing import Any


def refuse_quantized_weights(model: Any, quantization_config: Any, peft_config: Any) -> None:
    """
    Refuses to train what quantization has frozen: beside weights of 4 or 8 bits there must be an adapter.

    Args:
        model (`str` or model):
            As given to a trainer. One in memory is as it is, whatever the other arguments say.
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            How the model would be quantized.
        peft_config ([`~peft.PeftConfig`], *optional*):
            The adapter that would be trained.

    Raises:
        `ValueError`: If there is no adapter.

    Example:

    ```python
    >>> refuse_quantized_weights("Qwen/Qwen2.5-1.5B-Instruct", None, None)

    ```
    """
    if isinstance(model, str) and quantization_config is not None and peft_config is None:
        raise ValueError(
            f"Quantized weights are not trained, an adapter beside them is: expected a `peft_config` beside "
            f"`quantization_config`, got None for {model!r}. Pass one (QLoRA; `--use_peft` in the scripts), or leave "
            "the quantization out."
        )
