"""CLoudRewardTrainer: the wiring of rows, the joint loss, evaluation and logs. No formula here."""

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import is_peft_model
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback

from trl_score import trl_compat
from trl_score.callbacks import SaveOnSigterm
from trl_score.checkpoints import check_writable
from trl_score.cloud.cloud_config import CLoudRewardConfig
from trl_score.cloud.collator import (
    PREPARED_COLUMNS,
    DataCollatorForCritiques,
    PreparedRows,
    RowMaker,
    prepare_rows,
)
from trl_score.cloud.losses import bradley_terry_loss, critique_loss, critique_weight_at, joint_loss
from trl_score.cloud.modeling import CLoudOutput
from trl_score.cloud.pair_metrics import mean_per_response, pair_rows, summarize_critiques, summarize_rewards
from trl_score.cloud.prompts import CritiqueTemplate
from trl_score.cloud.skipped_steps import write_pairs
from trl_score.cloud.trainer_inputs import (
    build_model,
    check_collator,
    check_context,
    check_critique_prompt,
    load_model_config,
    load_tokenizer,
    peft_config_with_head,
    set_special_tokens,
)
from trl_score.progress import CritiqueProgress, show_progress
from trl_score.quantization import refuse_quantized_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from datasets import Dataset, IterableDataset
    from peft import PeftConfig, PeftModel
    from transformers import BitsAndBytesConfig, DataCollator, EvalPrediction, PreTrainedModel

logger = logging.getLogger(__name__)


