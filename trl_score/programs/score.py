"""
What `trl-score score` and examples/train_score.py run: SCoRe from options to a saved model, and what it has learned.

The options are in `trl_score.programs.options`; `main` takes them as TRL's scripts do.
"""

import importlib
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from accelerate.logging import get_logger
from datasets import Dataset, DatasetDict
from peft import AutoPeftModelForCausalLM, PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import find_adapter_config_file
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

import trl_score
from trl_score import SCoReConfig, SCoReTrainer
from trl_score.callbacks import CopyDetector, KLBudgetDetector, SandbaggingDetector, TruncationDetector
from trl_score.data import adder
from trl_score.evaluation import Evaluation, evaluate_self_correction, load_model
from trl_score.evaluation.tables import print_self_correction_tables
from trl_score.programs.inputs import choose_split, load_named_dataset, model_init_kwargs, model_path
from trl_score.programs.options import ADDER, SCoReScriptArguments
from trl_score.programs.parser import option_classes
from trl_score.programs.run import TrainingErrors
from trl_score.records import RewardFunc
from trl_score.tracking import RunTracker

logger = get_logger(__name__)

METRICS = ("accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i", "answers_changed")
STAGES = {"base": "base", "stage1": "after Stage I", "stage2": "after Stage II"}


def main(script_args: SCoReScriptArguments, training_args: SCoReConfig, model_args: ModelConfig) -> None:
    """Trains, saves, and shows what was learned."""
    start = time.perf_counter()
    transformers.logging.disable_progress_bar()  # of loading and saving weights
    base_path = model_path(model_args, ADDER, adder.adder_base_path)
    datasets = load_datasets(script_args, training_args)
    training_args.model_init_kwargs = model_init_kwargs(model_args, training_args.model_init_kwargs)
    reward_funcs = load_reward_funcs(script_args.reward_funcs)
    errors = TrainingErrors()
    trainer = make_trainer(base_path, datasets, reward_funcs, (script_args, training_args, model_args))
    trainer.add_callback(errors)
    with errors:
        trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    seconds_training = time.perf_counter() - start
    trainer.save_model(training_args.output_dir)
    trainer.save_state()
    if script_args.final_eval_size and trainer.accelerator.is_main_process:
        problems = choose_split(datasets, script_args.dataset_test_split)
        problems = problems.select(range(min(script_args.final_eval_size, len(problems))))
        report(trainer, base_path, problems, reward_funcs[0], seconds_training)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}")


def make_trainer(
    base_path: str,
    datasets: DatasetDict | dict[str, Dataset],
    reward_funcs: list[Callable[..., Any]],
    options: tuple[SCoReScriptArguments, SCoReConfig, ModelConfig],
) -> SCoReTrainer:
    """Makes the trainer, with its callbacks; an adapter at `base_path` is trained further."""
    script_args, training_args, model_args = options
    is_adapter = find_adapter_config_file(base_path) is not None  # such as Stage I's, to go on with in Stage II
    wants_eval = training_args.eval_strategy != "no"
    trainer = SCoReTrainer(
        model=load_trained_adapter(base_path, training_args) if is_adapter else base_path,
        processing_class=AutoTokenizer.from_pretrained(base_path) if is_adapter else None,
        reward_funcs=reward_funcs,
        args=training_args,
        train_dataset=choose_split(datasets, script_args.dataset_train_split),
        eval_dataset=choose_split(datasets, script_args.dataset_test_split) if wants_eval else None,
        quantization_config=get_quantization_config(model_args),
        peft_config=None if is_adapter else get_peft_config(model_args),
        callbacks=[CopyDetector(), SandbaggingDetector(), KLBudgetDetector(), TruncationDetector(), RunTracker()],
    )
    if is_adapter:
        trainer.tell_adapter(base_path)
    return trainer


def load_trained_adapter(path: str, training_args: SCoReConfig) -> PeftModel:
    """Loads an adapter, from a folder or the Hub, with its base, to train it further."""
    given: Any = training_args.model_init_kwargs or {}
    kwargs = {name: value for name, value in given.items() if name != "revision"}
    training_args.model_init_kwargs = None
    return AutoPeftModelForCausalLM.from_pretrained(path, is_trainable=True, **kwargs)


def load_datasets(script_args: SCoReScriptArguments, training_args: SCoReConfig) -> DatasetDict | dict[str, Dataset]:
    """Loads the embedded task, a dataset of the Hub, or local files."""
    if script_args.dataset_name is None:
        raise ValueError("`--dataset_name` is needed: a name on the Hub, a folder, a .jsonl file, or 'adder'.")
    if script_args.dataset_name == ADDER:
        return {
            script_args.dataset_train_split: adder.adder_dataset(
                script_args.train_size, seed=training_args.seed, split="train"
            ),
            script_args.dataset_test_split: adder.adder_dataset(
                max(script_args.final_eval_size, 256), seed=0, split="eval"
            ),
        }
    return load_named_dataset(script_args)


def load_reward_funcs(names: list[str] | None) -> list[Callable[..., Any]]:
    """Finds reward functions by name."""
    if not names:
        raise ValueError("`--reward_funcs` is needed: 'adder', or a dotted import path such as my_module.my_reward.")
    return [_load_reward_func(name) for name in names]


