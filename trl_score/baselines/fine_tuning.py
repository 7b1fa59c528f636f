"""
STaR and Pair-SFT: sample traces, choose some, fine-tune on them with TRL's SFTTrainer; once, or several times over.

Each iteration samples with the model as it then is. What it fine-tunes is the model that the first one started from, as
in STaR (arXiv 2203.14465) and ReST-EM (arXiv 2312.06585), whose protocol the paper names.
"""

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, PeftConfig
from transformers import AutoTokenizer
from trl import SFTTrainer

from trl_score.baselines.budget import Budget, Spent
from trl_score.baselines.configs import fine_tuning_config
from trl_score.baselines.methods import TraceSetName
from trl_score.baselines.trace_sets import Trace, fine_tuning_row, make_trace_set, trace_rows
from trl_score.baselines.traces import draw_problems, sample_traces
from trl_score.evaluation import is_adapter, load_model
from trl_score.records import RewardFunc
from trl_score.score.preflight import check_dataset, check_rewards, check_run
from trl_score.score.score_config import SCoReConfig

if TYPE_CHECKING:
    from datasets import IterableDataset
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuning:
    """
    What a method of traces is given.

    Args:
        trace_set (`str`):
            Which traces are learned from.
        args ([`SCoReConfig`]):
            The SCoRe run's configuration; the model goes to its `output_dir`.
        dataset ([`~datasets.Dataset`]):
            The training problems.
        reward_func (`Callable`):
            What says whether a turn is right (above 0.5).
        learns_right_turn_1 (`bool`, *optional*, defaults to `False`):
            Whether turn 1 is learned from too where it is right.
        continues (`bool`, *optional*, defaults to `False`):
            Whether each iteration fine-tunes the last one's model, and not the one that the first started from.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train.
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            Quantization of the model that is fine-tuned.
    """

    trace_set: TraceSetName
    args: SCoReConfig
    dataset: "Dataset | IterableDataset"
    reward_func: RewardFunc
    learns_right_turn_1: bool = False
    continues: bool = False
    peft_config: "PeftConfig | None" = None
    quantization_config: "BitsAndBytesConfig | None" = None

    def check(self) -> None:
        """
        Refuses what can be seen to be wrong before a model is loaded.

        Raises:
            `ValueError`: If the dataset lacks a column, its rows or its length, or the configuration asks for what
                sampling traces cannot do.
        """
        args = self.args
        if not isinstance(self.dataset, Dataset):
            raise ValueError(
                f"Traces are drawn from a dataset of known length, got {type(self.dataset).__name__}. Load it without "
                "`dataset_streaming`."
            )
        if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:
            raise ValueError(
                "Traces are sampled from a model that each process holds whole, got ZeRO-3, which shards it. Use "
                "ZeRO-1 or ZeRO-2."
            )
        if args.resume_from_checkpoint:
            raise ValueError(
                f"A method of traces cannot be resumed, got `resume_from_checkpoint={args.resume_from_checkpoint!r}`. "
                "Run it anew."
            )
        check_dataset(self.dataset, args)
        check_rewards(self.reward_func, self.dataset)


def fine_tune_on_traces(start_path: str, budgets: Sequence[Budget], tuning: FineTuning) -> Spent:
    """
    Samples and fine-tunes once for each budget, and writes every trace set and every model.

    The last model goes to `output_dir`, those before it to `output_dir/iteration_1` and so on, each with its log; the
    trace sets to `output_dir/traces`, as JSON lines. A collective operation: every process is to call it.

    Args:
        start_path (`str`):
            The model, or adapter, that the first iteration samples with.
        budgets (`Sequence[Budget]`):
            What each iteration may spend.
        tuning (`FineTuning`):
            The rest.

    Returns:
        `Spent`: the answers that were sampled and the updates that were made.

    Raises:
        `ValueError`: If something is wrong from the start (`FineTuning.check`), or an iteration finds no trace to learn
            from.
    """
    tuning.check()
    _check_fit(start_path, tuning)
    output_dir = Path(cast(str, tuning.args.output_dir))
    path, spent = start_path, Spent(0, 0)
    for number, budget in enumerate(budgets, start=1):
        traces = _sample(path, budget, number, tuning)
        chosen = make_trace_set(tuning.trace_set, traces, seed=f"{tuning.args.seed}-{number}")
        logger.info("Iteration %d: %d of %d traces are in %s.", number, len(chosen), len(traces), tuning.trace_set)
        if PartialState().is_main_process:
            _write_traces(output_dir / "traces" / f"{tuning.trace_set}_{number}.jsonl", chosen, tuning)
        folder = output_dir if number == len(budgets) else output_dir / f"iteration_{number}"
        updates = _fine_tune(path if tuning.continues else start_path, str(folder), chosen, budget, tuning)
        spent += Spent(answers=2 * len(traces), updates=updates)
        path = str(folder)
    return spent


def load_trainable(path: str, args: SCoReConfig) -> "str | PeftModel":
    """
    Gives a model as TRL's trainers take it: by its path, or, of an adapter, loaded and ready to be trained further.

    Args:
        path (`str`):
            A model or an adapter.
        args ([`SCoReConfig`]):
            With the arguments that models are loaded with.

    Returns:
        `str` or [`~peft.PeftModel`]: the path, or the adapter on its base.
    """
    if not is_adapter(path):
        return path
    kwargs = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    kwargs = {name: value for name, value in kwargs.items() if name != "revision"}  # the base's own is in the adapter
    return AutoPeftModelForCausalLM.from_pretrained(path, is_trainable=True, **kwargs)


def _check_fit(path: str, tuning: FineTuning) -> None:
    """Whether template and context take both turns, for which no weights are needed."""
    base = PeftConfig.from_pretrained(path).base_model_name_or_path if is_adapter(path) else path
    check_run(base, tuning.args, tuning.dataset, None, AutoTokenizer.from_pretrained(path))


def _sample(path: str, budget: Budget, number: int, tuning: FineTuning) -> list[Trace]:
    dataset = cast(Dataset, tuning.dataset)
    seed = f"{tuning.args.seed}-{number}"
    traces = sample_traces(
        load_model(path),
        AutoTokenizer.from_pretrained(path),
        dataset,
        draw_problems(len(dataset), budget, seed=seed),
        tuning.reward_func,
        tuning.args,
        seed=seed,
        progress=None if tuning.args.disable_tqdm else f"iteration {number}, sampling",
    )
    _free_memory()
    return traces


def _fine_tune(path: str, output_dir: str, chosen: Sequence[Trace], budget: Budget, tuning: FineTuning) -> int:
    rows = [fine_tuning_row(trace, learns_right_turn_1=tuning.learns_right_turn_1) for trace in chosen]
    args = fine_tuning_config(tuning.args, output_dir, budget)
    model = load_trainable(path, tuning.args)
    if not isinstance(model, str):
        args.model_init_kwargs = None  # it is loaded
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(path),
        quantization_config=tuning.quantization_config if isinstance(model, str) else None,
        peft_config=tuning.peft_config if isinstance(model, str) else None,
    )
    trainer.train()
    trainer.save_model(output_dir)
    trainer.save_state()
    updates = int(trainer.state.global_step)
    trainer.accelerator.wait_for_everyone()  # the next iteration reads on every process what the first one wrote
    del trainer, model
    _free_memory()
    return updates


def _write_traces(path: Path, chosen: Sequence[Trace], tuning: FineTuning) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(list(trace_rows(tuning.trace_set, chosen, tuning.dataset))).to_json(path, force_ascii=False)


def _free_memory() -> None:
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()
