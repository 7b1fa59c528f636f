"""
TRL's other configurations with a SCoRe run's values: the same optimizer, learning rate, batch, precision and seed.
"""

from dataclasses import fields
from typing import Any, TypeVar

from trl import RLOOConfig, SFTConfig

from trl_score.baselines.budget import Budget
from trl_score.score.score_config import SCoReConfig

ConfigT = TypeVar("ConfigT", SFTConfig, RLOOConfig)

# What belongs to one trainer although the other has a field of that name, or is worked out from other fields.
_OWN_OF_EACH = ("generation_batch_size", "loss_type", "remove_unused_columns")

_NO_EVALUATION: dict[str, Any] = {"eval_strategy": "no", "do_eval": False, "load_best_model_at_end": False}
"""Both turns are measured after training; a loss on held-out traces, or on turn 1, would say nothing of them."""


def single_turn_config(args: SCoReConfig) -> RLOOConfig:
    """
    The configuration of reinforcement learning of turn 1 alone, at equal answers and updates.

    A rollout of one turn is one answer, of two turns two: so there are twice as many rollouts of each prompt, in
    batches of twice as many (which have about as many tokens). The objective is equation 2: reward minus beta_1 KL, the
    KL as k1 per sequence in the reward, a leave-one-out baseline, no division by a standard deviation.

    Args:
        args ([`SCoReConfig`]):
            The SCoRe run's.

    Returns:
        [`~trl.RLOOConfig`]: with its values.
    """
    return _trl_config(
        RLOOConfig,
        args,
        num_generations=2 * (args.num_generations or 0),
        per_device_train_batch_size=2 * args.per_device_train_batch_size,
        max_completion_length=args.turn_budgets[0],
        beta=args.beta_1,
        normalize_advantages=False,
        reward_clip_range=None,
        **_NO_EVALUATION,
    )


def fine_tuning_config(args: SCoReConfig, output_dir: str, budget: Budget) -> SFTConfig:
    """
    The configuration of fine-tuning on traces, for as many updates, each of as many rows as SCoRe's has rollouts.

    Args:
        args ([`SCoReConfig`]):
            The SCoRe run's.
        output_dir (`str`):
            Where the log and the model go.
        budget ([`Budget`]):
            How many updates there are.

    Returns:
        [`~trl.SFTConfig`]: with the run's values.
    """
    return _trl_config(
        SFTConfig,
        args,
        output_dir=output_dir,
        max_steps=budget.updates,
        max_length=None,  # a rollout fits into the context; a cut one would lose the turn that is learned from
        packing=False,
        completion_only_loss=True,
        resume_from_checkpoint=None,
        **_NO_EVALUATION,
    )


def _trl_config(config_class: type[ConfigT], args: SCoReConfig, **changes: Any) -> ConfigT:
    """The fields that both have, with a SCoRe run's values, and changes."""
    ours = args.__dict__
    shared = {
        field.name: ours[field.name]
        for field in fields(config_class)
        if field.init and field.name in ours and field.name not in _OWN_OF_EACH
    }
    return config_class(**{**shared, **changes})
