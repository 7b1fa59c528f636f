"""The only file that touches a private name of TRL.

`GRPOSeams` is GRPOTrainer with its private hooks under names of our own. A hook that TRL renames or reshapes breaks
here and nowhere else, and `tests/test_trl_contract.py` says which (it reads `PRIVATE_NAMES`). No body of TRL is copied:
every override calls `super()` and edits what comes back.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from accelerate.utils import broadcast_object_list, gather, send_to_device
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOTrainer, RewardTrainer
from trl.chat_template_utils import parse_response
from trl.import_utils import is_vllm_available as is_vllm_available
from trl.models import prepare_deepspeed, prepare_fsdp, unwrap_model_for_generation
from trl.models.utils import add_hooks, disable_gradient_checkpointing, remove_hooks
from trl.trainer import utils as trl_utils
from trl.trainer.reward_trainer import (
    DataCollatorForPreference as DataCollatorForPreference,
)
from trl.trainer.utils import (
    add_fused_lm_head,
    disable_dropout_in_model,
)
from trl.trainer.utils import (
    create_model_from_path as create_model_from_path,
)
from trl.trainer.utils import (
    get_callable_name as get_callable_name,
)
from trl.trainer.utils import (
    get_config_model_id as get_config_model_id,
)
from trl.trainer.utils import (
    global_then_local_main_first as global_then_local_main_first,
)
from trl.trainer.utils import (
    is_async_callable as is_async_callable,
)

from trl_score import checkpoints
from trl_score.publishing.hub_trainer import HubTrainer
from trl_score.records import Completion, GeneratedTurn, Prompt, Rollout
from trl_score.score.engines import ContinuousBatchingEngine, TransformersEngine, VLLMEngine
from trl_score.score.rollout import GenerateTurn
from trl_score.step_guard import BATCH_FILE, StepGuard

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

RESUME_FILE = "resume_state_{}.pt"
"""In a checkpoint, for each process: what transformers does not save."""

Mode = Literal["train", "eval"]
Batch = dict[str, Any]
ScoreCompletions = Callable[[list[Completion], list[list[int]]], torch.Tensor]
"""TRL's scoring of a batch, `(completions, completion_ids) -> (N, functions)`, gathered over all processes."""

PRIVATE_NAMES: dict[str, str] = {
    "_generate_and_score_completions": "(self, inputs) -> dict with prompt_ids, completion_ids, advantages, ...",
    "_calculate_rewards": "(self, inputs, prompts, completions, completion_ids_list) -> (N, functions), gathered",
    "_compute_loss": "(self, model, inputs) -> scalar loss",
    "_get_per_token_logps_and_entropies": "(self, model, input_ids, attention_mask, logits_to_keep, ...) -> 3-tuple",
    "_log_completion_extra": "(self, column, values): what reward functions get as log_extra",
    "_log_metric": "(self, name, value): what reward functions get as log_metric",
    "_push_from_checkpoint": "(self, checkpoint_folder): called after each save where `push_to_hub` is set",
    "_finish_current_push": "(self): waits for `push_in_progress`, pushes in the background",
    "_get_train_sampler": "(self, dataset) -> sampler that draws the order of each epoch as it is iterated",
    "_get_output_dir": "(self, trial) -> the folder that checkpoints are saved into",
    "_save_checkpoint": "(self, model, trial): saves everything, pushes, and removes the oldest checkpoints",
    "_save_rng_state": "(self, output_dir): called by every process for each checkpoint that can be resumed",
    "_load_rng_state": "(self, checkpoint): called by every process once, before its first micro-batch",
    "_get_grad_norm": "(self, model, grad_norm) -> norm for the log, called between the last backward and the update",
}
"""Methods of GRPOTrainer that this file overrides or calls, and the form that it counts on."""

