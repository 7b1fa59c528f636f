"""Adapters as a start and as the reference: which adapter is trained, and which one stands still beside it."""

import logging
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from transformers.utils import find_adapter_config_file

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

TRAINED, REFERENCE = "default", "ref"
"""What PEFT calls the adapter that is trained, and TRL the frozen one beside it."""

_NEVER_MERGED = ("ADAPTION_PROMPT", "LILY", "OSF", "POLY", "SHADOW", "XLORA")
"""Kinds of adapters, beside those of prompts, that PEFT cannot merge into the weights and take out again."""


def is_mergeable(peft_config: "PeftConfig") -> bool:
    """
    Tells whether an adapter of a kind can be merged into the weights, and be taken out again.

    Args:
        peft_config ([`~peft.PeftConfig`]):
            The adapter's configuration.

    Returns:
        `bool`: `False` for adapters of prompts, and for those whose effect depends on the input.

    Example:

    ```python
    >>> from peft import LoraConfig, PromptTuningConfig
    >>> is_mergeable(LoraConfig(r=4))
    True
    >>> is_mergeable(PromptTuningConfig(num_virtual_tokens=8))
    False

    ```
    """
    settings = vars(peft_config)
    if settings.get("alora_invocation_tokens") is not None:  # takes effect from these tokens on only
        return False
    return not peft_config.is_prompt_learning and settings["peft_type"] not in _NEVER_MERGED


def refuse_adapter_name(model: str, revision: str | None) -> None:
    """
    Refuses an adapter where a model's name is expected: loaded by its name, it would be no PEFT model.

    Args:
        model (`str`):
            A folder, or a name on the Hub.
        revision (`str`, *optional*):
            The revision that is loaded.

    Raises:
        `ValueError`: If it is an adapter.
    """
    if find_adapter_config_file(model, revision=revision) is not None:
        raise ValueError(
            f"{model!r} is an adapter, a model was expected. Load it with "
            "`AutoPeftModelForCausalLM.from_pretrained(..., is_trainable=True)` and pass the model and its tokenizer."
        )


def check_adapters(
    model: "str | PreTrainedModel | PeftModel", peft_config: "PeftConfig | None", reference: str | None
) -> None:
    """
    Checks an adapter that is trained further, and the adapter that is named as the reference.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy as given to the trainer. An adapter `ref` that an earlier trainer left in it is dropped.
        peft_config ([`~peft.PeftConfig`], *optional*):
            A new adapter to train.
        reference (`str`, *optional*):
            `ref_model_name_or_path`.

    Raises:
        `ValueError`: If the model's adapter has another name than PEFT's own, or nothing of it can be trained, or the
            reference is no adapter.
    """
    is_adapted = not isinstance(model, str) and is_peft_model(model)
    if is_adapted:
        _check_trained(model)
    is_peft = is_adapted or peft_config is not None
    if is_peft and reference not in (None, "base") and find_adapter_config_file(str(reference)) is None:
        raise ValueError(
            "With PEFT the reference is an adapter of the same base, or the model without one, got "
            f"`ref_model_name_or_path={reference!r}`, where no adapter is. Leave it out (the reference is then what "
            "training starts from), pass 'base', or name an adapter."
        )


def is_reference_active(model: Any) -> bool:
    """
    Tells whether a model answers as the reference now: with the frozen adapter, or with none.

    Args:
        model ([`~peft.PeftModel`]):
            The policy, as TRL has prepared it.

    Returns:
        `bool`: whether it does.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = next((module for module in model.modules() if isinstance(module, BaseTunerLayer)), None)
    return model.active_adapter == REFERENCE or (layer is not None and layer.disable_adapters)


def set_reference_adapter(model: Any, reference: str | None) -> None:
    """
    Sets the adapter that the reference has, where TRL's choice, a copy of what training starts from, is not wanted.

    Args:
        model ([`~peft.PeftModel`]):
            The policy, as TRL has prepared it.
        reference (`str`, *optional*):
            `ref_model_name_or_path`: `"base"` for none, or where the adapter lies.
    """
    if reference is None:
        return
    if REFERENCE in model.peft_config:
        model.delete_adapter(REFERENCE)
    if reference != "base":
        model.load_adapter(reference, adapter_name=REFERENCE, is_trainable=False)


def _check_trained(model: Any) -> None:
    if REFERENCE in model.peft_config:
        logger.info("The adapter %r, of an earlier trainer, is dropped: this trainer has its own reference.", REFERENCE)
        model.delete_adapter(REFERENCE)
    if TRAINED not in model.peft_config:
        raise ValueError(
            f"The adapter to train must be called {TRAINED!r}, as PEFT calls it by itself, got the adapters "
            f"{sorted(model.peft_config)}. Leave `adapter_name` out when you load it."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "The adapter cannot be trained: none of its weights takes gradients. Load it with `is_trainable=True`."
        )
