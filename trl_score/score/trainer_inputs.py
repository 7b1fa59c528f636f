"""What SCoReTrainer is given, brought into the form that it works with: tokenizer, reward functions, reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from trl_score import trl_compat
from trl_score.score.adapters import refuse_adapter_name
from trl_score.score.score_config import SCoReConfig
from trl_score.score.turn_rewards import AsyncTurnReward, TurnContext, TurnReward

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


def refuse_other_rollouts(**options: Any) -> None:
    """
    Refuses what would make other rollouts than SCoRe's.

    Args:
        options:
            Arguments of GRPOTrainer by name; all must be `None`.

    Raises:
        `ValueError`: If one is not.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"`{name}` is not supported: SCoRe makes its own rollouts of exactly two turns, an answer and a "
                "correction. Use `trl.GRPOTrainer` for tools, environments and rollouts of your own."
            )


def load_tokenizer(model: "str | PreTrainedModel | PeftModel", args: SCoReConfig) -> PreTrainedTokenizerBase:
    """
    Loads the tokenizer that belongs to a model.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, or where it comes from.
        args ([`SCoReConfig`]):
            The configuration.

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: the tokenizer.
    """
    name = model if isinstance(model, str) else trl_compat.get_config_model_id(model.config)
    return AutoTokenizer.from_pretrained(
        name,
        revision=model_init_kwargs(args).get("revision"),
        truncation_side="left",
        padding_side="left",
        trust_remote_code=args.trust_remote_code,
    )


def load_model_config(model: "str | PreTrainedModel | PeftModel", args: SCoReConfig) -> Any:
    """
    Gives a model's configuration, without loading the model.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, or where it comes from.
        args ([`SCoReConfig`]):
            The configuration of the run.

    Returns:
        [`~transformers.PretrainedConfig`]: the model's configuration.

    Raises:
        `ValueError`: If the model is an adapter.
    """
    if not isinstance(model, str):
        return model.config
    revision = model_init_kwargs(args).get("revision")
    refuse_adapter_name(model, revision)
    return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=args.trust_remote_code)


def model_init_kwargs(args: SCoReConfig) -> dict[str, Any]:
    """
    Gives the arguments with which models are loaded.

    Args:
        args ([`SCoReConfig`]):
            The configuration.

    Returns:
        `dict`: a copy of `args.model_init_kwargs`.
    """
    return dict(args.model_init_kwargs) if isinstance(args.model_init_kwargs, dict) else {}


def wrap_reward_functions(reward_funcs: Any, context: TurnContext) -> list[Any]:
    """
    Teaches callables to score one turn at a time; reward models, and names of such, stay as they are.

    Args:
        reward_funcs (`RewardFunc` or `list[RewardFunc]`):
            As given to the trainer.
        context ([`TurnContext`]):
            Which turn is being scored.

    Returns:
        `list`: what TRL's trainer is given.

    Raises:
        `ValueError`: If there is none.
        `TypeError`: If one is neither callable, nor a model, nor a model's name.
    """
    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    if reward_funcs is None or not functions:
        raise ValueError("`reward_funcs` must hold at least one reward function or reward model, got none.")
    wrapped: list[Any] = []
    for func in functions:
        if isinstance(func, (str, nn.Module)):
            wrapped.append(func)
        elif not callable(func):
            raise TypeError(
                f"A reward function must be callable, a reward model or a model's name, got {func!r} of type "
                f"{type(func).__name__}."
            )
        else:
            wrapper = AsyncTurnReward if trl_compat.is_async_callable(func) else TurnReward
            wrapped.append(wrapper(func, trl_compat.get_callable_name(func), context))
    return wrapped


def copied_reference(
    model: "str | PreTrainedModel | PeftModel", args: SCoReConfig, peft_config: "PeftConfig | None"
) -> nn.Module | None:
    """
    The reference, where TRL would not make the right one: a named one, and a copy of a model that is in memory.

    TRL loads the reference of an in-memory model from the path that the model once came from, which is another model if
    it was trained since. With PEFT the reference is the model with another adapter or none, see `adapters`.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy as given to the trainer.
        args ([`SCoReConfig`]):
            The configuration.
        peft_config ([`~peft.PeftConfig`], *optional*):
            The adapter to train.

    Returns:
        `torch.nn.Module`, *optional*: the reference, or `None` where TRL makes it or none is needed.

    Raises:
        `ValueError`: If `"base"` stands without PEFT, or the model cannot be copied.
    """
    path = args.ref_model_name_or_path
    if peft_config is not None or (not isinstance(model, str) and is_peft_model(model)):
        return None
    if path == "base":
        raise ValueError("`ref_model_name_or_path='base'` is for PEFT. Pass the base model's name or path instead.")
    if not args.needs_reference:
        return None
    if path is not None:
        kwargs = {"trust_remote_code": args.trust_remote_code, **model_init_kwargs(args)}
        kwargs.pop("revision", None)  # the policy's
        if not isinstance(model, str):
            kwargs.setdefault("dtype", model.dtype)
            kwargs.setdefault("attn_implementation", model.config._attn_implementation)
        if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
            kwargs["device_map"] = None  # as TRL: each process holds its own copy
        return trl_compat.create_model_from_path(path, **kwargs).requires_grad_(False)
    is_partitioned = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    if isinstance(model, str):
        return None
    if is_partitioned:
        raise ValueError(
            "Under ZeRO-3 a model in memory cannot be copied for the reference. Pass the model's name or path, or name "
            "the reference in `ref_model_name_or_path`."
        )
    return deepcopy(model).requires_grad_(False)


@contextmanager
def trl_beta(args: SCoReConfig, beta: float) -> Iterator[None]:
    """
    Shows TRL another `beta` while its trainer is built: where it is not 0, TRL makes a reference.

    Args:
        args ([`SCoReConfig`]):
            The configuration, put back as it was afterwards.
        beta (`float`):
            What TRL shall see.
    """
    own_beta = args.beta
    args.beta = beta
    try:
        yield
    finally:
        args.beta = own_beta