PRIVATE_ATTRIBUTES: dict[str, str] = {
    "_tokenizer": "the tokenizer, also where the processing class is a processor",
    "_dist": "has summon_full_params(model, recurse=...), and is_zero3",
    "_metrics": "mode -> key -> one value per rollout batch since the last log, a defaultdict of lists",
    "_last_loaded_step": "the step whose weights vLLM has; exists where `use_vllm` is set",
    "_logs": "what the completions table is made of; ['extra'] holds the columns of log_extra",
    "_tag_names": "tags of the model card",
    "_name": "the method's name in the model card",
    "_paper": "the method's paper in the model card: title, id, citation",
    "_step": "micro-batches trained on; a new rollout batch is made where a window of them begins",
    "_buffered_inputs": "the window's micro-batches, a list of dicts of tensors, or None",
    "_tr_loss": "sum of the losses since the last log, a tensor",
    "_total_loss_scalar": "sum of the losses that were logged since training began or was resumed",
    "_globalstep_last_logged": "the step of the last log",
}
"""Attributes of a GRPOTrainer instance that this file reads or sets."""

VLLM_ATTRIBUTES: dict[str, str] = {
    "mode": "'colocate' or 'server'",
    "enable_sleep_mode": "whether a colocated vLLM is put to sleep after each call",
    "llm": "the colocated vLLM, with wake_up(tags=...) and sleep(level=...)",
    "_llm_weights_sleeping": "whether its weights are gone, so that the next call brings them",
    "temperature": "read at each call, as the next five are",
    "top_p": "a number",
    "top_k": "a number, 0 for none",
    "min_p": "a number or None",
    "max_completion_length": "most tokens of a call",
    "generation_kwargs": "a dict of further sampling parameters, which has the last word",
}
"""Attributes of TRL's VLLMGeneration that this file and `VLLMEngine` read or set."""


UTILS_CONSTANTS: dict[str, str] = {
    "_CHUNKED_LOGPROB_CHUNK_SIZE": "columns of the vocabulary that the fused LM head computes at a time",
    "_use_triton": "(device) -> whether the fused LM head leaves out positions without a label",
}
"""Private names of `trl.trainer.utils` that the fused LM head reads at each call, and `_head_for_cpu` sets for one."""

CPU_HEAD_COLUMNS = 512
"""A tile of so many columns stays in a processor's cache; TRL's 32,768 are for a GPU."""


class LogProbs(NamedTuple):
    """
    What one forward over a batch gives.

    Args:
        per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities of the completion tokens, in nats.
        entropies (`torch.Tensor` of shape `(B, T)`, *optional*):
            Entropy of the policy at each token, in nats, if asked for.
        aux_loss (`torch.Tensor` of shape `()`, *optional*):
            Load-balancing loss of a mixture-of-experts model, if it has one.
    """

    per_token_logps: torch.Tensor
    entropies: torch.Tensor | None
    aux_loss: torch.Tensor | None


class HubSeams(HubTrainer):
    """The Hub side of both trainers, whose hooks and facts have private names in TRL and Transformers."""

    @property
    def card_tags(self) -> list[str]:
        """`list[str]`: Tags of the model card."""
        return list(self._tag_names)

    @property
    def method_name(self) -> str:
        """`str`: What the method is called, in the model card too."""
        return str(self._name)

    @property
    def paper(self) -> dict[str, str]:
        """`dict`: `title`, `id` and `citation` of the method's paper."""
        return dict(self._paper)

    def wait_for_pushes(self) -> None:
        """Waits for the pushes in the background, and reports on them."""
        self._finish_current_push()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self.push_from_checkpoint(Path(checkpoint_folder))

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self.report_pushes()


