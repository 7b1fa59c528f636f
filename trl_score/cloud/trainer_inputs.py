"""What CLoudRewardTrainer is given, brought into the form that it works with: tokenizer, settings, model, adapter."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeAlias

from accelerate.utils import is_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import find_adapter_config_file

from trl_score import trl_compat
from trl_score.cloud.cloud_config import CLoudRewardConfig
from trl_score.cloud.modeling import CLoudConfig, CLoudRewardModel

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import BitsAndBytesConfig, DataCollator

    AnyModel: TypeAlias = str | PreTrainedModel | PeftModel

HEAD = "reward_head"
_HEAD_IN_TRL = "score"  # what TRL's guide says to save, of a model for sequence classification


def load_tokenizer(model: "AnyModel", args: CLoudRewardConfig) -> PreTrainedTokenizerBase:
    """
    Loads the tokenizer that belongs to a model.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, or where it comes from.
        args ([`CLoudRewardConfig`]):
            The configuration.

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: the tokenizer.
    """
    name = model if isinstance(model, str) else trl_compat.get_config_model_id(model.config)
    return AutoTokenizer.from_pretrained(
        name, revision=model_init_kwargs(args).get("revision"), trust_remote_code=args.trust_remote_code
    )


def set_special_tokens(tokenizer: PreTrainedTokenizerBase, args: CLoudRewardConfig) -> None:
    """
    Gives the tokenizer its eos and pad tokens, as TRL does, but before anything is tokenized.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer, changed in place.
        args ([`CLoudRewardConfig`]):
            The configuration.

    Raises:
        `TypeError`: If it is no tokenizer.
        `ValueError`: If a token is not in the vocabulary, or there is nothing to pad with.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"`processing_class` must be a tokenizer, got {type(tokenizer).__name__}: CLoudRewardTrainer trains on "
            "text only. Pass the processor's `tokenizer`."
        )
    for name, token in (("eos_token", args.eos_token), ("pad_token", args.pad_token)):
        if token is not None and token not in tokenizer.get_vocab():
            raise ValueError(f"`{name}` must be in the tokenizer's vocabulary, got {token!r}, which is not.")
    if args.eos_token is not None:
        tokenizer.eos_token = args.eos_token
    tokenizer.pad_token = args.pad_token or tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError("The tokenizer has neither a pad nor an eos token. Set `tokenizer.pad_token`.")


def load_model_config(model: "AnyModel", args: CLoudRewardConfig) -> Any:
    """
    Gives a model's configuration, without loading the model.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, or where it comes from.
        args ([`CLoudRewardConfig`]):
            The configuration of the run.

    Returns:
        [`~transformers.PretrainedConfig`]: the model's configuration.

    Raises:
        `ValueError`: If the model is an adapter, or one for sequence classification, such as TRL's reward models.
    """
    if not isinstance(model, str):
        _refuse_classifier(type(model).__name__)
        return model.config
    revision = model_init_kwargs(args).get("revision")
    if find_adapter_config_file(model, revision=revision) is not None:
        raise ValueError(
            f"{model!r} is an adapter, a model was expected. Load it with `load_reward_model`, make it trainable with "
            "`model.set_adapter('default')`, and pass the model and its tokenizer."
        )
    config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=args.trust_remote_code)
    for name in config.architectures or ():
        _refuse_classifier(name)
    return config


def _refuse_classifier(class_name: str) -> None:
    if class_name.endswith("ForSequenceClassification"):
        raise ValueError(
            f"`model` must be a causal language model or a CLoud model, got a {class_name}: it has no LM head to write "
            "critiques with, and its own head is another than CLoud's. Pass the language model that it was made from."
        )


def check_collator(data_collator: "DataCollator | None") -> None:
    """
    Refuses the collator of TRL's RewardTrainer: its batches lack critiques and the token that a reward is read at.

    Args:
        data_collator (`DataCollator`, *optional*):
            As given to the trainer.

    Raises:
        `ValueError`: If it is that one.
    """
    if isinstance(data_collator, trl_compat.DataCollatorForPreference):
        raise ValueError(
            f"`data_collator` must make batches with critiques and closing tokens, got {type(data_collator).__name__}, "
            "which leaves both out. Leave `data_collator` out, or subclass `DataCollatorForCritiques`."
        )


def check_critique_prompt(config: Any, args: CLoudRewardConfig) -> None:
    """
    Refuses to go on with a reward model in another form than it was trained in.

    Args:
        config ([`~transformers.PretrainedConfig`]):
            The model's configuration.
        args ([`CLoudRewardConfig`]):
            The configuration of the run.

    Raises:
        `ValueError`: If the model is a CLoud model with another critique prompt.
    """
    if isinstance(config, CLoudConfig) and config.critique_prompt != args.critique_prompt:
        raise ValueError(
            f"The model was trained with the critique prompt {config.critique_prompt!r}, got {args.critique_prompt!r} "
            f"(stage {args.stage!r}; None means a classic reward model). Set `critique_prompt` or `stage` to match, or "
            "change `model.config.critique_prompt` if that is what you want."
        )


