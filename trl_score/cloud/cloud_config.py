"""CLoudRewardConfig: TRL's RewardConfig plus what CLoud needs, the paper's defaults beside each field."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import SchedulerType
from trl import RewardConfig

from trl_score.cloud.prompts import CRITIQUE_PROMPT

_STAGES = ("sft", "joint", "both", "classic")
_NORMALIZATIONS = ("token_mean", "sequence_mean", "sum")
_SCHEDULES = ("constant", "linear", "cosine")
_CRITIQUES_PER_RESPONSE = ("one", "mean")
_OVERLONG = ("shorten", "drop")
_SFT_LEARNING_RATE_RATIO = 5  # paper, 8 B: 5e-6 for critique SFT, 1e-6 for the joint stage

# Options of RewardConfig that CLoud cannot honour: field, the value that leaves it off, the reason.
_REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("use_liger_kernel", False, "its fused loss knows only whole language models, and the critique loss is fused here"),
    ("label_smoothing_factor", 0.0, "the losses are computed here, without smoothing"),
    (
        "chat_template_path",
        None,
        "the template is read before a model is loaded; set `tokenizer.chat_template` instead",
    ),
)


@dataclass
class CLoudRewardConfig(RewardConfig):
    r"""
    Configuration class for the [`CLoudRewardTrainer`].

    This class includes only the parameters that are specific to CLoud (arXiv 2408.11791), and the inherited ones with
    another default. For all others, refer to the [`~trl.RewardConfig`] documentation.

    Parameters:
        > Parameters that control the stages

        stage (`str`, *optional*, defaults to `"joint"`):
            `"sft"` trains on the critiques alone (oracle critiques in the paper), `"joint"` on rewards and critiques
            (self-generated ones in the paper), `"both"` does one after the other with the generation between them (see
            [`train_stages`]), `"classic"` trains the paper's baseline, a reward model without critiques.
        sft_options (`dict`, *optional*):
            With `stage="both"`: options in which critique SFT differs from the joint stage. Where it gives no learning
            rate, that is five times the joint stage's, as in the paper's 8 B run (the 70 B run had the same in both).
        restart_from_base (`bool`, *optional*, defaults to `False`):
            With `stage="both"`: whether the joint stage starts from the model that SFT started from. The paper goes on
            from the SFT model.

        > Parameters that control the loss

        critique_weight (`float`, *optional*, defaults to `1.25`):
            Lambda, the weight of the critique loss beside the Bradley-Terry loss. Paper: 1.25 for 8 B, 0.75 for 70 B.
        final_critique_weight (`float`, *optional*):
            The weight at the last step, with a `critique_weight_schedule` other than `"constant"`.
        critique_weight_schedule (`str`, *optional*, defaults to `"constant"`):
            How the weight goes from `critique_weight` to `final_critique_weight`: `"constant"` (paper), `"linear"` or
            `"cosine"`.
        critique_normalization (`str`, *optional*, defaults to `"token_mean"`):
            `"token_mean"` divides the critique loss by the micro-batch's supervised tokens (the official code, to which
            the weights above belong), `"sequence_mean"` takes the mean over critiques of each one's token mean, `"sum"`
            the sum over a pair's tokens (the paper's formula).

        > Parameters that control the critiques

        critique_prompt (`str`, *optional*):
            What asks for a critique. By default our own wording.
        learn_critique_prompt (`bool`, *optional*, defaults to `False`):
            Whether the request for a critique, which never changes, is learned from too, as in the official code.
        critiques_per_response (`str`, *optional*, defaults to `"one"`):
            Where a response has K critiques: `"one"` takes another one each epoch, `"mean"` reads a reward after each
            and puts their mean into the loss.
        overlong (`str`, *optional*, defaults to `"shorten"`):
            What becomes of a row above `max_length`: `"shorten"` cuts its critique and keeps the closing token,
            `"drop"` leaves the row out.

        > Parameters that control what happens when something goes wrong

        max_skipped_steps (`int`, *optional*, defaults to `3`):
            A step whose loss or gradient is NaN or infinite is skipped; after this many in a row the run ends, and its
            last batch is written into the output folder.

        > Parameters that control the model's own critiques

        num_self_critiques (`int`, *optional*, defaults to `1`):
            With `stage="both"`: critiques that the SFT model writes for each response. Paper: 1.
        critique_temperature (`float`, *optional*, defaults to `0.0`):
            Their temperature; 0 is greedy. Paper: 0.
        max_critique_length (`int`, *optional*, defaults to `1024`):
            Most tokens of each. Paper: 1024.
        critique_batch_size (`int`, *optional*, defaults to `8`):
            How many are written together on each process.

        > Inherited parameters with another default

        learning_rate (`float`, *optional*, defaults to `1e-6`):
            Paper: 1e-6 for the joint stage, 5e-6 for critique SFT of 8 B and for classic models.
        num_train_epochs (`float`, *optional*, defaults to `1.0`):
            Paper: 1; 2 for the classic 8 B model.
        max_length (`int`, *optional*, defaults to `2048`):
            Most tokens of a row, critique included. Official code: 2048.
        warmup_steps (`float`, *optional*, defaults to `0.05`):
            Steps, or below 1 the share of steps, in which the learning rate rises. Paper: 5%; official code: 10%.
        lr_scheduler_type (`str`, *optional*, defaults to `"cosine_with_min_lr"`):
            Official code: cosine.
        lr_scheduler_kwargs (`dict`, *optional*):
            Official code: down to 1% of the learning rate, which is what is taken where none is given.
        adam_beta2 (`float`, *optional*, defaults to `0.95`):
            Official code: 0.95.
    """

    _VALID_DICT_FIELDS = [*RewardConfig._VALID_DICT_FIELDS, "sft_options"]

    learning_rate: float = field(
        default=1e-6,
        metadata={
            "help": "The initial learning rate for AdamW. Paper: 1e-6 for the joint stage, 5e-6 for critique SFT of 8 "
            "B and for classic models."
        },
    )
    num_train_epochs: float = field(
        default=1.0, metadata={"help": "Number of epochs. Paper: 1; 2 for the classic 8 B model."}
    )
    max_length: int | None = field(
        default=2048, metadata={"help": "Most tokens of a row, critique included. Official code: 2048."}
    )
    warmup_steps: float = field(
        default=0.05,
        metadata={"help": "Warm-up steps, or below 1 their share of all steps. Paper: 5%%; official code: 10%%."},
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="cosine_with_min_lr", metadata={"help": "The learning rate's schedule. Official code: cosine."}
    )
    lr_scheduler_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Parameters of the schedule. For the default one, down to 1%% of the learning rate (official code)."
        },
    )
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW. Official code: 0.95."})

    # Parameters that control the stages
    stage: str = field(
        default="joint",
        metadata={
            "help": "'sft' trains on the critiques alone, 'joint' on rewards and critiques, 'both' does one after the "
            "other with the generation between them, 'classic' trains a reward model without critiques.",
            "choices": list(_STAGES),
        },
    )
    sft_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "With stage='both': options in which critique SFT differs from the joint stage (JSON on the "
            "command line). Where it gives no learning rate, that is five times the joint stage's, as in the paper's "
            "8 B run (the 70 B run had the same in both)."
        },
    )
    restart_from_base: bool = field(
        default=False,
        metadata={
            "help": "With stage='both': whether the joint stage starts from the model that SFT started from. The paper "
            "goes on from the SFT model."
        },
    )

    # Parameters that control the loss
    critique_weight: float = field(
        default=1.25,
        metadata={
            "help": "Lambda, the weight of the critique loss beside the Bradley-Terry loss. Paper: 1.25 for 8 B, 0.75 "
            "for 70 B."
        },
    )
    final_critique_weight: float | None = field(
        default=None,
        metadata={"help": "The weight at the last step, with a schedule other than 'constant'."},
    )
    critique_weight_schedule: str = field(
        default="constant",
        metadata={
            "help": "How the weight goes from `critique_weight` to `final_critique_weight`: 'constant' (paper), "
            "'linear' or 'cosine'.",
            "choices": list(_SCHEDULES),
        },
    )
    critique_normalization: str = field(
        default="token_mean",
        metadata={
            "help": "'token_mean' divides the critique loss by the micro-batch's supervised tokens (official code), "
            "'sequence_mean' takes the mean over critiques of each one's token mean, 'sum' the sum over a pair's "
            "tokens (the paper's formula).",
            "choices": list(_NORMALIZATIONS),
        },
    )

    # Parameters that control the critiques
    critique_prompt: str | None = field(
        default=CRITIQUE_PROMPT, metadata={"help": "What asks for a critique. By default our own wording."}
    )
    learn_critique_prompt: bool = field(
        default=False,
        metadata={
            "help": "Whether the request for a critique, which never changes, is learned from too, as in the official "
            "code."
        },
    )
    critiques_per_response: str = field(
        default="one",
        metadata={
            "help": "Where a response has K critiques: 'one' takes another one each epoch, 'mean' reads a reward after "
            "each and puts their mean into the loss.",
            "choices": list(_CRITIQUES_PER_RESPONSE),
        },
    )
    overlong: str = field(
        default="shorten",
        metadata={
            "help": "What becomes of a row above `max_length`: 'shorten' cuts its critique and keeps the closing "
            "token, 'drop' leaves the row out.",
            "choices": list(_OVERLONG),
        },
    )

    # Parameters that control what happens when something goes wrong
    max_skipped_steps: int = field(
        default=3,
        metadata={
            "help": "A step whose loss or gradient is NaN or infinite is skipped; after this many in a row the run "
            "ends, and its last batch is written into the output folder."
        },
    )

    # Parameters that control the model's own critiques
    num_self_critiques: int = field(
        default=1,
        metadata={"help": "With stage='both': critiques that the SFT model writes for each response. Paper: 1."},
    )
    critique_temperature: float = field(
        default=0.0, metadata={"help": "Temperature of the model's own critiques; 0 is greedy. Paper: 0."}
    )
    max_critique_length: int = field(
        default=1024, metadata={"help": "Most tokens of each of the model's own critiques. Paper: 1024."}
    )
    critique_batch_size: int = field(
        default=8, metadata={"help": "How many of its own critiques a process writes together."}
    )

    def __post_init__(self) -> None:
        if self.bf16 is None and (self.use_cpu or not torch.accelerator.is_available()):
            self.bf16 = False  # TRL turns bf16 on by default; on a CPU it is slower than fp32 and less exact
        if self.lr_scheduler_kwargs is None and self.lr_scheduler_type == "cosine_with_min_lr":
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.01}
        super().__post_init__()  # type: ignore[no-untyped-call]
        if isinstance(self.sft_options, str):
            self.sft_options = json.loads(self.sft_options)
        self._check_choices()
        self._check_numbers()
        self._check_together()
        if self.is_classic:
            self.critique_prompt = None

    @property
    def is_classic(self) -> bool:
        """`bool`: Whether the model writes no critiques."""
        return self.stage == "classic"

    @property
    def learns_rewards(self) -> bool:
        """`bool`: Whether the Bradley-Terry loss takes part."""
        return self.stage != "sft"

    def sft_stage(self, output_dir: str) -> "CLoudRewardConfig":
        """
        The configuration of the first stage of two.

        Args:
            output_dir (`str`):
                Where that stage writes.

        Returns:
            [`CLoudRewardConfig`]: with `stage="sft"` and `sft_options` applied.
        """
        given = self.sft_options if isinstance(self.sft_options, dict) else {}
        own = {"stage": "sft", "output_dir": output_dir, "sft_options": None, "push_to_hub": False}
        return replace(self, **{"learning_rate": _SFT_LEARNING_RATE_RATIO * self.learning_rate, **given, **own})

    def joint_stage(self, output_dir: str) -> "CLoudRewardConfig":
        """
        The configuration of the second stage of two.

        Args:
            output_dir (`str`):
                Where that stage writes.

        Returns:
            [`CLoudRewardConfig`]: with `stage="joint"`.
        """
        # On the Hub the model is called after the run, not after the stage's folder.
        hub_model_id = self.hub_model_id or Path(cast(str, self.output_dir)).absolute().name
        own: dict[str, Any] = {
            "stage": "joint",
            "output_dir": output_dir,
            "sft_options": None,
            "hub_model_id": hub_model_id,
        }
        return replace(self, **own)

    def _check_choices(self) -> None:
        for name, choices in (
            ("stage", _STAGES),
            ("critique_weight_schedule", _SCHEDULES),
            ("critique_normalization", _NORMALIZATIONS),
            ("critiques_per_response", _CRITIQUES_PER_RESPONSE),
            ("overlong", _OVERLONG),
        ):
            value = self.__dict__[name]
            if value not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")

    def _check_numbers(self) -> None:
        for name in ("critique_weight", "final_critique_weight", "critique_temperature"):
            value = self.__dict__[name]
            if value is not None and value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        for name in ("num_self_critiques", "max_critique_length", "critique_batch_size", "max_length"):
            value = self.__dict__[name]
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.max_skipped_steps < 1:
            raise ValueError(f"`max_skipped_steps` must be at least 1 step, got {self.max_skipped_steps}.")

    def _check_together(self) -> None:
        for name, off, reason in _REFUSED:
            if self.__dict__[name] != off:
                raise ValueError(f"`{name}={self.__dict__[name]!r}` is not supported by CLoud: {reason}.")
        if (self.final_critique_weight is None) != (self.critique_weight_schedule == "constant"):
            raise ValueError(
                "`final_critique_weight` goes with a `critique_weight_schedule` of 'linear' or 'cosine', got "
                f"{self.final_critique_weight} and {self.critique_weight_schedule!r}. Set both or neither."
            )
        if self.critique_prompt is None and not self.is_classic:
            raise ValueError(
                f"Stage {self.stage!r} needs a `critique_prompt`, got None. Leave it out for the default wording, or "
                "set `stage='classic'` for a reward model without critiques."
            )
        if self.num_self_critiques > 1 and self.critique_temperature == 0:
            raise ValueError(
                f"`num_self_critiques={self.num_self_critiques}` greedy critiques would all be alike. Set a "
                "`critique_temperature` above 0, such as 0.5."
            )
        if self.sft_options is not None and self.stage != "both":
            raise ValueError(f"`sft_options` is for `stage='both'`, got it with {self.stage!r}. Leave it out.")