class CheckpointSeams(HubSeams):
    """Checkpoints of both trainers: marked once they are whole, and resumed from only then."""

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """
        Trains, as [`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint's folder, or `True` for the last whole one in `output_dir`.

        Returns:
            `TrainOutput`: what [`~transformers.Trainer.train`] returns.

        Raises:
            `ValueError`: If the checkpoint is not whole, or none is.
            `OSError`: If nothing can be written into `output_dir`.
        """
        if self.args.should_save:
            checkpoints.check_writable(Path(self.args.output_dir))
        checkpoint = self.checkpoint_to_resume(resume_from_checkpoint)
        try:
            return super().train(resume_from_checkpoint=checkpoint, **kwargs)
        finally:
            self.end_progress()

    def end_progress(self) -> None:
        """Takes the display of the progress away, however training has ended."""

    def on_any_process(self, flag: bool) -> bool:
        """
        Tells whether something holds on any of the processes, which all ask at once.

        Args:
            flag (`bool`):
                Whether it holds on this one.

        Returns:
            `bool`: the same on all.
        """
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)).item())

    def checkpoint_to_resume(self, name: str | bool | None) -> str | None:
        """
        Finds the checkpoint that is meant, which must be whole.

        Args:
            name (`str` or `bool`, *optional*):
                Its folder, or `True`, also as a text, for the last whole one.

        Returns:
            `str`, *optional*: its folder; `None` where training begins anew.

        Raises:
            `ValueError`: If it is not whole, or none is.
        """
        if not name:
            return None
        # The main process chooses, and tells the others; each looks whether the checkpoint is whole where it runs.
        chosen: list[Any] = [str(name)]
        if chosen[0].lower() == "true" and self.accelerator.is_main_process:
            try:
                chosen = [str(checkpoints.last_whole_checkpoint(Path(self.args.output_dir)))]
            except ValueError as error:
                chosen = [error]
        broadcast_object_list(chosen)
        if isinstance(chosen[0], ValueError):
            raise chosen[0]
        checkpoints.check_whole(Path(chosen[0]))
        return str(chosen[0])

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        try:
            self._save_whole_checkpoint(model, trial, folder)
        except Exception as error:
            if self.args.should_save:
                error.add_note(checkpoints.give_up(folder))
            raise
        limit = self.args.save_total_limit
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(folder))
        if self.args.should_save and limit:
            checkpoints.remove_half_written(folder.parent)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder.parent), limit, best_model_checkpoint=best, use_mtime=True)

    def _save_whole_checkpoint(self, model: nn.Module, trial: Any, folder: Path) -> None:
        if self.args.should_save:
            checkpoints.make_room(folder)
        self.accelerator.wait_for_everyone()
        limit = self.args.save_total_limit
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.mark_whole(folder)
            checkpoints.forget_replaced(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Not now: `_save_checkpoint` pushes once the checkpoint is whole."""

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        state = {"num_processes": self.accelerator.num_processes, **self.resume_state()}
        torch.save(state, Path(output_dir) / RESUME_FILE.format(self.accelerator.process_index))
        # What is left to do is to remove older checkpoints, and they must stay until this one is whole.
        self.args.save_total_limit = None

    # What a checkpoint of transformers lacks

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self._load_resume_file(Path(checkpoint) / RESUME_FILE.format(self.accelerator.process_index))

    def _load_resume_file(self, path: Path) -> None:
        state = None
        if path.is_file():
            state = send_to_device(torch.load(path, map_location="cpu", weights_only=True), self.accelerator.device)
        if state is not None and state["num_processes"] == self.accelerator.num_processes:
            self.load_resume_state(state)
            return
        logger.warning(
            "The checkpoint %s has no state of %d processes to go on from (found: %s). %s",
            path.parent,
            self.accelerator.num_processes,
            f"one of {state['num_processes']} processes" if state is not None else "none",
            self.go_on_without_state(),
        )

    def go_on_without_state(self) -> str:
        """Begins anew what there is no state of, and gives the sentence that says so."""
        return "The next log counts from here."

    def resume_state(self) -> dict[str, Any]:
        """
        Gives what a checkpoint of transformers lacks to go on as if nothing had been: the losses of the next log.

        Returns:
            `dict`: of this process; plain values and tensors.
        """
        return {"loss_sum": self._tr_loss, "last_logged_step": self._globalstep_last_logged}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """
        Takes back what `resume_state` gave.

        Args:
            state (`dict`):
                The state of this process.
        """
        self._tr_loss = state["loss_sum"]
        self._globalstep_last_logged = state["last_logged_step"]
        # The mean loss that `train` returns is that of the steps since it was called.
        self._total_loss_scalar -= state["loss_sum"].item()


class EngineSeams(CheckpointSeams):
    """What accelerate's engines do otherwise than both trainers need it, and which steps their optimizer may take."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # DeepSpeed updates the weights in the backward pass, so no step can be skipped.
        self._guard = StepGuard(1 if self.is_deepspeed_enabled else cast(Any, self.args).max_skipped_steps)

    def create_accelerator_and_postprocess(self) -> None:
        """
        Makes the accelerator as [`~transformers.Trainer`], and has FSDP2 keep the dtype of what a model returns.

        Raises:
            `ValueError`: If FSDP was asked for where accelerate would train with DDP instead.
        """
        super().create_accelerator_and_postprocess()
        if self.accelerator.num_processes > 1 and not self.is_fsdp_enabled:
            refuse_ddp_for_fsdp(os.environ)
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin is not None and isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
            # In bf16 it would round log-probabilities and rewards, which were computed in fp32.
            plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)

    # What the trainers implement

    def log_step(self, *, was_skipped: bool) -> None:
        """Takes note of a step that has come to its end."""
        raise NotImplementedError

    def write_batches(self, path: Path, batches: Sequence[Any]) -> None:
        """Writes micro-batches, as they were given to the guard, into a JSON Lines file."""
        raise NotImplementedError

    # Steps

    @property
    def guard(self) -> StepGuard:
        """[`StepGuard`]: What each micro-batch of training is given to."""
        return self._guard

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        known_norm = 0.0 if norm is None else float(norm)  # DeepSpeed need not tell
        if self.may_step(known_norm):
            return norm if math.isfinite(known_norm) else None
        model.zero_grad(set_to_none=True)  # an optimizer passes over parameters without a gradient
        return None

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
        is_finite = math.isfinite(grad_norm)
        may_step = self._guard.end_step(0.0 if self._may_be_scaled_too_high else grad_norm)
        self.log_step(was_skipped=not (may_step and is_finite))
        if self._guard.is_over:
            self._end_of_skipped_steps()
        return may_step

    def resume_state(self) -> dict[str, Any]:
        """
        Gives what a checkpoint of transformers lacks: the losses of the next log, and how many steps were skipped last.

        Returns:
            `dict`: of this process; plain values and tensors.
        """
        return {**super().resume_state(), "skipped_in_a_row": self._guard.num_in_a_row}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """
        Takes back what `resume_state` gave.

        Args:
            state (`dict`):
                The state of this process.
        """
        super().load_resume_state(state)
        self._guard.num_in_a_row = state["skipped_in_a_row"]

    @property
    def _may_be_scaled_too_high(self) -> bool:
        """Whether an infinite gradient may be the doing of a loss scaler, which then skips the step and goes lower."""
        scaler = self.accelerator.scaler
        if scaler is not None:
            return bool(scaler.get_scale() > 1.0)
        return self.is_deepspeed_enabled and self.accelerator.mixed_precision == "fp16"  # it has a scaler of its own

    def _end_of_skipped_steps(self) -> None:
        step = self.state.global_step + 1
        names = {"step": step, "process": self.accelerator.process_index}
        path = Path(cast(str, self.args.output_dir)) / BATCH_FILE.format(**names)
        self.write_batches(path, self._guard.batches)
        raise FloatingPointError(
            f"The loss or the gradient was NaN or infinite in {self._guard.num_in_a_row} steps in a row, of which step "
            f"{step} is the last, so training ends here. The rows of that step are in "
            f"{path.with_name(BATCH_FILE.format(step=step, process='*'))}. Look at them, lower `learning_rate` or "
            "train in another precision, and resume from the last checkpoint."
        )