def check_context(config: Any, args: CLoudRewardConfig) -> None:
    """
    Checks that rows of the greatest length fit into the model's context.

    Args:
        config ([`~transformers.PretrainedConfig`]):
            The model's configuration.
        args ([`CLoudRewardConfig`]):
            The configuration of the run.

    Raises:
        `ValueError`: If `max_length` exceeds the context.
    """
    context = config.get_text_config().to_dict().get("max_position_embeddings")
    if context and args.max_length is not None and args.max_length > context:
        raise ValueError(
            f"`max_length` must not exceed the model's context of {context} tokens, got {args.max_length}. Lower it."
        )


def model_init_kwargs(args: CLoudRewardConfig) -> dict[str, Any]:
    """
    Gives the arguments with which models are loaded.

    Args:
        args ([`CLoudRewardConfig`]):
            The configuration.

    Returns:
        `dict`: a copy of `args.model_init_kwargs`.
    """
    return dict(args.model_init_kwargs) if isinstance(args.model_init_kwargs, dict) else {}


def build_model(
    model: "AnyModel", args: CLoudRewardConfig, quantization_config: "BitsAndBytesConfig | None" = None
) -> "CLoudRewardModel | PeftModel":
    """
    Makes the reward model: loads it, or puts a new head on a language model.

    The seed is set first, so that the head depends on `args.seed` alone.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A language model or a CLoud model, or where one comes from.
        args ([`CLoudRewardConfig`]):
            The configuration.
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            Quantization of a model that is loaded.

    Returns:
        [`CLoudRewardModel`] or [`~peft.PeftModel`]: the model.

    Raises:
        `ValueError`: If a PEFT model does not save its reward head, or cannot be trained.
        `TypeError`: If it is no such model.
    """
    set_seed(args.seed)
    if isinstance(model, str):
        model = _load(model, args, quantization_config)
    if is_peft_model(model):
        if not isinstance(model.get_base_model(), CLoudRewardModel):
            raise TypeError(
                f"A PEFT model must be one around a CLoudRewardModel, got one around "
                f"{type(model.get_base_model()).__name__}. Merge the adapter, or pass the language model with "
                "`peft_config`."
            )
        for name, config in model.peft_config.items():
            _check_saves_head(name, config)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                "The adapter cannot be trained: none of its weights takes gradients. Call "
                "`model.set_adapter('default')` after `load_reward_model`."
            )
        return model
    if not isinstance(model, CLoudRewardModel):
        model = CLoudRewardModel.from_causal_lm(model, critique_prompt=args.critique_prompt)
    if args.is_classic:
        _freeze_lm_head(model)
    return model


def _load(
    name: str, args: CLoudRewardConfig, quantization_config: "BitsAndBytesConfig | None"
) -> "CLoudRewardModel | PreTrainedModel":
    kwargs = {"trust_remote_code": args.trust_remote_code, **model_init_kwargs(args)}
    if quantization_config is not None:
        if "quantization_config" in kwargs:
            raise ValueError(
                "`quantization_config` is set both as an argument and in `model_init_kwargs`. Set it in one place."
            )
        kwargs["quantization_config"] = quantization_config
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        kwargs["device_map"] = None  # as TRL: each process holds its own copy
    is_cloud = isinstance(load_model_config(name, args), CLoudConfig)
    return trl_compat.create_model_from_path(name, CLoudRewardModel if is_cloud else AutoModelForCausalLM, **kwargs)


def _freeze_lm_head(model: CLoudRewardModel) -> None:
    """A classic model never uses its LM head, and DDP waits for the gradients of all that can be trained."""
    lm_head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    shared = {id(parameter) for parameter in embeddings.parameters()}
    for parameter in lm_head.parameters():
        if id(parameter) not in shared:
            parameter.requires_grad_(False)


def peft_config_with_head(peft_config: "PeftConfig | None", config: Any) -> "PeftConfig | None":
    """
    Makes of an adapter for a language model one for a reward model: its head, which the base does not have, is trained
    and saved whole, and the layers that PEFT takes by itself are those of the language model.

    Args:
        peft_config ([`~peft.PeftConfig`], *optional*):
            As given to the trainer.
        config ([`~transformers.PretrainedConfig`]):
            The model's configuration.

    Returns:
        [`~peft.PeftConfig`], *optional*: a copy with the head in `modules_to_save`.
    """
    if peft_config is None:
        return None
    peft_config = deepcopy(peft_config)
    settings = vars(peft_config)
    saved = [name for name in settings.get("modules_to_save") or [] if name not in (HEAD, _HEAD_IN_TRL)]
    settings["modules_to_save"] = [*saved, HEAD]
    # PEFT's classes for tasks look for that task's layers, by names that are not ours, and its table of layers to adapt
    # for a model's kind, which is the base's.
    peft_config.task_type = None
    if peft_config.peft_type == "LORA" and not settings["target_modules"] and not settings.get("target_parameters"):
        kind = config.get_text_config().model_type
        settings["target_modules"] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind)
    return peft_config


def _check_saves_head(name: str, peft_config: "PeftConfig") -> None:
    if HEAD not in (vars(peft_config).get("modules_to_save") or []):
        raise ValueError(
            f"The adapter {name!r} does not save the reward head, so what it learns would be lost, got "
            f"`modules_to_save={vars(peft_config).get('modules_to_save')}`. Make it with `modules_to_save=[{HEAD!r}]`, "
            "or pass `peft_config` to the trainer, which adds it."
        )