class CLoudRewardTrainer(trl_compat.RewardSeams):
    r"""
    Trains a reward model that writes a critique and is read after it: CLoud, from [Critique-out-Loud Reward
    Models](https://huggingface.co/papers/2408.11791).

    Loss: Bradley-Terry + `critique_weight` x cross-entropy on the critiques of chosen and rejected responses, both from
    one forward of the wrapped model. `stage="sft"` trains on the critiques alone, `stage="classic"` on the rewards
    alone, without critiques: the paper's baseline.

    A subclass of [`~trl.RewardTrainer`]. Inherited unchanged: PEFT, quantization, ZeRO and FSDP, the data loader,
    checkpoints, the Hub and its model card, activation offloading. Changed: the model, how rows become ids, the loss,
    what evaluation returns (rewards, never logits) and what is logged.

    Gradient accumulation: the loss of each micro-batch is divided by the number of micro-batches, whatever tokens each
    holds. With `critique_normalization="token_mean"` every micro-batch's token mean counts the same, as in the official
    code, to which the paper's weights belong.

    Deviations from the paper and its code (docs/paper_fidelity.md has the reasons):

    1. The conversation is templated as a whole, and the critique prompt is our own sentence.
    2. The request for a critique is not learned from (`learn_critique_prompt=True` for the official way).
    3. A row that is too long loses the end of its critique, never its closing token, which is then not learned from.
       The official code cuts whatever stands last and teaches to stop there.
    4. The reward is computed in fp32.
    5. In evaluation, of K critiques the first is taken (all of them with `critiques_per_response="mean"`).

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A causal language model, which gets a new reward head, or a CLoud model; or where one comes from. Of PEFT
            models, one around a [`CLoudRewardModel`].
        args ([`CLoudRewardConfig`], *optional*):
            Configuration.
        data_collator (`DataCollator`, *optional*):
            By default [`DataCollatorForCritiques`].
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows with `chosen`, `rejected`, `chosen_critique`, `rejected_critique` and mostly `prompt`: texts or
            messages, and a critique or a list of K. The official `chosen_feedback` and `rejected_feedback` are known
            too. Optionally `margin`.
        eval_dataset (*optional*):
            The same, or a dict of such.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer; by default loaded from where the model comes from.
        compute_metrics (`Callable`, *optional*):
            Gets `predictions`, the rewards `(N, 2)` of chosen and rejected responses, and `label_ids` `(N,)`, all 0:
            the chosen one is the first.
        callbacks (`list[~transformers.TrainerCallback]`, *optional*):
            Callbacks.
        optimizers (`tuple`, *optional*, defaults to `(None, None)`):
            Optimizer and scheduler.
        optimizer_cls_and_kwargs (`tuple`, *optional*):
            Optimizer class and its arguments.
        preprocess_logits_for_metrics (`Callable`, *optional*):
            What becomes of the rewards `(B, 2)` before they are collected.
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            Quantization of the model that is loaded.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train. The reward head is added to its `modules_to_save`.

    Raises:
        `ValueError`: If something can be seen to be wrong before training, mostly before a model is loaded: columns,
            rows, lengths, the chat template, options that contradict each other.
        `TypeError`: If a field, the tokenizer or the model is of the wrong type.

    Example:

    ```python
    from trl_score import CLoudRewardConfig, CLoudRewardTrainer

    trainer = CLoudRewardTrainer(
        model="runs/critique-sft",
        args=CLoudRewardConfig(output_dir="runs/cloud"),
        train_dataset=dataset,  # columns: prompt, chosen, rejected, chosen_critique, rejected_critique
    )
    trainer.train()
    ```
    """

    args: CLoudRewardConfig
    needed_columns = (*PREPARED_COLUMNS, "margin")

    def __init__(
        self,
        model: "str | PreTrainedModel | PeftModel",
        args: CLoudRewardConfig | None = None,
        data_collator: "DataCollator | None" = None,
        train_dataset: "Dataset | IterableDataset | None" = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: "Callable[[EvalPrediction], dict[str, Any]] | None" = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None" = None,
        quantization_config: "BitsAndBytesConfig | None" = None,
        peft_config: "PeftConfig | None" = None,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else trl_compat.get_config_model_id(model.config)
            args = CLoudRewardConfig(f"{name.split('/')[-1]}-CLoud")
        if args.stage == "both":
            raise ValueError(
                "`stage='both'` is two trainings with a generation between them. Call "
                "`trl_score.cloud.stages.train_stages` in place of this trainer, or set `stage` to 'sft' or 'joint'."
            )
        refuse_quantized_weights(model, quantization_config, peft_config)
        if train_dataset is None:
            raise ValueError("`train_dataset` is required, got None. It holds the preference pairs.")
        check_collator(data_collator)
        self.args = args  # rows are made before TRL's trainer is
        config = load_model_config(model, args)
        tokenizer = load_tokenizer(model, args) if processing_class is None else processing_class
        set_special_tokens(tokenizer, args)
        check_critique_prompt(config, args)
        check_context(config, args)
        peft_config = peft_config_with_head(peft_config, config)
        self.template = CritiqueTemplate(tokenizer, args.critique_prompt)
        self._rows_of_training = self._make_rows(train_dataset, "train_dataset")
        eval_sets = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
        prepared = {
            name: None if dataset is None else self._make_rows(dataset, name, first_only=True).dataset
            for name, dataset in eval_sets.items()
        }
        if args.should_save:
            check_writable(Path(cast(str, args.output_dir)))
        reward_model = build_model(model, args, quantization_config)
        collator = data_collator or DataCollatorForCritiques(
            self.template,
            tokenizer.pad_token_id,
            cast(Any, args.critiques_per_response),
            args.learn_critique_prompt,
            cast("int | None", args.pad_to_multiple_of),
            args.seed,
        )
        with _without_init_kwargs(args):
            super().__init__(
                model=reward_model,
                args=args,
                data_collator=collator,
                train_dataset=self._rows_of_training.dataset,
                eval_dataset=prepared if isinstance(eval_dataset, dict) else prepared["eval_dataset"],
                processing_class=tokenizer,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
                peft_config=peft_config,
            )
        self._eval_prefix = "eval"
        self._pairs: dict[str, list[torch.Tensor]] = {"train": [], "eval": []}
        self._skipped: list[float] = []  # 1 for each step that was skipped since the last log, 0 for the others
        if isinstance(collator, DataCollatorForCritiques):
            self.add_callback(_EpochOfCritiques(collator))
        self._sigterm = SaveOnSigterm(self.on_any_process)
        self.add_callback(self._sigterm)
        self._progress = CritiqueProgress()
        show_progress(self, self._progress)

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
        with self._sigterm.listening():
            output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self._sigterm.end_if_received()
        return output

    def end_progress(self) -> None:
        """Takes the display of the progress away."""
        self._progress.close()

    def resume_state(self) -> dict[str, Any]:
        """
        Gives all that a checkpoint of transformers lacks, the pairs and steps of the next log included.

        Returns:
            `dict`: of this process; plain values and tensors.
        """
        return {**super().resume_state(), "pairs": self._pairs["train"], "skipped": self._skipped}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """
        Takes back what `resume_state` gave.

        Args:
            state (`dict`):
                The state of this process.
        """
        super().load_resume_state(state)
        self._pairs["train"], self._skipped = state["pairs"], state["skipped"]

    # Rows

    def _make_rows(self, dataset: Any, name: str, *, first_only: bool = False) -> PreparedRows:
        args = self.args
        make_row = RowMaker(
            self.template,
            args.max_length,
            cast(Any, args.overlong),
            first_critique_only=first_only and args.critiques_per_response == "one",
            name=name,
        )
        with trl_compat.global_then_local_main_first():
            rows = prepare_rows(dataset, make_row, args.dataset_num_proc)
        if rows.num_dropped or rows.num_shortened:
            logger.warning(
                "`%s`: %d rows dropped and %d critiques shortened, to fit into `max_length=%s`.",
                *(name, rows.num_dropped, rows.num_shortened, args.max_length),
            )
        return rows

    def prepare_dataset(self, dataset: Any, name: str) -> Any:
        """
        Makes a dataset into ids, for TRL: those given to the trainer are made already, one given to `evaluate` is not.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
                Preference pairs.
            name (`str`):
                What to call it in a message.

        Returns:
            [`~datasets.Dataset`] or [`~datasets.IterableDataset`]: with ids.
        """
        return self._make_rows(dataset, name, first_only=True).dataset

    # Loss

    @property
    def critique_weight(self) -> float:
        """`float`: Lambda as it stands at this step; 1 where the critiques are all that is learned from."""
        if not self.args.learns_rewards:
            return 1.0
        return critique_weight_at(
            self.state.global_step,
            self.state.max_steps,
            self.args.critique_weight,
            cast(Any, self.args.critique_weight_schedule),
            self.args.final_critique_weight or 0.0,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """
        The loss of one micro-batch, from one forward over chosen and rejected rows.

        Args:
            model (`torch.nn.Module`):
                The wrapped model.
            inputs (`dict`):
                A batch of [`DataCollatorForCritiques`].
            return_outputs (`bool`, *optional*, defaults to `False`):
                Whether to return the rewards too.
            num_items_in_batch (*optional*):
                Not used: micro-batches count the same, see the class.

        Returns:
            `torch.Tensor` of shape `()`: the loss; with `return_outputs` also a dict of the `rewards` `(B, 2)`.
        """
        outputs: CLoudOutput = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs.get("labels"),
        )
        rewards = mean_per_response(cast(torch.Tensor, outputs.rewards), inputs.get("response_of_row"))  # (B, 2)
        reward_loss = bradley_terry_loss(
            rewards[:, 0], rewards[:, 1], inputs.get("margin"), self.args.center_rewards_coefficient
        )
        on_critiques = self._critique_loss(outputs)
        if on_critiques is None:
            loss = reward_loss
        elif self.args.learns_rewards:
            loss = joint_loss(reward_loss, on_critiques, self.critique_weight)
        else:
            loss = on_critiques + 0.0 * rewards.sum()  # DDP waits for the gradients of all parameters, the head's too
        counts = outputs.num_supervised, outputs.num_correct
        self._observe(inputs, loss, pair_rows(rewards, reward_loss, on_critiques, self.critique_weight, *counts))
        return (loss, {"rewards": rewards}) if return_outputs else loss

    def _critique_loss(self, outputs: CLoudOutput) -> torch.Tensor | None:
        if outputs.critique_nll is None:
            if not self.args.is_classic:
                raise ValueError(
                    f"Stage {self.args.stage!r} learns from critiques, got a batch without `labels`. Have the "
                    "`data_collator` make them as `DataCollatorForCritiques` does, or set `stage='classic'`."
                )
            return None
        num_supervised = cast(torch.Tensor, outputs.num_supervised)
        return critique_loss(outputs.critique_nll, num_supervised, cast(Any, self.args.critique_normalization))

    def may_step(self, grad_norm: float) -> bool:
        """
        Refuses a step whose loss or gradient is NaN or infinite, and ends the run after several in a row.

        Args:
            grad_norm (`float`):
                The gradient's norm, the same on all processes.

        Returns:
            `bool`: whether the optimizer may use the gradient.

        Raises:
            `FloatingPointError`: After `max_skipped_steps` steps in a row; each process has written its rows.
        """
        if self.on_any_process(not self.guard.is_loss_finite):
            self.guard.is_loss_finite = False
            del self._pairs["train"][-len(self.guard.batches) :]  # what they would add to the log is no number
        return super().may_step(grad_norm)

    def log_step(self, *, was_skipped: bool) -> None:
        """Counts a step that was skipped."""
        self._skipped.append(float(was_skipped))

    def write_batches(self, path: Path, batches: "Sequence[dict[str, torch.Tensor]]") -> None:
        """Writes the rows of micro-batches, one a line."""
        write_pairs(path, batches, cast(PreTrainedTokenizerBase, self.processing_class))

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """
        Evaluates one batch.

        Args:
            model (`torch.nn.Module`):
                The model.
            inputs (`dict`):
                A batch of [`DataCollatorForCritiques`].
            prediction_loss_only (`bool`):
                Whether the loss is all that is wanted.
            ignore_keys (`list[str]`, *optional*):
                Not used: there is one output.

        Returns:
            `tuple`: the loss `()`, the rewards `(B, 2)` of chosen and rejected responses, and `(B,)` zeros, which of
                the two is preferred.
        """
        loss, rewards, _ = super().prediction_step(model, inputs, prediction_loss_only, [])
        if rewards is None:
            return loss, None, None
        return loss, rewards, torch.zeros_like(rewards[:, 0], dtype=torch.long)

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Evaluates as [`~transformers.Trainer.evaluate`], and writes the rewards' mean and standard deviation into the
        model's configuration, for those who want normalised rewards.

        Args:
            eval_dataset (*optional*):
                Preference pairs, or a dict of such; by default the trainer's.
            ignore_keys (`list[str]`, *optional*):
                Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`):
                What the keys begin with.

        Returns:
            `dict[str, float]`: metrics.
        """
        self._eval_prefix = metric_key_prefix
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test") -> Any:
        """
        Gives the rewards of preference pairs.

        Args:
            test_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
                Preference pairs.
            ignore_keys (`list[str]`, *optional*):
                Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"test"`):
                What the keys begin with.

        Returns:
            `PredictionOutput`: `predictions` are rewards `(N, 2)`, of chosen and rejected responses.
        """
        outputs = super().predict(self.prepare_dataset(test_dataset, "test_dataset"), ignore_keys, metric_key_prefix)
        self._pairs["eval"].clear()  # nothing is logged
        return outputs

    # Logs

    def _observe(self, batch: dict[str, torch.Tensor], loss: torch.Tensor, rows: torch.Tensor) -> None:
        """Keeps what is logged next of one micro-batch, rows of `pair_rows`, and in training tells the guard of it."""
        if self.model.training:
            self._pairs["train"].append(rows)
            self.guard.add({**batch, "rewards": rows[:, :2]}, is_finite=bool(loss.detach().isfinite()))
        else:
            # Without the pairs that were repeated to fill the last batch.
            self._pairs["eval"].append(self.accelerator.gather_for_metrics(rows))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs TRL's keys and ours (`log_keys.CLOUD_LOG_KEYS`)."""
        mode = "train" if self.model.training else "eval"
        prefix = "" if mode == "train" else f"{self._eval_prefix}_"
        metrics = self._take_pair_metrics(mode) if self._pairs[mode] else {}
        if mode == "train" and self._skipped:
            metrics |= self._take_step_metrics()
        logs.update({f"{prefix}{key}": value for key, value in metrics.items()})
        super().log(logs, start_time)

    def _take_pair_metrics(self, mode: str) -> dict[str, float]:
        num_batches, rows = len(self._pairs[mode]), torch.cat(self._pairs[mode])
        self._pairs[mode].clear()
        if mode == "train":
            rows = self.accelerator.gather(rows)
        metrics: dict[str, float] = {}
        if self.args.learns_rewards:
            metrics |= summarize_rewards(rows)
        if not self.args.is_classic:
            metrics |= summarize_critiques(rows, num_batches)
        if mode == "eval" and self.args.learns_rewards:
            self._keep_reward_scale(rows[:, :2])
        return metrics

    def _take_step_metrics(self) -> dict[str, float]:
        share_skipped = sum(self._skipped) / len(self._skipped)
        self._skipped.clear()
        return {
            "cloud/skipped_steps": share_skipped,
            "cloud/rows_dropped": self._rows_of_training.num_dropped,
            "cloud/rows_shortened": self._rows_of_training.num_shortened,
        }

    def _keep_reward_scale(self, rewards: torch.Tensor) -> None:
        """Writes mean and standard deviation of rewards `(N, 2)` into the configuration that is saved."""
        std = rewards.std(correction=0).item()
        if std > 0:
            config = self.accelerator.unwrap_model(self.model).config
            config.reward_mean, config.reward_std = rewards.mean().item(), std

    def save_settings(self, folder: Path) -> None:
        """Writes `config.json` beside an adapter; it holds the critique prompt."""
        model = self.accelerator.unwrap_model(self.model)
        if is_peft_model(model):
            model.config.save_pretrained(folder)


class _EpochOfCritiques(TrainerCallback):
    """Tells the collator which epoch begins: of K critiques, each epoch takes another one."""

    def __init__(self, collator: DataCollatorForCritiques) -> None:
        self.collator = collator

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.collator.set_epoch(int((state.epoch or 0.0) + 1e-6))  # within an epoch, where training was resumed there


@contextmanager
def _without_init_kwargs(args: CLoudRewardConfig) -> "Iterator[None]":
    """Hides how models are loaded from TRL, which gets one in memory and would warn that it ignores this."""
    own, args.model_init_kwargs = args.model_init_kwargs, None
    try:
        yield
    finally:
        args.model_init_kwargs = own