def refuse_ddp_for_fsdp(environment: Mapping[str, str]) -> None:
    """
    Refuses to train with DDP where FSDP was asked for, which accelerate does on a CPU without a word.

    Args:
        environment (`Mapping[str, str]`):
            What accelerate's launcher has set.

    Raises:
        `ValueError`: If it was told to use FSDP.
    """
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ValueError(
            "FSDP was asked for, which accelerate knows on accelerators only: here it would train with DDP without a "
            "word. Use DDP or DeepSpeed on a CPU, see docs/engines.md."
        )


class GRPOSeams(EngineSeams, GRPOTrainer):
    """
    GRPOTrainer with the places that SCoRe changes as overridable methods: `roll_out`, `score_rollouts`, `finish_batch`
    and `turn_loss`. All else is inherited unchanged.
    """

    _tag_names = ["trl", "score", "self-correction", "trl-score"]
    _name = "SCoRe"
    _paper = {
        "title": "Training Language Models to Self-Correct via Reinforcement Learning",
        "id": "2409.12917",
        # docstyle-ignore
        "citation": (
            "@inproceedings{kumar2025training,\n"
            "    title        = {{Training Language Models to Self-Correct via Reinforcement Learning}},\n"
            "    author       = {Aviral Kumar and Vincent Zhuang and Rishabh Agarwal and others},\n"
            "    year         = 2025,\n"
            "    booktitle    = {International Conference on Learning Representations},\n"
            "    eprint       = {arXiv:2409.12917},\n"
            "}"
        ),
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rows: list[dict[str, Any]] = []
        self._batch_seconds = 0.0
        self.num_epochs_done = 0
        # Set here and not passed on: TRL warns that a `rollout_func` is experimental, which is for its users to know.
        self.rollout_func = self._roll_out_for_trl

    # What SCoReTrainer implements

    def roll_out(self, prompts: list[Prompt], inputs: list[dict[str, Any]]) -> list[Rollout]:
        """Makes one rollout per prompt; `inputs` are the dataset rows that the prompts come from."""
        raise NotImplementedError

    def score_rollouts(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Prompt],
        score: ScoreCompletions,
    ) -> torch.Tensor:
        """Scores the rollouts just made with `score(completions, completion_ids) -> (N, functions)`."""
        raise NotImplementedError

    def finish_batch(self, batch: Batch) -> Batch:
        """Gets TRL's batch of the rollouts just made, and gives the batch that is trained on."""
        raise NotImplementedError

    def turn_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of one micro-batch."""
        raise NotImplementedError

    def measuring_log_probs(self, model: nn.Module) -> AbstractContextManager[None]:
        """Wraps each forward of a model, the policy or the reference, that nothing is learned from."""
        raise NotImplementedError

    # TRL's private hooks

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        start = time.perf_counter()
        self._rows = inputs
        self._logs["extra"].clear()
        batch = self.finish_batch(super()._generate_and_score_completions(inputs))
        self._batch_seconds += time.perf_counter() - start
        return batch

    def take_batch_seconds(self) -> float:
        """Gives the seconds spent on making rollout batches since the last call."""
        seconds, self._batch_seconds = self._batch_seconds, 0.0
        return seconds

    def _roll_out_for_trl(self, prompts: list[Prompt], trainer: GRPOTrainer) -> dict[str, Any]:
        rollouts = self.roll_out(prompts, self._rows)
        return {
            "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            "logprobs": [rollout.logprobs for rollout in rollouts] if self.use_vllm else None,
            "env_mask": [[int(turn > 0) for turn in rollout.turn_of_token] for rollout in rollouts],
        }

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Prompt],
        completions: list[Completion],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        base = super()._calculate_rewards
        return self.score_rollouts(inputs, prompts, lambda completions, ids: base(inputs, prompts, completions, ids))

    def join_scoring(self, num_completions: int) -> torch.Tensor:
        """
        Takes part in the gathering with which a scoring of TRL's ends, in the place of one that failed on this process.

        Args:
            num_completions (`int`):
                How many completions were to be scored here.

        Returns:
            `torch.Tensor` of shape `(N, functions)`: rewards of all processes, 0 for this one's.
        """
        return gather(torch.zeros(num_completions, len(self.reward_funcs), device=self.accelerator.device))

    def _get_per_token_logps_and_entropies(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        measuring = nullcontext() if torch.is_grad_enabled() else self.measuring_log_probs(model)
        with measuring, _head_for_cpu(self.accelerator.device):
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)

    def _compute_loss(self, model: nn.Module, inputs: Batch) -> torch.Tensor:
        return self.turn_loss(model, inputs)

    def describe_rewards(self) -> dict[str, Any]:
        """Gives the names and weights of the reward functions."""
        return {"reward_funcs": list(self.reward_func_names), "reward_weights": self.reward_weights.tolist()}

    # Checkpoints

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)
        for _ in range(self.num_epochs_done):  # each beginning draws an order
            next(iter(sampler), None)
        return sampler

    def go_on_without_state(self) -> str:
        """Counts the step's place in its window from the start of one, and gives the sentence that says so."""
        self._step = self.state.global_step * self.args.gradient_accumulation_steps
        return "Rollouts of a window that was begun are made anew, and the next log counts from here."

    def resume_state(self) -> dict[str, Any]:
        """
        Gives all that a checkpoint of transformers lacks, TRL's part included: rollouts of a window that was begun, and
        TRL's metrics of the next log.

        Returns:
            `dict`: of this process; plain values and tensors.
        """
        is_window_begun = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        return {
            **super().resume_state(),
            "step": self._step,
            "buffered_inputs": self._buffered_inputs if is_window_begun else None,
            "metrics": {key: list(values) for key, values in self._metrics["train"].items()},
        }

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """
        Takes back what `resume_state` gave.

        Args:
            state (`dict`):
                The state of this process.
        """
        super().load_resume_state(state)
        self._step = state["step"]
        self._buffered_inputs = state["buffered_inputs"]
        self._metrics["train"].update(state["metrics"])

    # TRL's private state, under public names

    @property
    def mode(self) -> Mode:
        """`str`: `"train"` or `"eval"`, as TRL tells them apart."""
        return "train" if self.model.training else "eval"

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._tokenizer

    @property
    def reward_log_functions(self) -> dict[str, Callable[..., None]]:
        """`dict`: what a reward function gets as `log_extra` and `log_metric`."""
        return {"log_extra": self._log_completion_extra, "log_metric": self._log_metric}

    def take_extra_columns(self, num_rows: int) -> dict[str, list[Any]]:
        """Gives the columns that reward functions logged for the last `num_rows` rollouts of all processes."""
        columns = {column: list(values)[-num_rows:] for column, values in self._logs["extra"].items()}
        num_expected = min(num_rows, self.args.generation_batch_size)  # TRL keeps no more
        for column, values in columns.items():
            if len(values) != num_expected:
                raise ValueError(
                    f"`log_extra` must be given one value per completion, got {len(values)} for the {num_expected} "
                    f"rows of {column!r}. Log a value, or None, for each completion of the turn."
                )
        return columns

    def log_probs(
        self, model: nn.Module, batch: Batch, *, compute_entropy: bool = False, batch_size: int | None = None
    ) -> LogProbs:
        """
        Log-probabilities of the completion tokens, both turns in one forward, without full logits.

        Args:
            model (`torch.nn.Module`):
                The policy.
            batch (`dict`):
                TRL's batch.
            compute_entropy (`bool`, *optional*, defaults to `False`):
                Whether to return entropies too.
            batch_size (`int`, *optional*):
                Rows of one forward; all by default.

        Returns:
            `LogProbs`: log-probabilities and what else the forward gave.
        """
        return LogProbs(
            *self._get_per_token_logps_and_entropies(
                model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].size(1),
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_entropy and self.aux_loss_enabled,
            )
        )

    @contextmanager
    def without_gradients(self) -> Iterator[None]:
        """Wraps a forward that nothing is learned from, as TRL does: reentrant checkpointing would warn in it."""
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            yield

    def decode_turns(
        self, turns: Sequence[GeneratedTurn], prompt_ids: Sequence[list[int]], is_chat: bool
    ) -> list[Completion]:
        """
        Decodes turns into what TRL hands to reward functions: a text, or a list with one assistant message.

        Args:
            turns (`Sequence[GeneratedTurn]`):
                The turns.
            prompt_ids (`Sequence[list[int]]`):
                What stood before each turn.
            is_chat (`bool`):
                Whether the prompts are chat messages.

        Returns:
            `list`: one completion per turn.
        """
        ids = [turn.token_ids for turn in turns]
        if is_chat and _parses_responses(self._tokenizer):
            return [
                [parse_response(self._tokenizer, turn_ids, prefix=prefix)]
                for turn_ids, prefix in zip(ids, prompt_ids, strict=True)
            ]
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [[{"role": "assistant", "content": text}] for text in texts] if is_chat else texts

    @contextmanager
    def generation_engine(self, *, do_sample: bool) -> Iterator[GenerateTurn]:
        """
        Opens the generation engine for one rollout batch: the weights are made ready once for both turns.

        Args:
            do_sample (`bool`):
                Whether to sample at the training temperature; greedy otherwise.

        Yields:
            `GenerateTurn`: the engine.
        """
        if self.use_vllm:
            is_shared = self.vllm_mode == "server" or self.vllm_tensor_parallel_size > 1
            with _awake(self.vllm_generation):
                yield VLLMEngine(
                    self.vllm_generation,
                    stop_ids=self.eos_token_ids,
                    do_sample=do_sample,
                    largest=self._largest_of_all_processes if is_shared else None,
                )
            return
        gathering = unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        )
        with ExitStack() as stack:
            model = stack.enter_context(gathering)
            stack.enter_context(self._dist.summon_full_params(self.model_wrapped, recurse=False))
            yield self._transformers_engine(cast("PreTrainedModel", model), do_sample)
        if self._dist.is_zero3 and not self.args.ds3_gather_for_generation:
            # ZeRO-3 has seen in which order `generate` needs weights, and would expect that order in training.
            remove_hooks(self.model_wrapped)
            add_hooks(self.model_wrapped)

    def _transformers_engine(self, model: "PreTrainedModel", do_sample: bool) -> GenerateTurn:
        if self.use_transformers_continuous_batching:
            return ContinuousBatchingEngine(
                model,
                stop_ids=self.eos_token_ids,
                do_sample=do_sample,
                generation_config=self.generation_config,
                batching_config=self.continuous_batching_config,
            )
        return TransformersEngine(
            model,
            stop_ids=self.eos_token_ids,
            pad_token_id=self._tokenizer.pad_token_id,
            do_sample=do_sample,
            sampling_kwargs=_sampling_kwargs(self.generation_kwargs),
        )

    def _largest_of_all_processes(self, num_prompts: int, budget: int) -> tuple[int, int]:
        own = torch.tensor([[num_prompts, budget]], device=self.accelerator.device)
        largest = self.accelerator.gather(own).amax(dim=0)
        return int(largest[0]), int(largest[1])

    def replace_sampling_metrics(self, metrics: dict[str, float]) -> None:
        """Logs `metrics` in the place of the `sampling/*` keys that TRL logged of the batch just made."""
        logged = self._metrics[self.mode]
        for key in [key for key in logged if key.startswith("sampling/")]:
            logged[key].pop()
            if not logged[key]:
                del logged[key]
        for key, value in metrics.items():
            logged[key].append(value)

    def forget_engine_weights(self) -> None:
        """
        Has the weights brought to vLLM before the next rollout. TRL brings them when the step has changed, but they
        change without one too: when training begins anew, and when the best checkpoint is loaded at its end.
        """
        if self.use_vllm:
            self._last_loaded_step = -1

    def use_reference(self, reference: nn.Module) -> None:
        """
        Makes a frozen model the reference, prepared as TRL prepares its own.

        Args:
            reference ([`~transformers.PreTrainedModel`]):
                The model, as loaded.
        """
        if self.args.disable_dropout:
            disable_dropout_in_model(reference)
        add_fused_lm_head(reference, temperature=self.temperature, cast_lm_head_to_fp32=self.args.cast_lm_head_to_fp32)
        if self.is_deepspeed_enabled:
            self.ref_model = prepare_deepspeed(reference, self.accelerator)
        elif self.is_fsdp_enabled:
            self.ref_model = prepare_fsdp(reference, self.accelerator)
        else:
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)


