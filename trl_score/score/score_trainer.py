"""SCoReTrainer: the wiring of the two-turn rollout, the turn-wise rewards, the stages and the logs. No formula here."""

import json
import logging
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import gather, gather_object, is_peft_model
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from trl_score import trl_compat
from trl_score.callbacks import (
    AdaptiveBeta2,
    SaveOnSigterm,
    StageBoundary,
    StepTimer,
    print_turns_table,
    save_turns_table,
)
from trl_score.checkpoints import check_writable
from trl_score.progress import TurnProgress, show_progress
from trl_score.quantization import refuse_quantized_weights
from trl_score.records import SCORE_CONFIG_FILE, Completion, GeneratedTurn, Prompt, Rollout
from trl_score.score import preflight
from trl_score.score.adapters import check_adapters, is_reference_active, set_reference_adapter
from trl_score.score.advantages import group_advantages, spread_over_turns
from trl_score.score.group_signal import has_signal, only_with_signal
from trl_score.score.importance import importance_weights, sampling_columns, sampling_gap, sampling_metrics
from trl_score.score.losses import reduce_loss, score_loss, sequence_kl, sum_over_turn
from trl_score.score.phase_memory import PhaseMemory
from trl_score.score.phase_times import add_seconds, count_step, measuring_seconds, wait_for
from trl_score.score.prompts import is_conversational_prompt, tokenize_prompts
from trl_score.score.rollout import roll_out_two_turns
from trl_score.score.row_settings import RowSetting
from trl_score.score.score_config import SCoReConfig
from trl_score.score.scoring_watch import BackgroundThread, ScoringWatch
from trl_score.score.shaping import Stage, TurnReturns, kl_coefficients, turn_returns
from trl_score.score.skipped_steps import write_rollouts
from trl_score.score.trainer_inputs import (
    copied_reference,
    load_tokenizer,
    refuse_other_rollouts,
    trl_beta,
    wrap_reward_functions,
)
from trl_score.score.turn_metrics import (
    ROLLOUT_COLUMNS,
    MetricWindow,
    correctness,
    rollout_columns,
    self_correction_columns,
    weighted_rewards,
)
from trl_score.score.turn_rewards import AsyncTurnReward, TurnContext, TurnReward

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from peft import PeftConfig, PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, TrainerCallback

logger = logging.getLogger(__name__)


