"""Train and measure one of the methods that SCoRe is compared with, on what a SCoRe run is trained on.

The same configuration as `train_score.py` takes, and a method by name (docs/baselines.md, or `--help`):

    accelerate launch examples/train_baseline.py --method star_plus --config examples/configs/adder.yaml \
        --seed 0 --output_dir runs/star_plus

The output folder gets the model, its log (`trainer_state.json`), `summary.json` with base and result, their records
(`records_base.jsonl`, `records.jsonl`, `records_sampled.jsonl`), and the traces, for a method that learns from such.
"""

import copy
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset
from rich.console import Console
from train_score import (
    EMBEDDED,
    METRICS,
    SCoReScriptArguments,
    choose_split,
    evaluate_stage,
    load_datasets,
    load_reward_funcs,
    load_trained_adapter,
)
from transformers import AutoTokenizer, ProgressCallback
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

import trl_score
from trl_score import SCoReConfig, SCoReTrainer
from trl_score.baselines.budget import Budget, Schedule
from trl_score.baselines.methods import METHODS, Method, find_method
from trl_score.baselines.self_refine import (
    CRITIQUE_PROMPT,
    REFINE_PROMPT,
    SelfRefineEvaluation,
    evaluate_self_refine,
)
from trl_score.callbacks import TurnProgress
from trl_score.data import adder
from trl_score.evaluation import Evaluation, load_model

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

logger = get_logger(__name__)


@dataclass
class BaselineScriptArguments(SCoReScriptArguments):
    """
    Script arguments of the baselines, beside those of `train_score.py`.

    Args:
        method (`str`):
            The method's name.
        critique_prompt (`str`, *optional*):
            Self-Refine: what is asked after the answer. By default our own wording; on the embedded task, whose model
            knows no other words, the correction prompt.
        refine_prompt (`str`, *optional*):
            Self-Refine: what is asked after the critique, likewise.
    """

    method: str = field(default="", metadata={"help": f"One of {', '.join(METHODS)}."})
    critique_prompt: str | None = field(
        default=None,
        metadata={"help": "Self-Refine: what is asked after the answer. Embedded task: the correction prompt."},
    )
    refine_prompt: str | None = field(
        default=None,
        metadata={"help": "Self-Refine: what is asked after the critique. Embedded task: the correction prompt."},
    )
    final_eval_size: int = field(
        default=0, metadata={"help": "Problems of the test split to measure on. 0: all of them."}
    )


@dataclass(frozen=True)
class Task:
    """
    What all methods have in common.

    Args:
        base_path (`str`): The base model.
        train_dataset (`Dataset`): Its training problems.
        problems (`Dataset`): The problems to measure on.
        reward_funcs (`list[Callable]`): Rewards; the first says whether a turn is right.
        script_args, args, model_args: The run's configuration, the method's changes in it.
    """

    base_path: str
    train_dataset: Dataset
    problems: Dataset
    reward_funcs: list[Callable[..., Any]]
    script_args: BaselineScriptArguments
    args: SCoReConfig
    model_args: ModelConfig


def main(script_args: BaselineScriptArguments, training_args: SCoReConfig, model_args: ModelConfig) -> None:
    """Trains with one method, and measures base and result."""
    method = find_method(script_args.method)
    transformers.logging.disable_progress_bar()  # of loading and saving weights
    task = load_task(script_args, with_changes(training_args, method), model_args)
    start = time.perf_counter()
    spent = train(method, task)
    seconds = time.perf_counter() - start
    state = PartialState()
    if state.is_main_process:
        report(method, task, spent, seconds)
    state.wait_for_everyone()


def with_changes(args: SCoReConfig, method: Method) -> SCoReConfig:
    """Gives a copy of a configuration with a method's changes in it."""
    changed = copy.copy(args)
    for name, value in method.changes.items():
        setattr(changed, name, value)
    return changed


def load_task(script_args: BaselineScriptArguments, args: SCoReConfig, model_args: ModelConfig) -> Task:
    """Loads data and rewards; no model yet."""
    name = model_args.model_name_or_path
    datasets = load_datasets(script_args, args)
    problems = choose_split(datasets, script_args.dataset_test_split)
    size = script_args.final_eval_size or len(problems)
    args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(args.model_init_kwargs or {}),
    }
    return Task(
        base_path=str(adder.adder_base_path()) if name == EMBEDDED else name,
        train_dataset=choose_split(datasets, script_args.dataset_train_split),
        problems=problems.select(range(min(size, len(problems)))),
        reward_funcs=load_reward_funcs(script_args.reward_funcs),
        script_args=script_args,
        args=args,
        model_args=model_args,
    )


def train(method: Method, task: Task) -> Budget:
    """Trains by a method, writes the model to the output folder, and says what was spent."""
    if method.kind == "measured":
        return Budget(updates=0, prompts=0, group_size=task.args.num_generations)
    if method.kind == "score":
        return train_score(task)
    raise NotImplementedError(f"{method.name} is not built yet.")


