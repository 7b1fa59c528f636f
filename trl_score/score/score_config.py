"""SCoReConfig: TRL's GRPOConfig plus what SCoRe needs, the paper's defaults beside each field."""

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import GRPOConfig

from trl_score.score.importance import IMPORTANCE_MODES
from trl_score.score.prompts import DEFAULT_CORRECTION_PROMPT, as_correction_messages
from trl_score.score.scoring_watch import LAST_RESORT

_STAGES = ("1", "2", "both")
_BASELINES = ("leave_one_out", "group_mean", "none")
_KL_ESTIMATORS = ("k1", "k2", "k3")
_LOSS_TYPES = ("rloo", "dapo", "dr_grpo")

# Options of GRPOConfig that SCoRe cannot honour: field, the value that leaves it off, the reason.
_REFUSED: tuple[tuple[str, Any, str], ...] = (
    (
        "scale_rewards",
        "none",
        "dividing advantages by a standard deviation cancels alpha, which scales turn 2's return",
    ),
    (
        "multi_objective_aggregation",
        "sum_then_normalize",
        "per-reward normalisation divides by standard deviations and so cancels alpha",
    ),
    ("sync_ref_model", False, "SCoRe's reference is one frozen model through both stages"),
    (
        "use_bias_correction_kl",
        False,
        "k1 needs no correction, k2's on-policy gradient is right, and k3 is there to compare as it is",
    ),
    ("delta", None, "two-sided clipping is not defined for per-turn advantages here"),
    ("top_entropy_quantile", 1.0, "leaving low-entropy tokens out would break each turn's token sum"),
    ("entropy_coef", 0.0, "SCoRe's objective has no entropy bonus"),
    ("use_adaptive_entropy", False, "SCoRe's objective has no entropy bonus"),
    ("enable_jit_checkpoint", False, "SIGTERM saves at the end of the step without it, on all processes alike"),
    ("off_policy_mask_threshold", None, "it masks whole sequences by one KL for both turns together"),
)

# Fields of `generation_kwargs` that each turn sets, or that would break what is made of a turn.
_KWARGS_SET_HERE = ("max_new_tokens", "do_sample", "eos_token_id", "pad_token_id", "num_return_sequences")
_KWARGS_REFUSED_WITH_VLLM = {
    "max_tokens": "each turn has its own budget, from `max_completion_length_t1` and `_t2`",
    "n": "each rollout is asked for by itself",
    "stop": "a turn ends with a token, and a text that stops it would leave it without one",
    "stop_token_ids": "the end of a turn is read off the tokenizer and the chat template",
    "ignore_eos": "a turn that goes on after its end cannot be continued",
    "logprobs": "the importance weights are made of the sampled tokens' own",
    "prompt_logprobs": "nothing reads them, and vLLM would not use its prefix cache",
    "truncate_prompt_tokens": "turn 2 must see all of turn 1",
    "seed": "all rollouts of a prompt would be the same",
    "temperature": "the trainer's log-probabilities would be at another one; set `temperature` itself",
}
_VLLM_MODES = ("colocate", "server")