def _use_device_in_thread(device: torch.device) -> None:
    """A new thread starts on the first GPU, whichever one this process has."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


class SCoReTrainer(trl_compat.GRPOSeams):
    r"""
    Trains a language model to correct itself: SCoRe, from [Training Language Models to Self-Correct via Reinforcement
    Learning](https://huggingface.co/papers/2409.12917).

    The model answers, is asked to look again, and answers again. Stage I (equation 3) trains turn 2 while a strict KL
    penalty holds turn 1; Stage II (equation 4) trains both turns, turn 2 with the bonus alpha (r2 - r1). Each turn's
    tokens see that turn's return only.

    A subclass of [`~trl.GRPOTrainer`]. Inherited unchanged: models and PEFT, the reference model, the data loader,
    ZeRO and FSDP, several reward functions and their weights, checkpoints, the Hub. Changed: the rollout has two turns,
    rewards are called once for each turn, advantages have one value per token, and the loss is that of `losses.py`.

    Deviations from the paper, and choices where it is silent (docs/paper_fidelity.md has the reasons):

    1. Groups of `num_generations` rollouts per prompt, with a leave-one-out baseline for each turn. The paper says RLOO
       and not the group's size.
    2. The KL is the k1 estimate, summed over a turn's tokens, in the turn's return. The estimator is not given.
    3. In Stage I the default penalty beta_1 acts on turn 2 only; turn 1 has the strict beta_2.
    4. The reference is the model that training starts from, the same through both stages.
    5. Ratios are clipped as in PPO where a batch is used more than once (`num_iterations`); by default it never is.
    6. The split of steps between the stages, the schedule's warm-up and the group size are defaults of ours.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy, as in [`~trl.GRPOTrainer`].
        reward_funcs (`RewardFunc` or `list[RewardFunc]`):
            Reward functions as for [`~trl.GRPOTrainer`]. Each is called for turn 1 and for turn 2, and sees that turn
            as an ordinary completion of the prompt. One that names an argument `turn` or `completions_t1` gets it. The
            first one decides whether a turn counts as right in the logs (above 0.5).
        args ([`SCoReConfig`], *optional*):
            Configuration.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows with a `prompt`, and what the reward functions need. A row may have budgets and a correction prompt of
            its own (`max_completion_length_t1`, `max_completion_length_t2`, `correction_prompt`).
        eval_dataset (*optional*):
            The same, or a dict of such.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer; by default loaded from where the model comes from.
        reward_processing_classes (*optional*):
            Tokenizers of reward models.
        callbacks (`list[~transformers.TrainerCallback]`, *optional*):
            Callbacks, such as the collapse detectors of `trl_score.callbacks`.
        optimizers (`tuple`, *optional*, defaults to `(None, None)`):
            Optimizer and scheduler.
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            Quantization of the model that is loaded.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train.

    Raises:
        `ValueError`: If something can be seen to be wrong before training: the dataset's columns or size, the chat
            template, budgets beyond the model's context, options that SCoRe cannot honour.

    Example:

    ```python
    from trl_score import SCoReConfig, SCoReTrainer

    trainer = SCoReTrainer(
        model="Qwen/Qwen2.5-1.5B-Instruct",
        reward_funcs=accuracy_reward,
        args=SCoReConfig(output_dir="out", stage="both"),
        train_dataset=dataset,  # columns: prompt, solution
    )
    trainer.train()
    ```
    """

    args: SCoReConfig

    def __init__(
        self,
        model: "str | PreTrainedModel | PeftModel",
        reward_funcs: Any = None,
        args: SCoReConfig | None = None,
        train_dataset: "Dataset | IterableDataset | None" = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: Any = None,
        callbacks: "list[TrainerCallback] | None" = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: "BitsAndBytesConfig | None" = None,
        peft_config: "PeftConfig | None" = None,
        tools: None = None,
        rollout_func: None = None,
        environment_factory: None = None,
    ) -> None:
        refuse_other_rollouts(tools=tools, rollout_func=rollout_func, environment_factory=environment_factory)
        if args is None:
            name = model if isinstance(model, str) else trl_compat.get_config_model_id(model.config)
            args = SCoReConfig(f"{name.split('/')[-1]}-SCoRe")
        refuse_quantized_weights(model, quantization_config, peft_config)
        if train_dataset is None:
            raise ValueError("`train_dataset` is required, got None. It holds the prompts that the model answers.")
        check_adapters(model, peft_config, args.ref_model_name_or_path)
        preflight.check_engine(args, model, peft_config)
        processing_class = load_tokenizer(model, args) if processing_class is None else processing_class
        self._row_settings = preflight.check_run(model, args, train_dataset, eval_dataset, processing_class)
        preflight.check_rewards(reward_funcs, train_dataset)
        if args.should_save:
            check_writable(Path(cast(str, args.output_dir)))
        self._turn_context = TurnContext(watch=ScoringWatch(args.seconds_to_score))
        reference = copied_reference(model, args, peft_config)
        needed_beta = float(args.needs_reference)  # TRL asks only whether it is 0
        with trl_beta(args, 0.0 if reference is not None else needed_beta):
            super().__init__(
                model=model,
                reward_funcs=wrap_reward_functions(reward_funcs, self._turn_context),
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                reward_processing_classes=reward_processing_classes,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        self.beta = needed_beta
        if reference is not None:
            self.use_reference(reference)
        elif args.needs_reference and is_peft_model(self._peft_model()):
            set_reference_adapter(self._peft_model(), args.ref_model_name_or_path)
        # The end-of-turn token of the template ends a turn, whether or not the model's own settings say so.
        closing = self._row_settings.own.correction.closing_ids[-1:]
        self.eos_token_ids = [*self.eos_token_ids, *(token for token in closing if token not in self.eos_token_ids)]
        # TRL would look at the end of the whole completion only; here each turn is looked at on its own.
        self._mask_truncated_turns, self.mask_truncated_completions = self.mask_truncated_completions, False

        self._eval_prefix = "eval"
        self._windows = {"train": MetricWindow(), "eval": MetricWindow()}
        self._table_rows: dict[str, deque[dict[str, Any]]] = {
            mode: deque(maxlen=args.generation_batch_size) for mode in ("train", "eval")
        }
        self._turn_1_scorer = BackgroundThread(partial(_use_device_in_thread, self.accelerator.device))
        self._memory = PhaseMemory(self.accelerator.device, args.log_memory)
        self._prompts: list[Prompt] = []
        self._settings: list[RowSetting] = []
        self._rollouts: list[Rollout] = []
        self._completions: tuple[list[Completion], list[Completion]] = ([], [])
        self._rewards_per_func: tuple[torch.Tensor, torch.Tensor] = (torch.empty(0), torch.empty(0))
        self._gathered_columns = torch.empty(0, len(ROLLOUT_COLUMNS))
        self.adaptive_beta_2 = AdaptiveBeta2(args.beta_2, args.beta_2_target_kl)
        self.add_callback(self.adaptive_beta_2)
        self._sigterm = SaveOnSigterm(self.on_any_process)
        self.add_callback(StageBoundary(args))
        self.add_callback(self._sigterm)
        self.add_callback(StepTimer(self._windows["train"]))
        self._progress = TurnProgress(
            self._windows["train"], (lambda: self.num_stage_1_steps) if args.stage == "both" else None
        )
        show_progress(self, self._progress)

    # Before training

    @property
    def stage(self) -> Stage:
        """`int`: The stage, 1 or 2, in which rollouts made now are paid."""
        # Evaluation looks back: at the boundary the model has not been through Stage II yet.
        return self._stage_of_step(self.state.global_step - (self.mode == "eval"))

    def _stage_of_step(self, step: int) -> Stage:
        if self.args.stage != "both":
            return 1 if self.args.stage == "1" else 2
        before_training = self.state.max_steps <= 0
        return 1 if before_training or step < self.num_stage_1_steps else 2

    @property
    def num_stage_1_steps(self) -> int:
        """`int`: Optimizer steps after which Stage II begins."""
        return self.args.num_stage_1_steps(self.state.max_steps)

    @property
    def kl_coefficients(self) -> tuple[float, float]:
        """`tuple[float, float]`: KL coefficients of turn 1 and turn 2 as they stand."""
        return kl_coefficients(stage=self.stage, beta_1=self.args.beta_1, beta_2=self.adaptive_beta_2.beta_2)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """
        Trains, as [`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint's folder, or `True` for the last whole one in `output_dir`. Training goes on from there as
                if it had never been interrupted.

        Returns:
            `TrainOutput`: what [`~transformers.Trainer.train`] returns.

        Raises:
            `ValueError`: If the checkpoint is not whole, or none is.
            `SystemExit`: With code 143, after a SIGTERM: training was saved at the end of the step.
        """
        checkpoint = self.checkpoint_to_resume(resume_from_checkpoint)
        state = TrainerState()
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        self.num_epochs_done = int(state.epoch or 0)
        self.forget_engine_weights()
        with self._sigterm.listening():
            output = super().train(resume_from_checkpoint=checkpoint, **kwargs)
        self._sigterm.end_if_received()
        return output

    def end_progress(self) -> None:
        """Takes the display of the progress away."""
        self._progress.close()

    def resume_state(self) -> dict[str, Any]:
        """
        Gives all that a checkpoint of transformers lacks: TRL's part, running sums, table, beta_2.

        Returns:
            `dict`: of this process; plain values and tensors.
        """
        return {
            **super().resume_state(),
            "window": self._windows["train"].state(),
            "table_rows": json.dumps(list(self._table_rows["train"]), default=str),
            "beta_2": self.adaptive_beta_2.state(),
        }

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """
        Takes back what `resume_state` gave.

        Args:
            state (`dict`):
                The state of this process.
        """
        super().load_resume_state(state)
        self._windows["train"].load(state["window"])
        self._table_rows["train"].extend(json.loads(state["table_rows"]))
        self.adaptive_beta_2.load(state["beta_2"])

    # Rollout

    def roll_out(self, prompts: list[Prompt], inputs: list[dict[str, Any]]) -> list[Rollout]:
        """
        Makes one two-turn rollout per prompt, and starts to score turn 1 while turn 2 is generated.

        Args:
            prompts (`list`):
                B prompts.
            inputs (`list[dict]`):
                The dataset rows that they come from.

        Returns:
            `list[Rollout]`: one per prompt.
        """
        is_chat = is_conversational_prompt(prompts[0])
        prompt_ids = tokenize_prompts(prompts, self.tokenizer, self.chat_template_kwargs)
        settings = [self._row_settings.of(row) for row in inputs]
        self._check_lengths(prompt_ids, settings)
        completions_t1: list[Completion] = []

        def score_turn_1_ahead(turns: list[GeneratedTurn]) -> None:
            completions_t1.extend(self.decode_turns(turns, prompt_ids, is_chat))
            self._start_scoring_turn_1(inputs, prompts, completions_t1, turns)

        window = self._windows[self.mode]
        with (
            self._memory.measuring("generation", window),
            self.generation_engine(do_sample=self._does_sample) as engine,
        ):
            timed = roll_out_two_turns(
                prompt_ids,
                [setting.correction for setting in settings],
                engine,
                ([setting.budgets[0] for setting in settings], [setting.budgets[1] for setting in settings]),
                offline_turns_1=self._offline_turns_1(inputs),
                on_turn_1=score_turn_1_ahead,
            )
        add_seconds("score/seconds_generation_t1", timed.seconds_t1, window)
        add_seconds("score/seconds_generation_t2", timed.seconds_t2, window)
        before_turn_2 = [
            [*rollout.prompt_ids, *rollout.turn_1.token_ids, *rollout.correction_ids] for rollout in timed.rollouts
        ]
        completions_t2 = self.decode_turns([rollout.turn_2 for rollout in timed.rollouts], before_turn_2, is_chat)
        self._prompts, self._settings, self._rollouts = prompts, settings, timed.rollouts
        self._completions = (completions_t1, completions_t2)
        return timed.rollouts

    @property
    def _does_sample(self) -> bool:
        return self.mode == "train" or self.args.eval_do_sample

    def _check_lengths(self, prompt_ids: list[list[int]], settings: list[RowSetting]) -> None:
        """The start-up check looked at the longest prompts by characters; this one sees every prompt."""
        context, whose = preflight.context_of_run(self.accelerator.unwrap_model(self.model).config, self.args)
        lengths = [(len(ids), setting.num_tokens) for ids, setting in zip(prompt_ids, settings, strict=True)]
        length, room = max(lengths, key=sum)
        if context is not None and length + room > context:
            raise ValueError(
                f"A prompt of {length} tokens leaves no room for both turns and the correction prompt ({room} tokens) "
                f"in {whose} of {context}. Filter long prompts out, or lower `max_completion_length`."
            )

    def _offline_turns_1(self, inputs: list[dict[str, Any]]) -> list[list[int] | None] | None:
        """Ids of first turns from the dataset, for the share of prompts that use them; the same draw on every rank."""
        column = self.args.offline_turn_1_column
        if column is None or self.mode == "eval":
            return None
        first_row = self.accelerator.process_index * len(inputs)
        turns: list[list[int] | None] = []
        for index, row in enumerate(inputs):
            group = (first_row + index) // self.num_generations
            draw = random.Random(f"{self.args.seed}-{self.state.global_step}-{group}").random()
            if draw >= self.args.offline_turn_1_share:
                turns.append(None)
                continue
            texts = [row[column]] if isinstance(row[column], str) else row[column]
            if not texts or not all(isinstance(text, str) and text for text in texts):
                raise ValueError(
                    f"Column {column!r} must hold a first turn, or a list of them, in every row, got {row[column]!r} "
                    f"for the prompt {str(row['prompt'])[:80]!r}. Fill it, or filter the row out."
                )
            text = random.Random(f"{self.args.seed}-{self.state.global_step}-{first_row + index}").choice(texts)
            turns.append(self.tokenizer.encode(text, add_special_tokens=False))
        return turns

    # Rewards

    def _start_scoring_turn_1(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Prompt],
        completions: list[Completion],
        turns: list[GeneratedTurn],
    ) -> None:
        if not self.args.score_turn_1_ahead:
            return
        columns = [key for key in inputs[0] if key not in ("prompt", "completion", "completion_ids")]
        kwargs = {
            "prompts": prompts,
            "completions": completions,
            "completion_ids": [turn.token_ids for turn in turns],
            "trainer_state": self.state,
            **{column: [row[column] for row in inputs] for column in columns},
            **self.reward_log_functions,
        }
        for reward_func in self.reward_funcs:
            if isinstance(reward_func, TurnReward):
                reward_func.start(self._turn_1_scorer, **kwargs)
            elif isinstance(reward_func, AsyncTurnReward):
                reward_func.start(self.async_loop, **kwargs)

    def score_rollouts(
        self, inputs: list[dict[str, Any]], prompts: list[Prompt], score: trl_compat.ScoreCompletions
    ) -> torch.Tensor:
        """
        Scores turn 1, then turn 2, each as an ordinary completion of the prompt.

        Args:
            inputs (`list[dict]`):
                Dataset rows.
            prompts (`list`):
                B prompts.
            score (`Callable`):
                TRL's scoring of a batch of completions.

        Returns:
            `torch.Tensor` of shape `(N, functions)`: turn 2's rewards, which TRL's own keys are made from.
        """
        start = time.perf_counter()
        self._turn_context.completions_t1 = self._completions[0]
        rewards = []
        for turn, completions in enumerate(self._completions, start=1):
            self._turn_context.turn = turn
            self._turn_context.keeps_errors = self.accelerator.num_processes > 1
            turns = [rollout.turn_1 if turn == 1 else rollout.turn_2 for rollout in self._rollouts]
            with self._turn_context.watch.one_turn():
                rewards.append(self._score_turn(score, completions, [generated.token_ids for generated in turns]))
            self._raise_reward_error()
        self._rewards_per_func = (rewards[0], rewards[1])
        add_seconds("score/seconds_rewards", time.perf_counter() - start, self._windows[self.mode])
        return rewards[1]

    def _score_turn(
        self, score: trl_compat.ScoreCompletions, completions: list[Completion], ids: list[list[int]]
    ) -> torch.Tensor:
        """Reward functions keep their errors themselves; what is left is a reward model that failed."""
        try:
            return score(completions, ids)
        except Exception as error:
            # A model whose weights lie on all processes fails in the midst of their exchange: none could join it.
            if not self._turn_context.keeps_errors or self._shards_weights:
                raise
            error.add_note(f"Raised by a reward model while it scored turn {self._turn_context.turn}.")
            self._turn_context.error = self._turn_context.error or error
            return self.join_scoring(len(completions))

    @property
    def _shards_weights(self) -> bool:
        plugin = self.args.deepspeed_plugin
        return plugin is not None and plugin.zero_stage == 3

    def _raise_reward_error(self) -> None:
        """Of several processes, all raise where a reward failed on one: none is left waiting for it."""
        if not self._turn_context.keeps_errors:
            return
        error = self._turn_context.take_error()
        messages = gather_object([None if error is None else f"{type(error).__name__}: {error}"])
        failed = {process: message for process, message in enumerate(messages) if message is not None}
        if error is not None:
            raise error
        for process, message in failed.items():
            raise RuntimeError(f"Process {process} could not score its rollouts, so training ends on all. {message}")

    # From rewards to a batch

    def finish_batch(self, batch: trl_compat.Batch) -> trl_compat.Batch:
        """
        Replaces TRL's advantages, one per rollout, by one per token, and logs what is trained on.

        Args:
            batch (`dict`):
                TRL's batch of B rollouts.

        Returns:
            `dict`: with `advantages` `(B, T)`, `turn_of_token` `(B, T)`, `max_tokens`, `rewards_t1` and `rewards_t2`
                `(B,)` and, where the KL is in the loss, `kl_coefficients` `(B, T)`. Where the update's own forward
                gives the KL, `row` `(B,)` in place of advantages: each rollout's place before TRL shuffles them.
        """
        device = batch["completion_ids"].device
        if self.mode == "train" and self.stage == 1:
            self.adaptive_beta_2.update()
        self._gathered_columns = gather(rollout_columns(self._rollouts, *self._completions).to(device))
        batch["turn_of_token"] = turn_of_token = self._turn_of_token(batch["completion_ids"].size(1)).to(device)
        self._weigh_sampling(batch, turn_of_token)
        weights = self.reward_weights.to(device)
        rewards_t1, rewards_t2 = (weighted_rewards(rewards, weights) for rewards in self._rewards_per_func)
        local = slice(self._first_row, self._first_row + len(self._rollouts))
        batch["num_items_in_batch"] = self.accelerator.gather((turn_of_token > 0).sum()).sum()
        batch["rewards_t1"], batch["rewards_t2"] = rewards_t1[local], rewards_t2[local]
        if self.mode == "train":
            no_penalty = torch.zeros_like(rewards_t1)
            paid = self._returns(rewards_t1, rewards_t2, (no_penalty, no_penalty))
            is_kept = has_signal(paid.returns_t1, paid.returns_t2, self.num_generations)
            self._windows["train"].add_mean("score/without_signal", (~is_kept).to(rewards_t1.dtype))
            if self.args.skip_without_signal:
                batch["has_signal"] = is_kept[local]
        batch["max_tokens"] = torch.tensor([setting.num_learned for setting in self._settings], device=device)  # (B,)
        if self.args.kl_estimator != "k1" and self.beta != 0.0:
            coefficients = torch.tensor(self.kl_coefficients, device=device).expand(len(self._rollouts), 2)
            batch["kl_coefficients"] = spread_over_turns(coefficients[:, 0], coefficients[:, 1], turn_of_token)
        if self._update_gives_kl(batch):
            batch["row"] = torch.arange(len(self._rollouts), device=device)
        else:
            penalties = self._kl_penalties(batch, turn_of_token)
            batch["advantages"] = self._pay_turns(rewards_t1, rewards_t2, penalties, turn_of_token)
        if self.mode == "eval":
            count_step(self._windows["eval"], updates=False)
        return batch

    def _update_gives_kl(self, batch: trl_compat.Batch) -> bool:
        """
        Whether the update's forward is the one that the KL in the reward needs: then a forward is saved.

        It is where all rollouts of a group are in one micro-batch, which is used once, with the weights that wrote it.
        """
        is_needed = self.args.kl_estimator == "k1" and self.beta != 0.0 and self.mode == "train"
        is_used_once = self.args.steps_per_generation == 1 and "old_per_token_logps" not in batch
        return is_needed and is_used_once and not self.args.skip_without_signal

    def _pay_turns(
        self,
        rewards_t1: torch.Tensor,
        rewards_t2: torch.Tensor,
        penalties: tuple[torch.Tensor, torch.Tensor],
        turn_of_token: torch.Tensor,
    ) -> torch.Tensor:
        """Advantages of this process's tokens, `(B, T)`, from rewards and penalties of all, `(N,)`; logs both."""
        returns = self._returns(rewards_t1, rewards_t2, penalties)
        advantages_t1, advantages_t2 = self._advantages(returns)
        self._log_rollouts(rewards_t1, rewards_t2, returns, advantages_t1, advantages_t2)
        if self.args.log_completions:
            self._log_table(advantages_t1, advantages_t2)
        local = slice(self._first_row, self._first_row + len(self._rollouts))
        return spread_over_turns(advantages_t1[local], advantages_t2[local], turn_of_token)

    def _returns(
        self, rewards_t1: torch.Tensor, rewards_t2: torch.Tensor, penalties: tuple[torch.Tensor, torch.Tensor]
    ) -> TurnReturns:
        return turn_returns(
            rewards_t1,
            rewards_t2,
            *penalties,
            stage=self.stage,
            alpha=self.args.alpha,
            turn_discount=self.args.turn_discount,
        )

    def _pay_turns_late(self, batch: trl_compat.Batch, logps: torch.Tensor) -> None:
        """Adds `advantages` to a batch that has none yet, from the log-probabilities of its update."""
        row = batch.pop("row")
        in_order = row.argsort()  # TRL has shuffled the rows
        turn_of_token = batch["turn_of_token"][in_order]
        penalties = self._penalties(logps[in_order], batch["ref_per_token_logps"][in_order], turn_of_token)
        rewards = [gather(batch[name][in_order]) for name in ("rewards_t1", "rewards_t2")]
        batch["advantages"] = self._pay_turns(rewards[0], rewards[1], penalties, turn_of_token)[row]

    def _weigh_sampling(self, batch: trl_compat.Batch, turn_of_token: torch.Tensor) -> None:
        """Puts each turn's own importance weights in the place of TRL's, which take both turns for one."""
        if not (self.use_vllm and self.vllm_importance_sampling_correction):
            return
        mode, sampling_logps = self.vllm_importance_sampling_mode, batch["sampling_per_token_logps"]
        gap = sampling_gap(batch["old_per_token_logps"], sampling_logps, turn_of_token)
        weights = importance_weights(
            gap,
            turn_of_token,
            mode,
            clip_min=self.vllm_importance_sampling_clip_min,
            clip_max=self.vllm_importance_sampling_clip_max,
        )
        columns = gather(sampling_columns(gap, weights, sampling_logps, turn_of_token, mode))
        metrics = sampling_metrics(self._without_padding_rows(columns))
        if not self._does_sample:  # a greedy turn was not drawn from a distribution: there is no ratio of two
            weights = torch.ones_like(weights)
            metrics = {key: value for key, value in metrics.items() if "ratio" not in key}
        batch["importance_sampling_ratio"] = weights
        self.replace_sampling_metrics(metrics)

    @property
    def _first_row(self) -> int:
        return self.accelerator.process_index * len(self._rollouts)

    def _turn_of_token(self, width: int) -> torch.Tensor:
        rows = torch.zeros(len(self._rollouts), width, dtype=torch.long)
        for row, rollout in zip(rows, self._rollouts, strict=True):
            turns = torch.tensor(rollout.turn_of_token)
            for turn, generated in ((1, rollout.turn_1), (2, rollout.turn_2)):
                if self._mask_truncated_turns and generated.truncated:
                    turns[turns == turn] = 0
            row[: len(turns)] = turns
        return rows

    def _kl_penalties(self, batch: trl_compat.Batch, turn_of_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coefficient times KL of each turn, over all processes, `(N,)` each; 0 where the KL is in the loss."""
        if self.args.kl_estimator != "k1" or self.beta == 0.0 or self.mode == "eval":
            none = torch.zeros_like(self._rewards_per_func[0][:, 0])
            return none, none
        logps = batch.get("old_per_token_logps")
        if logps is None:
            with self.without_gradients():
                size = self.args.per_device_train_batch_size
                logps = self.log_probs(self.model, batch, batch_size=size).per_token_logps
        return self._penalties(logps, batch["ref_per_token_logps"], turn_of_token)

    def _penalties(
        self, logps: torch.Tensor, ref_logps: torch.Tensor, turn_of_token: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Coefficient times KL of each turn, over all processes, `(N,)` each."""
        coefficients = self.kl_coefficients
        penalties = [coefficients[turn - 1] * sequence_kl(logps, ref_logps, turn_of_token, turn) for turn in (1, 2)]
        return gather(penalties[0]), gather(penalties[1])

    def _advantages(self, returns: TurnReturns) -> tuple[torch.Tensor, torch.Tensor]:
        group_size = self.num_generations if self.mode == "train" else self.num_generations_eval
        baseline = self.args.baseline if group_size > 1 else "none"  # greedy evaluation has one rollout per prompt
        # A first turn from the dataset says nothing of the policy's first turns, and the return of a turn that is left
        # out for its truncation lacks its KL: neither is in anybody's baseline.
        is_out_t1 = self._column("offline_turn_1") > 0
        is_out_t2 = torch.zeros_like(is_out_t1)
        if self._mask_truncated_turns:
            is_out_t1, is_out_t2 = is_out_t1 | (self._column("truncated_t1") > 0), self._column("truncated_t2") > 0
        return (
            group_advantages(torch.where(is_out_t1, torch.nan, returns.returns_t1), group_size, cast(Any, baseline)),
            group_advantages(torch.where(is_out_t2, torch.nan, returns.returns_t2), group_size, cast(Any, baseline)),
        )

    def _column(self, name: str) -> torch.Tensor:
        """One of `ROLLOUT_COLUMNS` for the rollouts of all processes, `(N,)`."""
        return self._gathered_columns[:, ROLLOUT_COLUMNS.index(name)]

    # Loss

    def turn_loss(self, model: nn.Module, batch: trl_compat.Batch) -> torch.Tensor:
        """
        The loss of one micro-batch, from one forward over both turns.

        Args:
            model (`torch.nn.Module`):
                The policy.
            batch (`dict`):
                What `finish_batch` made, a slice of it.

        Returns:
            `torch.Tensor` of shape `()`: the loss, scaled for gradient accumulation.
        """
        self._memory.begin()
        share_of_rows = 1.0
        if "has_signal" in batch:
            batch, share_of_rows = only_with_signal(batch, batch["has_signal"])
        forward = self.log_probs(model, batch, compute_entropy=True)
        logps, turn_of_token = forward.per_token_logps, batch["turn_of_token"]
        if "row" in batch:
            self._pay_turns_late(batch, logps.detach())
        old_logps = batch.get("old_per_token_logps")
        loss = score_loss(
            logps,
            logps.detach() if old_logps is None else old_logps,
            batch["advantages"],
            turn_of_token,
            epsilon_low=self.epsilon_low,
            epsilon_high=self.epsilon_high,
            ratio_level=self.importance_sampling_level,
            ref_per_token_logps=batch.get("ref_per_token_logps"),
            kl_coefficients=batch.get("kl_coefficients"),
            kl_estimator=cast(Any, self.args.kl_estimator),
            importance_weights=batch.get("importance_sampling_ratio"),
        )
        accumulation = self.current_gradient_accumulation_steps if self.mode == "train" else 1
        scalar = reduce_loss(
            loss.per_token_loss,
            cast(Any, self.args.loss_type),
            num_tokens=self._tokens_per_micro_batch(batch),
            max_tokens=batch["max_tokens"],
        )
        if self.args.loss_type != "dapo":  # which divides by all tokens of the rollout batch, not by rows
            scalar = scalar * share_of_rows
        if forward.aux_loss is not None:
            scalar = scalar + self.router_aux_loss_coef * forward.aux_loss
        self._log_loss(forward, loss.is_clipped, batch, scalar)
        return scalar / accumulation

    def _tokens_per_micro_batch(self, batch: trl_compat.Batch) -> torch.Tensor:
        """This process's share of the tokens learned from, of one micro-batch of a rollout batch."""
        per_process = batch["num_items_in_batch"].clamp(min=1) / self.accelerator.num_processes
        return per_process / (self.args.steps_per_generation if self.mode == "train" else 1)

    @contextmanager
    def measuring_log_probs(self, model: nn.Module) -> Iterator[None]:
        """Measures time and memory of a forward that nothing is learned from."""
        window = self._windows[self.mode]
        key = "score/seconds_reference" if self._is_reference(model) else "score/seconds_log_probs"
        with self._memory.measuring("log_probs", window), measuring_seconds(key, window, self.accelerator.device):
            yield

    def _is_reference(self, model: nn.Module) -> bool:
        if self.ref_model is not None:
            return model is self.ref_model
        return is_peft_model(self._peft_model()) and is_reference_active(self._peft_model())

    def log_step(self, *, was_skipped: bool) -> None:
        """Counts a step that was skipped."""
        self._windows["train"].add("score/skipped_steps", float(was_skipped))

    def write_batches(self, path: Path, batches: Sequence[trl_compat.Batch]) -> None:
        """Writes the rollouts of micro-batches, one a line."""
        write_rollouts(path, batches, self.tokenizer)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Runs one micro-batch, and logs the seconds that its forward and backward took."""
        start = time.perf_counter()
        self.take_batch_seconds()  # an evaluation since the last step left its own
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:  # the gradient's norm is about to be waited for anyway
            wait_for(self.accelerator.device)
        seconds = time.perf_counter() - start - self.take_batch_seconds()
        self._memory.end("update", self._windows["train"])
        add_seconds("score/seconds_update", seconds, self._windows["train"])
        return loss

    # Logs

    def _log_rollouts(
        self,
        rewards_t1: torch.Tensor,
        rewards_t2: torch.Tensor,
        returns: TurnReturns,
        advantages_t1: torch.Tensor,
        advantages_t2: torch.Tensor,
    ) -> None:
        window = self._windows[self.mode]
        correct_t1, correct_t2 = (correctness(rewards) for rewards in self._rewards_per_func)
        # What the dataset said in turn 1 is not the policy's doing.
        correct_t1 = torch.where(self._column("offline_turn_1") > 0, torch.nan, correct_t1)
        columns = {
            "score/accuracy_t1": correct_t1,
            "score/accuracy_t2": correct_t2,
            **self_correction_columns(correct_t1, correct_t2),
            "score/reward_t1": rewards_t1,
            "score/reward_t2": rewards_t2,
            "score/shaped_reward_t2": returns.shaped_rewards_t2,
            "score/advantage_abs_t1": advantages_t1.abs(),
            "score/advantage_abs_t2": advantages_t2.abs(),
            **{f"score/{name}": column for name, column in zip(ROLLOUT_COLUMNS, self._gathered_columns.T, strict=True)},
        }
        for key, values in columns.items():
            window.add_mean(key, self._without_padding_rows(values))
        unscorable = sum(int(torch.isnan(self._without_padding_rows(r)).sum()) for r in (rewards_t1, rewards_t2))
        window.add("score/unscorable", unscorable)
        window.add("score/stage", self.stage)
        window.add("score/beta_2", self.adaptive_beta_2.beta_2)

    def _without_padding_rows(self, values: torch.Tensor) -> torch.Tensor:
        """Leaves out the rows that were repeated to fill the last evaluation batch on several processes."""
        return values[: self._num_real_rows(len(values))]

    def _num_real_rows(self, num_rows: int) -> int:
        """How many rollouts of all processes are not there to fill the last evaluation batch."""
        loader_state = self.accelerator.gradient_state
        if self.mode == "train" or not loader_state.end_of_dataloader or loader_state.remainder < 0:
            return num_rows
        # accelerate counts dataset rows, and each of them stands for `num_generations_eval` rollouts.
        whole_batch = self.args.eval_batch_size * self.accelerator.num_processes
        return loader_state.remainder * self.num_generations_eval % whole_batch or num_rows

    def _log_loss(
        self, forward: trl_compat.LogProbs, is_clipped: torch.Tensor, batch: trl_compat.Batch, loss: torch.Tensor
    ) -> None:
        turn_of_token, ref_logps = batch["turn_of_token"], batch.get("ref_per_token_logps")
        if self.mode == "eval":
            num_real = self._num_real_rows(len(self._gathered_columns)) - self._first_row
            turn_of_token = turn_of_token.clone()
            turn_of_token[max(num_real, 0) :] = 0
        logps = forward.per_token_logps.detach()
        stats = [(~torch.isfinite(loss.detach())).double()]
        for turn in (1, 2):
            is_turn = turn_of_token == turn
            kl = torch.zeros(()) if ref_logps is None else sequence_kl(logps, ref_logps, turn_of_token, turn).sum()
            entropy = sum_over_turn(cast(torch.Tensor, forward.entropies).detach(), turn_of_token, turn).sum()
            num_rollouts, num_tokens = is_turn.any(dim=1).sum(), is_turn.sum()
            clipped = (is_clipped & is_turn).sum()
            stats += [value.to(logps.device).double() for value in (kl, entropy, clipped, num_rollouts, num_tokens)]
        num_not_finite, *sums = self.accelerator.reduce(torch.stack(stats), reduction="sum").tolist()
        if self.mode == "train":
            self.guard.add(batch, is_finite=num_not_finite == 0)
        if num_not_finite:
            return  # what it would add to the log is no number
        totals = [sums[:5], sums[5:]]
        window = self._windows[self.mode]
        for turn, (kl, entropy, clipped, num_rollouts, num_tokens) in enumerate(totals, start=1):
            if ref_logps is not None:
                window.add(f"score/kl_t{turn}", kl, num_rollouts)
                window.add(f"score/kl_per_token_t{turn}", kl, num_tokens)
            window.add(f"score/entropy_t{turn}", entropy, num_tokens)
            window.add(f"score/clip_ratio_t{turn}", clipped, num_tokens)
        if self.mode == "train" and self.stage == 1:
            self.adaptive_beta_2.observe(kl_sum=totals[0][0], num_rollouts=totals[0][3])

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates as [`~transformers.Trainer.evaluate`]; of a dict of datasets, each one's keys have its name."""
        self._eval_prefix = metric_key_prefix
        self.forget_engine_weights()
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs TRL's keys and ours, and the completions table with both turns side by side."""
        prefix = f"{self._eval_prefix}_" if self.mode == "eval" else ""
        means = self._windows[self.mode].take_means()
        logs.update({f"{prefix}{key}": cast(float, value) for key, value in means.items()})
        self.log_completions = False  # TRL's table would show both turns glued together
        super().log(logs, start_time)
        self.log_completions = self.args.log_completions
        table_rows, step = self._table_rows[self.mode], self.state.global_step
        if self.args.log_unique_prompts:
            table_rows = deque({str(row["prompt"]): row for row in table_rows}.values())
        if self.args.log_completions and self.accelerator.is_main_process and table_rows:
            print_turns_table(list(table_rows), step, self.num_completions_to_print)
            save_turns_table(list(table_rows), cast(str, self.args.output_dir), step, self.args.report_to, prefix)
        self._table_rows[self.mode].clear()

    def _log_table(self, advantages_t1: torch.Tensor, advantages_t2: torch.Tensor) -> None:
        columns: dict[str, list[Any]] = {
            "prompt": gather_object(self._prompts),
            "completion_t1": gather_object(self._completions[0]),
            "completion_t2": gather_object(self._completions[1]),
        }
        for turn, rewards in enumerate(self._rewards_per_func, start=1):
            for name, values in zip(self.reward_func_names, rewards.T.tolist(), strict=True):
                columns[f"{name}_t{turn}"] = values
        columns |= self.take_extra_columns(len(columns["prompt"]))
        columns["advantage_t1"] = advantages_t1.tolist()
        columns["advantage_t2"] = advantages_t2.tolist()
        # TRL keeps as many values of `log_extra` as a training batch has rollouts; an evaluation batch may have more.
        num_kept = cast(int, self.args.generation_batch_size)
        rows = zip(*(values[-num_kept:] for values in columns.values()), strict=True)
        self._table_rows[self.mode].extend(dict(zip(columns, row, strict=True)) for row in rows)

    def save_settings(self, folder: Path) -> None:
        """Writes `score_config.json`: the model's stage, and what it was trained with."""
        names = (
            "alpha",
            "beta_1",
            "beta_2",
            "turn_discount",
            "baseline",
            "kl_estimator",
            "loss_type",
            "correction_prompt",
            "chat_template_kwargs",
        )
        settings = {name: self.args.__dict__[name] for name in names}
        settings |= {
            "stage": self._stage_of_step(self.state.global_step - 1),
            "max_completion_length": list(self.args.turn_budgets),
        }
        (folder / SCORE_CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n")

    def _peft_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model)