@contextmanager
def _head_for_cpu(device: torch.device) -> Iterator[None]:
    """
    On a CPU, has TRL's fused LM head work in tiles that stay in cache, and at the completion's positions only.

    TRL's tiles are for a GPU, half a GiB each, and without Triton it computes the prompt's positions as well.
    """
    if device.type != "cpu":
        yield
        return
    own = {"_CHUNKED_LOGPROB_CHUNK_SIZE": CPU_HEAD_COLUMNS, "_use_triton": lambda device: True}
    names = vars(trl_utils)
    before = {name: names[name] for name in own}
    names.update(own)
    try:
        yield
    finally:
        names.update(before)


def _sampling_kwargs(generation_kwargs: dict[str, Any]) -> dict[str, Any]:
    """TRL's generation settings less those that each turn sets itself."""
    own = ("max_new_tokens", "do_sample", "eos_token_id", "pad_token_id")
    return {name: value for name, value in generation_kwargs.items() if name not in own}


@contextmanager
def _awake(vllm_generation: Any) -> Iterator[None]:
    """
    Keeps a colocated vLLM awake over both turns.

    With sleep mode TRL puts it to sleep after each call, and its weights and prefix cache are lost: turn 2 would bring
    the weights again and compute prompt and turn 1 again.
    """
    if vllm_generation.mode != "colocate" or not vllm_generation.enable_sleep_mode:
        yield
        return
    if vllm_generation._llm_weights_sleeping:
        vllm_generation.sync_weights()
    vllm_generation.llm.wake_up(tags=["kv_cache"])
    vllm_generation.enable_sleep_mode = False
    try:
        yield
    finally:
        vllm_generation.enable_sleep_mode = True
        vllm_generation.llm.sleep(level=2)
        vllm_generation._llm_weights_sleeping = True