def train_score(task: Task) -> Budget:
    """Trains with SCoReTrainer, as `train_score.py` does."""
    args = task.args
    is_adapter = (Path(task.base_path) / "adapter_config.json").is_file()
    trainer = SCoReTrainer(
        model=load_trained_adapter(task.base_path, args) if is_adapter else task.base_path,
        processing_class=AutoTokenizer.from_pretrained(task.base_path) if is_adapter else None,
        reward_funcs=task.reward_funcs,
        args=args,
        train_dataset=task.train_dataset,
        quantization_config=get_quantization_config(task.model_args),
        peft_config=None if is_adapter else get_peft_config(task.model_args),
    )
    trainer.remove_callback(ProgressCallback)
    if not args.disable_tqdm:
        trainer.add_callback(TurnProgress())
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    trainer.save_state()
    return schedule_of(task).budget_of_updates(trainer.state.global_step)


def schedule_of(task: Task) -> Schedule:
    """Says when the SCoRe run makes rollouts and when it updates."""
    has_length = isinstance(task.train_dataset, Dataset)
    return Schedule.of(task.args, len(task.train_dataset) if has_length else None)


def report(method: Method, task: Task, spent: Budget, seconds_training: float) -> None:
    """Measures base and result, writes records and summary.json, and prints the table."""
    folder = Path(task.args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    reward_func = task.reward_funcs[0]
    base = evaluate_stage(task.base_path, task.problems, reward_func, task.args, "base")
    if method.name == "self_refine":
        trained = evaluate_refined(task)
    elif method.kind == "measured":
        trained = base
    else:
        trained = evaluate_stage(str(folder), task.problems, reward_func, task.args, method.name)
    write_records(folder / "records_base.jsonl", base["greedy"])
    write_records(folder / "records.jsonl", trained["greedy"])
    write_records(folder / "records_sampled.jsonl", trained["sampled"])
    summary: dict[str, Any] = {
        name: {
            decoding: {metric: evaluation.metrics[metric].as_dict() for metric in METRICS}
            for decoding, evaluation in by_decoding.items()
        }
        for name, by_decoding in (("base", base), ("trained", trained))
    }
    summary |= {
        "method": method.name,
        "samples": spent.answers,
        "updates": spent.updates,
        "seed": task.args.seed,
        "num_problems": len(task.problems),
        "seconds": {"training": round(seconds_training, 1), "evaluation": round(time.perf_counter() - start, 1)},
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, trl, trl_score)},
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print_summary(method, summary, folder)


def evaluate_refined(task: Task) -> dict[str, Evaluation]:
    """Measures Self-Refine greedily and sampled."""
    args, script_args = task.args, task.script_args
    is_embedded = task.model_args.model_name_or_path == EMBEDDED
    model = load_model(task.base_path)
    tokenizer = AutoTokenizer.from_pretrained(task.base_path)
    budget_t1, budget_t2 = args.turn_budgets
    return {
        decoding: evaluate_self_refine(
            model,
            tokenizer,
            task.problems,
            task.reward_funcs[0],
            max_completion_length=(budget_t1, budget_t2, budget_t2),
            critique_prompt=script_args.critique_prompt or (args.correction_prompt if is_embedded else CRITIQUE_PROMPT),
            refine_prompt=script_args.refine_prompt or (args.correction_prompt if is_embedded else REFINE_PROMPT),
            do_sample=decoding == "sampled",
            temperature=args.temperature,
            batch_size=args.per_device_eval_batch_size,
            seed=args.seed,
            progress=f"self_refine, {decoding}",
            chat_template_kwargs=args.chat_template_kwargs,
        )
        for decoding in ("greedy", "sampled")
    }


def write_records(path: Path, evaluation: Evaluation) -> None:
    """Writes a line of JSON for each problem."""
    has_critiques = isinstance(evaluation, SelfRefineEvaluation)
    records = evaluation.record_dicts() if has_critiques else [record.as_dict() for record in evaluation.records]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def print_summary(method: Method, summary: dict[str, Any], folder: Path) -> None:
    """Prints the figures of base and result."""
    console = Console()
    for name, label in (("base", "base"), ("trained", method.name)):
        for decoding, metrics in summary[name].items():
            values = (f"{metric} {100 * metrics[metric]['value']:.1f}" for metric in METRICS[:5])
            console.print(f"{label}, {decoding}: {', '.join(values)}")
    console.print(f"{summary['samples']} answers, {summary['updates']} updates. Numbers: {folder / 'summary.json'}")


def make_parser() -> TrlParser:
    """Makes the parser: script, SCoRe and model arguments, YAML by `--config`."""
    return TrlParser((BaselineScriptArguments, SCoReConfig, ModelConfig))


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config(sys.argv[1:], fail_with_unknown_args=True))