@dataclass
class SCoReConfig(GRPOConfig):
    r"""
    Configuration class for the [`SCoReTrainer`].

    This class includes only the parameters that are specific to SCoRe (arXiv 2409.12917), and the inherited ones with
    another default. For all others, refer to the [`~trl.GRPOConfig`] documentation. `max_completion_length` is the
    budget of *each* turn here.

    Parameters:
        > Parameters that control the stages

        stage (`str`, *optional*, defaults to `"both"`):
            `"1"` trains turn 2 while a strict KL penalty holds turn 1 (equation 3), `"2"` trains both turns with the
            shaped reward (equation 4), `"both"` does one after the other in one run.
        stage_1_steps (`float`, *optional*, defaults to `0.5`):
            With `stage="both"`: optimizer steps of Stage I, or, below 1, their share of all steps. The paper does not
            publish its split.

        > Parameters that control the reward of a turn

        alpha (`float`, *optional*, defaults to `10.0`):
            Weight of the bonus alpha (r2 - r1) on turn 2 in Stage II. Paper: 10.
        turn_discount (`float`, *optional*, defaults to `0.0`):
            Share of turn 2's return that turn 1 is paid too. Paper: 0; it reports that 0.8 collapses.
        baseline (`str`, *optional*, defaults to `"leave_one_out"`):
            What is subtracted from a return, per prompt and per turn: `"leave_one_out"` (RLOO, as the paper),
            `"group_mean"` or `"none"`.

        > Parameters that control the KL penalty

        beta_1 (`float`, *optional*, defaults to `0.01`):
            Default KL coefficient: turn 2 in Stage I, both turns in Stage II. Paper: 0.01.
        beta_2 (`float`, *optional*, defaults to `0.1`):
            Strict KL coefficient of turn 1 in Stage I. Paper: 0.1 for MATH, 0.25 for code.
        beta_2_target_kl (`float`, *optional*):
            If set, beta_2 adapts during Stage I so that turn 1's KL stays near this many nats per sequence: it grows
            or shrinks by at most 20% a rollout batch, and never falls below `beta_2`. The paper suggests an adaptive
            beta_2 without giving a rule; this one is the controller of Ziegler et al. (arXiv 1909.08593).
        kl_estimator (`str`, *optional*, defaults to `"k1"`):
            `"k1"`: in the reward, per sequence, as the paper's base algorithm. `"k2"`: in the loss, per token, which
            saves the policy's extra forward and has less variance. `"k3"`: in the loss, for comparison only: its
            gradient is the forward KL's.
        ref_model_name_or_path (`str`, *optional*):
            Where the frozen reference is loaded from. By default the model that training starts from; name the base
            model when Stage II starts from a Stage-I checkpoint. With PEFT: by default the adapter that training starts
            from, as it stood then (a new one is no adapter yet); `"base"` for the model without its adapter; or where
            another adapter of the same base lies.

        > Parameters that control the two turns

        correction_prompt (`str` or `list[dict]`, *optional*):
            What the model is asked between its turns: a user message's text, or messages.
        max_completion_length_t1 (`int`, *optional*):
            Most tokens of turn 1. Defaults to `max_completion_length`.
        max_completion_length_t2 (`int`, *optional*):
            Most tokens of turn 2. Defaults to `max_completion_length`.
        offline_turn_1_column (`str`, *optional*):
            Dataset column with first turns made beforehand (a text, or a list of texts to draw from), used as prompts
            of turn 2: the paper's offline prompts. Their tokens are not learned from.
        offline_turn_1_share (`float`, *optional*, defaults to `0.5`):
            Share of the prompts whose rollouts use that column. The paper does not give its own.

        score_turn_1_ahead (`bool`, *optional*, defaults to `True`):
            Whether reward functions score turn 1 in a background thread while turn 2 is generated. Reward models never
            do. Turn it off for a function that uses the accelerator or communicates between processes.

        skip_without_signal (`bool`, *optional*, defaults to `False`):
            Whether to leave prompts out of the update of whose rollouts all are paid alike: in Stage I the same reward
            in turn 2, in Stage II in both turns. Nothing is learned from those rewards, and the forward and backward
            over them are saved. What the KL penalty would do there is lost, and the logs of KL and entropy are of the
            other rollouts.

        > Parameters that control what happens when something goes wrong

        max_skipped_steps (`int`, *optional*, defaults to `3`):
            A step whose loss or gradient is NaN or infinite is skipped; after this many in a row the run ends, and its
            last batch is written into the output folder.
        reward_timeout (`float`, *optional*):
            Seconds that the reward functions together may take to score one turn of a rollout batch. After that the run
            ends with an error that names the function and the row. Defaults to half of `ddp_timeout`, after which
            processes that wait for another give up.

        log_memory (`bool`, *optional*, defaults to `False`):
            Whether to log the most memory that each phase of a step holds.

        > Parameters that control evaluation

        eval_do_sample (`bool`, *optional*, defaults to `False`):
            Whether evaluation samples at the training temperature. The paper decodes greedily.

        > Inherited parameters with another default

        learning_rate (`float`, *optional*, defaults to `5e-6`):
            Paper: 5e-6 for MATH, 1e-5 for code.
        warmup_steps (`float`, *optional*, defaults to `0.03`):
            Steps, or below 1 the share of steps, in which the learning rate rises. Not given in the paper.
        loss_type (`str`, *optional*, defaults to `"rloo"`):
            `"rloo"`: token sum per rollout, as the paper's expectation over rollouts. `"dapo"`: token mean.
            `"dr_grpo"`: divided by the constant length budget.
        scale_rewards (`str`, *optional*, defaults to `"none"`):
            Only `"none"`: a standard deviation would cancel alpha.
        use_bias_correction_kl (`bool`, *optional*, defaults to `False`):
            Only `False`: k1 needs no correction, k2's on-policy gradient is the reverse KL's already.
        beta (`float`, *optional*, defaults to `0.0`):
            Only 0: one coefficient for both turns together, in whose place SCoRe has `beta_1` and `beta_2`.
    """

    learning_rate: float = field(
        default=5e-6, metadata={"help": "The initial learning rate for AdamW. Paper: 5e-6 for MATH, 1e-5 for code."}
    )
    warmup_steps: float = field(
        default=0.03, metadata={"help": "Warm-up steps, or below 1 their share of all steps. Not given in the paper."}
    )
    loss_type: str = field(
        default="rloo",
        metadata={
            "help": "How token losses are added up: 'rloo' (token sum per rollout, as in the paper), 'dapo' (token "
            "mean), 'dr_grpo' (divided by the constant length budget)."
        },
    )
    scale_rewards: str = field(
        default="none", metadata={"help": "Only 'none': dividing by a standard deviation would cancel alpha."}
    )
    use_bias_correction_kl: bool = field(
        default=False, metadata={"help": "Only False: k1 needs no correction, and k2's on-policy gradient is right."}
    )

    # Parameters that control the stages
    stage: str = field(
        default="both",
        metadata={
            "help": "'1' trains turn 2 while a strict KL penalty holds turn 1 (equation 3), '2' trains both turns with "
            "the shaped reward (equation 4), 'both' does one after the other.",
            "choices": list(_STAGES),
        },
    )
    stage_1_steps: float = field(
        default=0.5,
        metadata={
            "help": "With stage='both': optimizer steps of Stage I, or, below 1, their share of all steps. The paper "
            "does not publish its split."
        },
    )

    # Parameters that control the reward of a turn
    alpha: float = field(
        default=10.0, metadata={"help": "Weight of the bonus alpha (r2 - r1) on turn 2 in Stage II. Paper: 10."}
    )
    turn_discount: float = field(
        default=0.0,
        metadata={"help": "Share of turn 2's return that turn 1 is paid too. Paper: 0; it reports that 0.8 collapses."},
    )
    baseline: str = field(
        default="leave_one_out",
        metadata={
            "help": "What is subtracted from a return, per prompt and per turn: 'leave_one_out' (RLOO, as the paper), "
            "'group_mean' or 'none'.",
            "choices": list(_BASELINES),
        },
    )

    # Parameters that control the KL penalty
    beta_1: float = field(
        default=0.01,
        metadata={
            "help": "Default KL coefficient: turn 2 in Stage I, both turns in Stage II. Paper: 0.01. With beta_2 0 as "
            "well, no reference is kept."
        },
    )
    beta_2: float = field(
        default=0.1,
        metadata={"help": "Strict KL coefficient of turn 1 in Stage I. Paper: 0.1 for MATH, 0.25 for code."},
    )
    beta_2_target_kl: float | None = field(
        default=None,
        metadata={
            "help": "If set, beta_2 adapts during Stage I so that turn 1's KL stays near this many nats per sequence, "
            "never below `beta_2`. The paper suggests an adaptive beta_2 without giving a rule."
        },
    )
    kl_estimator: str = field(
        default="k1",
        metadata={
            "help": "'k1': in the reward, per sequence, as the paper's base algorithm. 'k2': in the loss, per token; "
            "no extra forward. 'k3': in the loss, for comparison only: its gradient is the forward KL's.",
            "choices": list(_KL_ESTIMATORS),
        },
    )
    ref_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Where the frozen reference is loaded from. By default the model that training starts from; name "
            "the base model when Stage II starts from a Stage-I checkpoint. With PEFT: 'base' for the model without "
            "its adapter, or an adapter of the same base."
        },
    )

    # Parameters that control the two turns
    # A list of messages too, but transformers' argument parser knows no such union.
    correction_prompt: str = field(
        default=DEFAULT_CORRECTION_PROMPT,
        metadata={
            "help": "What the model is asked between its turns: a user message's text, or messages (a list in YAML, "
            "JSON on the command line)."
        },
    )
    max_completion_length_t1: int | None = field(
        default=None, metadata={"help": "Most tokens of turn 1. Defaults to `max_completion_length`."}
    )
    max_completion_length_t2: int | None = field(
        default=None, metadata={"help": "Most tokens of turn 2. Defaults to `max_completion_length`."}
    )
    offline_turn_1_column: str | None = field(
        default=None,
        metadata={
            "help": "Dataset column with first turns made beforehand (a text, or a list of texts), used as prompts of "
            "turn 2: the paper's offline prompts. Their tokens are not learned from."
        },
    )
    offline_turn_1_share: float = field(
        default=0.5,
        metadata={"help": "Share of the prompts whose rollouts use `offline_turn_1_column`. Not given in the paper."},
    )

    score_turn_1_ahead: bool = field(
        default=True,
        metadata={
            "help": "Whether reward functions score turn 1 in a background thread while turn 2 is generated. Turn it "
            "off for a function that uses the accelerator or communicates between processes."
        },
    )

    skip_without_signal: bool = field(
        default=False,
        metadata={
            "help": "Whether to leave prompts out of the update of whose rollouts all are paid alike: in Stage I the "
            "same reward in turn 2, in Stage II in both turns. What the KL penalty would do there is lost, and the "
            "logs of KL and entropy are of the other rollouts."
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

    reward_timeout: float | None = field(
        default=None,
        metadata={
            "help": "Seconds that the reward functions together may take to score one turn of a rollout batch; then "
            "the run ends with an error that names the function and the row. Defaults to half of `ddp_timeout`."
        },
    )

    log_memory: bool = field(
        default=False, metadata={"help": "Whether to log the most memory that each phase of a step holds."}
    )

    # Parameters that control evaluation
    eval_do_sample: bool = field(
        default=False,
        metadata={"help": "Whether evaluation samples at the training temperature. The paper decodes greedily."},
    )

    def __post_init__(self) -> None:
        if self.bf16 is None and not _has_accelerator(self.use_cpu):
            self.bf16 = False  # TRL turns bf16 on by default; on a CPU it is slower than fp32 and less exact
        if self.num_generations_eval is None and not self.eval_do_sample:
            self.num_generations_eval = 1  # greedy copies of a prompt are all alike
        self._check_choices()
        self._check_numbers()
        self._check_group()
        self.correction_prompt = _messages_from_json(self.correction_prompt)
        as_correction_messages(self.correction_prompt)
        if self.beta != 0.0:
            raise ValueError(
                f"`beta` is one coefficient for a whole completion, got {self.beta}; SCoRe has one for each turn and "
                "stage. Set `beta_1` (default) and `beta_2` (turn 1 in Stage I) instead."
            )
        super().__post_init__()  # type: ignore[no-untyped-call]
        self._check_refused()
        if self.use_vllm:
            self._check_vllm()

    @property
    def needs_reference(self) -> bool:
        """`bool`: Whether a reference model takes part."""
        return self.beta_1 > 0.0 or (self.beta_2 > 0.0 and self.stage != "2")

    @property
    def turn_budgets(self) -> tuple[int, int]:
        """`tuple[int, int]`: The most tokens of turn 1 and of turn 2."""
        default = self.max_completion_length or 0
        return self.max_completion_length_t1 or default, self.max_completion_length_t2 or default

    @property
    def seconds_to_score(self) -> float:
        """`float`: The time in which a turn of a rollout batch must be scored."""
        return self.ddp_timeout / 2 if self.reward_timeout is None else self.reward_timeout

    def num_stage_1_steps(self, max_steps: int) -> int:
        """
        Says after how many optimizer steps Stage II begins.

        Args:
            max_steps (`int`):
                Optimizer steps of the whole run.

        Returns:
            `int`: `max_steps` if the run is Stage I only, 0 if it is Stage II only.
        """
        if self.stage == "1":
            return max_steps
        if self.stage == "2":
            return 0
        return round(self.stage_1_steps * max_steps) if self.stage_1_steps < 1 else int(self.stage_1_steps)

    def _check_choices(self) -> None:
        self.stage = str(self.stage)  # YAML reads a bare 1 as a number
        for name, choices in (
            ("stage", _STAGES),
            ("baseline", _BASELINES),
            ("kl_estimator", _KL_ESTIMATORS),
            ("loss_type", _LOSS_TYPES),
            ("importance_sampling_level", ("token", "sequence")),
        ):
            value = self.__dict__[name]
            if value not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")

    def _check_numbers(self) -> None:
        for name in ("alpha", "beta_1", "beta_2", "stage_1_steps"):
            if self.__dict__[name] < 0:
                raise ValueError(f"`{name}` must not be negative, got {self.__dict__[name]}.")
        for name in ("turn_discount", "offline_turn_1_share"):
            if not 0 <= self.__dict__[name] <= 1:
                raise ValueError(f"`{name}` must lie between 0 and 1, got {self.__dict__[name]}.")
        for name in ("max_completion_length", "max_completion_length_t1", "max_completion_length_t2"):
            value = self.__dict__[name]
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1 token, got {value}.")
        if self.max_skipped_steps < 1:
            raise ValueError(f"`max_skipped_steps` must be at least 1 step, got {self.max_skipped_steps}.")
        if not 0 < LAST_RESORT * self.seconds_to_score < self.ddp_timeout:
            raise ValueError(
                f"`reward_timeout` must be positive and leave time before `ddp_timeout` ({self.ddp_timeout} s), at "
                f"most {self.ddp_timeout / LAST_RESORT:g} s, got {self.reward_timeout}. Raise `ddp_timeout` too."
            )
        if min(self.turn_budgets) < 1:
            raise ValueError(
                "Each turn needs a length budget, got `max_completion_length=None` without `max_completion_length_t1` "
                "and `max_completion_length_t2`. Set one of the two ways."
            )
        if self.beta_2_target_kl is not None and (self.beta_2_target_kl <= 0 or self.beta_2 == 0):
            raise ValueError(
                f"`beta_2_target_kl` must be positive and needs a `beta_2` above 0 to start from, got "
                f"beta_2_target_kl={self.beta_2_target_kl} and beta_2={self.beta_2}."
            )

    def _check_group(self) -> None:
        if self.baseline != "none" and (self.num_generations or 0) < 2:
            raise ValueError(
                f"The {self.baseline!r} baseline compares the rollouts of one prompt, so `num_generations` must be at "
                f"least 2, got {self.num_generations}. Raise it."
            )
        if self.skip_without_signal and self.baseline == "none":
            raise ValueError(
                "`skip_without_signal=True` leaves out rollouts that are paid as their baseline says, and "
                "`baseline='none'` has none. Choose another baseline, or turn it off."
            )

    def _check_refused(self) -> None:
        for name, off, reason in _REFUSED:
            if self.__dict__[name] != off:
                raise ValueError(
                    f"`{name}={self.__dict__[name]!r}` is not supported by SCoRe: {reason}. Leave it at {off!r}."
                )
        for name in _KWARGS_SET_HERE:
            if isinstance(self.generation_kwargs, dict) and name in self.generation_kwargs:
                raise ValueError(
                    f"`generation_kwargs` must not set {name!r}, got {self.generation_kwargs[name]!r}: SCoRe sets it "
                    "for each turn, from `max_completion_length_t1` and `_t2`, `eval_do_sample` and the tokenizer."
                )

    def _check_vllm(self) -> None:
        for name, choices in (("vllm_mode", _VLLM_MODES), ("vllm_importance_sampling_mode", IMPORTANCE_MODES)):
            value = self.__dict__[name]
            if value not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")
        if self.use_transformers_continuous_batching:
            raise ValueError(
                "One engine generates, got both `use_vllm=True` and `use_transformers_continuous_batching=True`. Set "
                "one of them."
            )
        in_process = (("vllm_tensor_parallel_size", 1), ("vllm_enable_sleep_mode", False))
        for name, off in in_process if self.vllm_mode == "server" else ():
            if self.__dict__[name] != off:
                raise ValueError(
                    f"`{name}={self.__dict__[name]!r}` is of a vLLM in the trainer's process, and `vllm_mode='server'` "
                    f"asks a server. Start the server with it, and leave it at {off!r} here."
                )
        kwargs = self.generation_kwargs if isinstance(self.generation_kwargs, dict) else {}
        for name, reason in _KWARGS_REFUSED_WITH_VLLM.items():
            if name in kwargs:
                raise ValueError(
                    f"`generation_kwargs` must not set {name!r} with vLLM, got {kwargs[name]!r}: {reason}. Leave it "
                    "out."
                )


def _messages_from_json(correction_prompt: Any) -> Any:
    """The command line knows no list of messages, so there it comes as JSON."""
    if not isinstance(correction_prompt, str) or not correction_prompt.lstrip().startswith("[{"):
        return correction_prompt
    try:
        return json.loads(correction_prompt)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"`correction_prompt` begins like a JSON list of messages but is none, {error}: {correction_prompt!r}. "
            "Mend the JSON, or let the text begin in another way."
        ) from error


def _has_accelerator(use_cpu: bool) -> bool:
    return not use_cpu and torch.accelerator.is_available()
