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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer, ProgressCallback, Trainer
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

import trl_score
from trl_score import SCoReConfig, SCoReTrainer
from trl_score.baselines.budget import Budget, Schedule, Spent
from trl_score.baselines.fine_tuning import FineTuning, fine_tune_on_traces, load_trainable
from trl_score.baselines.methods import METHODS, Method, find_method
from trl_score.baselines.self_refine import (
    CRITIQUE_PROMPT,
    REFINE_PROMPT,
    SelfRefineEvaluation,
    evaluate_self_refine,
)
from trl_score.baselines.single_turn import check_single_turn, single_turn_trainer
from trl_score.data import adder
from trl_score.evaluation import Evaluation, load_model
from trl_score.evaluation.tables import print_self_correction_tables
from trl_score.exit_codes import run_guarded
from trl_score.programs.inputs import choose_split, model_init_kwargs
from trl_score.programs.options import ADDER, SCoReScriptArguments
from trl_score.programs.run import TrainingErrors
from trl_score.programs.score import METRICS, evaluate_stage, load_datasets, load_reward_funcs
from trl_score.tracking import RunTracker

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

logger = get_logger(__name__)


@dataclass
class BaselineScriptArguments(SCoReScriptArguments):
    """
    Script arguments of the baselines, beside those of `train_score.py`.

    Args:
        method (`str`):
            The method's name.
        learn_right_turn_1 (`bool`, *optional*, defaults to `False`):
            Methods of traces: whether turn 1 is learned from too where it is right. By default turn 2 alone is.
        star_continues (`bool`, *optional*, defaults to `False`):
            STaR: whether each iteration fine-tunes the last one's model. By default it is the one to begin with.
        critique_prompt (`str`, *optional*):
            Self-Refine: what is asked after the answer. By default our own wording; on the embedded task, whose model
            knows no other words, the correction prompt.
        refine_prompt (`str`, *optional*):
            Self-Refine: what is asked after the critique, likewise.
    """

    method: str = field(default="", metadata={"help": f"One of {', '.join(METHODS)}."})
    learn_right_turn_1: bool = field(
        default=False, metadata={"help": "Methods of traces: learn from turn 1 too where it is right."}
    )
    star_continues: bool = field(
        default=False,
        metadata={"help": "STaR: fine-tune the last iteration's model each time, and not the one to begin with."},
    )
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
        eval_dataset (`Dataset`): The test split.
        problems (`Dataset`): The problems of it to measure on.
        reward_funcs (`list[Callable]`): Rewards; the first says whether a turn is right.
        script_args, args, model_args: The run's configuration, the method's changes in it.
    """

    base_path: str
    train_dataset: Dataset
    eval_dataset: Dataset
    problems: Dataset
    reward_funcs: list[Callable[..., Any]]
    script_args: BaselineScriptArguments
    args: SCoReConfig
    model_args: ModelConfig


def main(script_args: BaselineScriptArguments, training_args: SCoReConfig, model_args: ModelConfig) -> None:
    """Trains with one method, and measures base and result."""
    method = find_method(script_args.method)
    transformers.logging.disable_progress_bar()  # of loading and saving weights
    disable_progress_bars()  # of making rows into datasets
    changes = {**method.changes, "push_to_hub": False}  # what is compared with is not published
    task = load_task(script_args, with_changes(training_args, changes), model_args)
    check(method, task)
    start = time.perf_counter()
    with TrainingErrors(has_begun=True):
        spent = train(method, task)
    seconds = time.perf_counter() - start
    state = PartialState()
    if state.is_main_process:
        report(method, task, spent, seconds)
    state.wait_for_everyone()


def with_changes(args: SCoReConfig, changes: Mapping[str, Any]) -> SCoReConfig:
    """Gives a copy of a configuration with changes in it."""
    changed = copy.copy(args)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def load_task(script_args: BaselineScriptArguments, args: SCoReConfig, model_args: ModelConfig) -> Task:
    """Loads data and rewards; no model yet."""
    name = model_args.model_name_or_path
    datasets = load_datasets(script_args, args)
    eval_dataset = choose_split(datasets, script_args.dataset_test_split)
    if not isinstance(eval_dataset, Dataset):
        raise ValueError(
            f"Measuring needs a test split of known length, got {type(eval_dataset).__name__}. Load it without "
            "`dataset_streaming`."
        )
    size = script_args.final_eval_size or len(eval_dataset)
    args.model_init_kwargs = model_init_kwargs(model_args, args.model_init_kwargs)
    return Task(
        base_path=str(adder.adder_base_path()) if name == ADDER else name,
        train_dataset=choose_split(datasets, script_args.dataset_train_split),
        eval_dataset=eval_dataset,
        problems=eval_dataset.select(range(min(size, len(eval_dataset)))),
        reward_funcs=load_reward_funcs(script_args.reward_funcs),
        script_args=script_args,
        args=args,
        model_args=model_args,
    )


def check(method: Method, task: Task) -> None:
    """Refuses what can be seen to be wrong before a model is loaded."""
    args = task.args
    if method.kind != "score" and args.offline_turn_1_column is not None:
        raise ValueError(
            f"{method.name} makes its first turns itself, got `offline_turn_1_column={args.offline_turn_1_column!r}`. "
            "Leave it out, for the SCoRe run that is compared too."
        )
    if method.kind == "single_turn":
        check_single_turn(args, task.train_dataset.column_names)
    if method.kind == "traces":
        tuning_of(method, task).check()
        budgets_of_traces(method, task)


def train(method: Method, task: Task) -> Spent:
    """Trains by a method, writes the model to the output folder, and says what was spent."""
    if method.kind == "score":
        return train_score(task, task.args)
    if method.kind == "single_turn":
        return train_single_turn(task)
    if method.kind == "traces":
        return train_on_traces(method, task)
    return Spent(answers=0, updates=0)


def train_score(task: Task, args: SCoReConfig) -> Spent:
    """Trains with SCoReTrainer, as `train_score.py` does."""
    model = load_trainable(task.base_path, args)
    if not isinstance(model, str):
        args.model_init_kwargs = None
    trainer = SCoReTrainer(
        model=model,
        processing_class=None if isinstance(model, str) else AutoTokenizer.from_pretrained(task.base_path),
        reward_funcs=task.reward_funcs,
        args=args,
        train_dataset=task.train_dataset,
        eval_dataset=task.eval_dataset if args.eval_strategy != "no" else None,
        quantization_config=get_quantization_config(task.model_args),
        peft_config=get_peft_config(task.model_args) if isinstance(model, str) else None,
        callbacks=[RunTracker()],
    )
    finish_training(trainer, args)
    budget = schedule_of(task).budget_of_updates(trainer.state.global_step)
    return Spent(budget.answers, budget.updates)


def train_single_turn(task: Task) -> Spent:
    """Trains turn 1 alone with TRL's RLOOTrainer."""
    model = load_trainable(task.base_path, task.args)
    trainer = single_turn_trainer(
        model,
        task.reward_funcs,
        task.args,
        task.train_dataset,
        processing_class=None if isinstance(model, str) else AutoTokenizer.from_pretrained(task.base_path),
        quantization_config=get_quantization_config(task.model_args),
        peft_config=get_peft_config(task.model_args) if isinstance(model, str) else None,
    )
    trainer.remove_callback(ProgressCallback)
    finish_training(trainer, task.args)
    budget = Schedule.of(trainer.args, num_rows(task)).budget_of_updates(trainer.state.global_step)
    return Spent(budget.rollouts, budget.updates)  # an answer is a whole rollout here