def _load_reward_func(name: str) -> Callable[..., Any]:
    if name == ADDER:
        return adder.adder_reward
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        raise ValueError(f"Reward function {name!r} is not known. Use 'adder', or a dotted import path.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks another one
        raise ValueError(f"Reward function {name!r}: there is no module {error.name!r} on the path.") from error
    if not hasattr(module, attribute):
        raise ValueError(f"Module {module_name!r} has no {attribute!r}; it has {', '.join(dir(module))}.")
    found = getattr(module, attribute)
    return found() if isinstance(found, type) else found


def report(
    trainer: SCoReTrainer, base_path: str, problems: Dataset, reward_func: RewardFunc, seconds_training: float
) -> None:
    """Compares base, Stage I and Stage II on held-out problems: a table, a figure, dialogues, and summary.json."""
    args = trainer.args
    folder = Path(args.output_dir)
    start = time.perf_counter()
    evaluations = {
        stage: evaluate_stage(path, problems, reward_func, args, STAGES[stage])
        for stage, path in stage_paths(trainer, base_path).items()
    }
    summary: dict[str, Any] = {
        stage: {
            decoding: {name: evaluation.metrics[name].as_dict() for name in METRICS}
            for decoding, evaluation in by_decoding.items()
        }
        for stage, by_decoding in evaluations.items()
    }
    summary |= {
        "seed": args.seed,
        "num_problems": len(problems),
        "seconds": {"training": round(seconds_training, 1), "evaluation": round(time.perf_counter() - start, 1)},
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, trl, trl_score)},
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_records(folder, evaluations)
    console = Console()
    last_stage = list(evaluations)[-1]
    print_dialogues(console, STAGES[last_stage], evaluations[last_stage]["greedy"])
    rows = {STAGES[stage]: summary[stage] for stage in evaluations}
    print_self_correction_tables(rows, num_problems=len(problems), console=console)
    figure = draw_figure(trainer.state.log_history, summary["base"]["sampled"], folder)
    console.print(f"Training {seconds_training:.0f} s, evaluation {summary['seconds']['evaluation']:.0f} s")
    console.print(f"Figure: {figure}   Numbers: {folder / 'summary.json'}")


def stage_paths(trainer: SCoReTrainer, base_path: str) -> dict[str, str]:
    """Finds the models to compare: the base, and the result of each stage that this run went through."""
    folder = trainer.args.output_dir
    if trainer.args.stage != "both":
        return {"base": base_path, f"stage{trainer.args.stage}": folder}
    stage_1 = Path(folder) / f"checkpoint-{trainer.num_stage_1_steps}"
    if not stage_1.is_dir():
        logger.warning(f"No checkpoint of Stage I in {stage_1} (not saved, or deleted since): it is left out.")
        return {"base": base_path, "stage2": folder}
    return {"base": base_path, "stage1": str(stage_1), "stage2": folder}


def evaluate_stage(
    path: str, problems: Dataset, reward_func: RewardFunc, args: SCoReConfig, label: str
) -> dict[str, Evaluation]:
    """Evaluates one model greedily and sampled."""
    model: PreTrainedModel = load_model(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    template_kwargs: Any = args.chat_template_kwargs
    return {
        decoding: evaluate_self_correction(
            model,
            tokenizer,
            problems,
            reward_func,
            max_completion_length=args.turn_budgets,
            correction_prompt=args.correction_prompt,
            do_sample=decoding == "sampled",
            temperature=args.temperature,
            batch_size=args.per_device_eval_batch_size,
            seed=args.seed,
            progress=f"{label}, {decoding}",
            chat_template_kwargs=template_kwargs,
        )
        for decoding in ("greedy", "sampled")
    }


def write_records(folder: Path, evaluations: dict[str, dict[str, Evaluation]]) -> None:
    """
    Writes what was answered, greedily and sampled, as `trl_score.plots` reads it.

    Of the base `records_base.jsonl` and `records_base_sampled.jsonl`, of Stage I the same with `stage1`, of the run's
    result `records.jsonl` and `records_sampled.jsonl`.
    """
    last_stage = list(evaluations)[-1]
    for stage, by_decoding in evaluations.items():
        for decoding, evaluation in by_decoding.items():
            parts = ["records"]
            parts += [stage] if stage != last_stage else []
            parts += [decoding] if decoding != "greedy" else []
            lines = (json.dumps(record.as_dict()) + "\n" for record in evaluation.records)
            (folder / f"{'_'.join(parts)}.jsonl").write_text("".join(lines))


def print_dialogues(console: Console, label: str, evaluation: Evaluation, num_each: int = 2) -> None:
    """Prints a few dialogues of each outcome."""
    table = Table("outcome", "problem", "turn 1", "turn 2", title=f"Dialogues {label} (greedy)", title_justify="left")
    for outcome in ("fixed", "broken", "wrong", "right"):
        for record in [record for record in evaluation.records if record.outcome == outcome][:num_each]:
            prompt = record.prompt if isinstance(record.prompt, str) else record.prompt[-1]["content"]
            table.add_row(outcome, prompt, *record.turns)
    console.print(table)


def draw_figure(log_history: list[dict[str, Any]], base: dict[str, Any], folder: Path) -> Path:
    """Draws the training curves of both turns through both stages, and where the base stood, sampled as in training."""
    from trl_score.plots import plot_training_curves, save_figure

    figure, _ = plot_training_curves(log_history, base=base)
    return save_figure(figure, folder / "training_curves.png")[0]


def make_parser() -> TrlParser:
    """Makes the parser: script, SCoRe and model arguments, YAML by `--config`."""
    return TrlParser(option_classes("score"))
