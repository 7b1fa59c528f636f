"""
Single-turn RL, the paper's "w/o multi-turn": turn 1 is trained alone, with TRL's RLOOTrainer, and both turns measured.

SCoRe's Stage II without a second turn: reward minus beta_1 KL, a leave-one-out baseline per prompt (equation 2).
"""

from typing import TYPE_CHECKING, Any

from trl import RLOOTrainer

from trl_score.baselines.configs import single_turn_config
from trl_score.records import BUDGET_COLUMNS
from trl_score.score.preflight import check_rewards, check_run
from trl_score.score.score_config import SCoReConfig
from trl_score.score.trainer_inputs import load_tokenizer, wrap_reward_functions
from trl_score.score.turn_rewards import TurnContext

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig, PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

# Fields of SCoReConfig that RLOOTrainer cannot follow: field, the value that it has, the reason.
_REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("kl_estimator", "k1", "RLOOTrainer's KL is the k1 estimate in the reward"),
    ("baseline", "leave_one_out", "it is RLOOTrainer's baseline"),
    ("loss_type", "rloo", "RLOOTrainer sums over the tokens of a rollout"),
    ("ref_model_name_or_path", None, "RLOOTrainer's reference is the model that training starts from"),
)


def check_single_turn(args: SCoReConfig, columns: list[str] | None) -> None:
    """
    Refuses what RLOOTrainer cannot do as SCoReTrainer does it, before a model is loaded.

    Args:
        args ([`SCoReConfig`]):
            The SCoRe run's.
        columns (`list[str]`, *optional*):
            The training set's columns, where they are known.

    Raises:
        `ValueError`: If the configuration or the dataset asks for such.
    """
    for name, only, reason in _REFUSED:
        if args.__dict__[name] != only:
            raise ValueError(
                f"Single-turn RL needs `{name}={only!r}`, got {args.__dict__[name]!r}: {reason}. Compare with a SCoRe "
                "run that has it too."
            )
    if BUDGET_COLUMNS[0] in (columns or ()):
        raise ValueError(
            f"Single-turn RL needs one length budget for all rows, got the column {BUDGET_COLUMNS[0]!r}. Drop it."
        )


def single_turn_trainer(
    model: "str | PreTrainedModel | PeftModel",
    reward_funcs: list[Any],
    args: SCoReConfig,
    train_dataset: "Dataset",
    *,
    processing_class: "PreTrainedTokenizerBase | None" = None,
    quantization_config: "BitsAndBytesConfig | None" = None,
    peft_config: "PeftConfig | None" = None,
) -> RLOOTrainer:
    """
    Makes the trainer of turn 1 that goes with a SCoRe run.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy, as for SCoReTrainer.
        reward_funcs (`list[RewardFunc]`):
            The rewards, likewise; each sees turn 1.
        args ([`SCoReConfig`]):
            The SCoRe run's configuration.
        train_dataset ([`~datasets.Dataset`]):
            The training set.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer; by default loaded from where the model comes from.
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            Quantization of the model that is loaded.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train.

    Returns:
        [`~trl.RLOOTrainer`]: the trainer.

    Raises:
        `ValueError`: As SCoReTrainer for data and rewards, and for what `check_single_turn` refuses.
    """
    check_single_turn(args, train_dataset.column_names)
    tokenizer = load_tokenizer(model, args) if processing_class is None else processing_class
    correction = check_run(model, args, train_dataset, None, tokenizer).own.correction
    check_rewards(reward_funcs, train_dataset)
    trainer = RLOOTrainer(
        model=model,
        reward_funcs=wrap_reward_functions(reward_funcs, TurnContext(turn=1)),
        args=single_turn_config(args),
        train_dataset=train_dataset,
        processing_class=tokenizer,
        quantization_config=quantization_config,
        peft_config=peft_config,
    )
    # As in SCoReTrainer: the end-of-turn token of the template ends a turn, whatever the model's own settings say.
    closing = [token for token in correction.closing_ids[-1:] if token not in trainer.eos_token_ids]
    trainer.eos_token_ids = [*trainer.eos_token_ids, *closing]
    trainer.generation_config.eos_token_id = trainer.generation_kwargs["eos_token_id"] = trainer.eos_token_ids
    return trainer