def _parses_responses(tokenizer: Any) -> bool:
    """Whether the tokenizer splits an answer into its parts (thinking, content), in one of transformers' two ways."""
    parsers = ("response_template", "response_schema")
    return any(vars(tokenizer).get(name) is not None for name in parsers)


# RewardTrainer

REWARD_PRIVATE_NAMES: dict[str, str] = {
    "_prepare_dataset": "(self, dataset, processing_class, args, dataset_name) -> dataset of ids",
    "_set_signature_columns_if_needed": "(self): fills _signature_columns",
}
"""Methods of RewardTrainer that `RewardSeams` overrides, and the form that it counts on."""

REWARD_PRIVATE_ATTRIBUTES: dict[str, str] = {
    "_signature_columns": "the columns that are kept for the collator; None until they are asked for",
    "_tag_names": "tags of the model card",
    "_name": "the method's name in the model card",
    "_paper": "the method's paper in the model card: title, id, citation",
}
"""Attributes of a RewardTrainer that `RewardSeams` reads or sets."""


class RewardSeams(EngineSeams, RewardTrainer):
    """
    RewardTrainer with what CLoud changes of its private surface under names of our own: `prepare_dataset` and
    `needed_columns`. All else is inherited unchanged.
    """

    _tag_names = ["trl", "cloud", "critique", "reward-model", "trl-score"]
    _name = "CLoud"
    _paper = {
        "title": "Critique-out-Loud Reward Models",
        "id": "2408.11791",
        # docstyle-ignore
        "citation": (
            "@article{ankner2024critique,\n"
            "    title        = {{Critique-out-Loud Reward Models}},\n"
            "    author       = {Zachary Ankner and Mansheej Paul and Brandon Cui and others},\n"
            "    year         = 2024,\n"
            "    eprint       = {arXiv:2408.11791},\n"
            "}"
        ),
    }

    needed_columns: tuple[str, ...] = ()
    """What the collator reads of a row: `remove_unused_columns` must leave it."""

    def prepare_dataset(self, dataset: Any, name: str) -> Any:
        """Makes a dataset into ids; one that is ids already stays as it is. `name` is TRL's: train, eval or a key."""
        raise NotImplementedError

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return self.prepare_dataset(dataset, dataset_name)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *self.needed_columns]))