def finish_training(trainer: Trainer, args: SCoReConfig) -> None:
    """Trains and saves."""
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    trainer.save_state()


def train_on_traces(method: Method, task: Task) -> Spent:
    """Samples traces and fine-tunes on them, after Stage I where the method says so."""
    start_path, spent = task.base_path, Spent(answers=0, updates=0)
    if method.follows_stage_1:
        args = with_changes(task.args, stage_1_changes(task))
        spent, start_path = train_score(task, args), args.output_dir
    return spent + fine_tune_on_traces(start_path, budgets_of_traces(method, task), tuning_of(method, task))


def tuning_of(method: Method, task: Task) -> FineTuning:
    """Collects what a method of traces is given."""
    return FineTuning(
        trace_set=method.trace_set,
        args=task.args,
        dataset=task.train_dataset,
        reward_func=task.reward_funcs[0],
        learns_right_turn_1=task.script_args.learn_right_turn_1,
        continues=task.script_args.star_continues,
        peft_config=get_peft_config(task.model_args),
        quantization_config=get_quantization_config(task.model_args),
    )


def budgets_of_traces(method: Method, task: Task) -> list[Budget]:
    """Shares out what a SCoRe run spends, or what its Stage II spends, among the iterations."""
    schedule = schedule_of(task)
    budget = schedule.budget(task.args.max_steps, task.args.num_train_epochs)
    if method.follows_stage_1:
        if task.args.stage != "both":
            raise ValueError(
                f"{method.name} takes the place of Stage II in a run of both stages, got `stage={task.args.stage!r}`. "
                "Use the configuration of such a run."
            )
        stage_1_updates = stage_1_changes(task)["max_steps"]
        if stage_1_updates < 1:
            raise ValueError(
                f"{method.name} needs at least one update of Stage I, got `stage_1_steps={task.args.stage_1_steps}`. "
                "Raise it."
            )
        budget -= schedule.budget_of_updates(stage_1_updates)
    return budget.split(method.iterations)


def stage_1_changes(task: Task) -> dict[str, Any]:
    """What makes a run of both stages a run of its Stage I."""
    updates = schedule_of(task).budget(task.args.max_steps, task.args.num_train_epochs).updates
    folder = Path(task.args.output_dir) / "stage_1"
    return {"stage": "1", "max_steps": task.args.num_stage_1_steps(updates), "output_dir": str(folder)}


def schedule_of(task: Task) -> Schedule:
    """Says when the SCoRe run makes rollouts and when it updates."""
    return Schedule.of(task.args, num_rows(task))


def num_rows(task: Task) -> int | None:
    """Rows of the training set, where its length is known."""
    return len(task.train_dataset) if isinstance(task.train_dataset, Dataset) else None


def report(method: Method, task: Task, spent: Spent, seconds_training: float) -> None:
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
    rows = {"base": summary["base"], method.name: summary["trained"]}
    print_self_correction_tables(rows, num_problems=len(task.problems))
    print(f"{spent.answers} answers, {spent.updates} updates. Numbers: {folder / 'summary.json'}")


def evaluate_refined(task: Task) -> dict[str, Evaluation]:
    """Measures Self-Refine greedily and sampled."""
    args, script_args = task.args, task.script_args
    is_embedded = task.model_args.model_name_or_path == ADDER
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


def make_parser() -> TrlParser:
    """Makes the parser: script, SCoRe and model arguments, YAML by `--config`."""
    return TrlParser((BaselineScriptArguments, SCoReConfig, ModelConfig))


def run() -> int:
    """Does what the command line says."""
    main(*make_parser().parse_args_and_config(sys.argv[1:], fail_with_unknown_args=True))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(run, "train_baseline.py"))
