"""
What `trl-score cloud` and examples/train_cloud.py run: CLoud from options to a saved model, and what it has learned.

The options are in `trl_score.programs.options`; `main` takes them as TRL's scripts do.
"""

import json
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset, DatasetDict
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

import trl_score
from trl_score.cloud.cloud_config import CLoudRewardConfig
from trl_score.cloud.cloud_trainer import CLoudRewardTrainer
from trl_score.cloud.prompts import as_conversation
from trl_score.cloud.scorer import CLoudScorer, CritiqueReward
from trl_score.cloud.stages import SFT_FOLDER, train_stages
from trl_score.data import critique_task
from trl_score.metrics.preference import pairwise_accuracy
from trl_score.programs.inputs import choose_split, load_named_dataset, model_init_kwargs, model_path
from trl_score.programs.options import QUIZ, CLoudScriptArguments
from trl_score.programs.parser import option_classes
from trl_score.programs.run import TrainingErrors

LABELS = {
    "model": "the model",
    "classic": "classic (no critique)",
    "cloud_off_policy": "CLoud, off-policy",
    "cloud_on_policy": "CLoud, on-policy",
}


@dataclass(frozen=True)
class Trained:
    """A trained model: its folder, and the seconds that its training took from the base on."""

    folder: Path
    seconds: float


@dataclass(frozen=True)
class Scored:
    """What a model made of the held-out pairs, and the seconds that took."""

    chosen: list[CritiqueReward]
    rejected: list[CritiqueReward]
    seconds: float


def main(script_args: CLoudScriptArguments, training_args: CLoudRewardConfig, model_args: ModelConfig) -> None:
    """Trains, saves, and shows what was learned."""
    transformers.logging.disable_progress_bar()  # of loading and saving weights
    check_compare(script_args, training_args, model_args)
    datasets = load_datasets(script_args, training_args)
    training_args.model_init_kwargs = model_init_kwargs(model_args, training_args.model_init_kwargs)
    recipe = Recipe(script_args, training_args, model_args, datasets)
    trained = recipe.train_all() if script_args.compare else {"model": recipe.train(training_args)}
    trainer = recipe.last_trainer
    if script_args.final_eval_size and trainer.accelerator.is_main_process:
        pairs = choose_split(datasets, script_args.dataset_test_split)
        report(trained, pairs.select(range(min(script_args.final_eval_size, len(pairs)))), script_args, training_args)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.print(f"Model saved to {trainer.args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}")


def check_compare(script_args: CLoudScriptArguments, training_args: CLoudRewardConfig, model_args: ModelConfig) -> None:
    """Refuses a comparison that this script cannot make."""
    if script_args.compare and training_args.stage != "both":
        raise ValueError(
            f"`--compare` goes with `--stage both`, got {training_args.stage!r}. The off-policy model starts from the "
            "critique SFT of the on-policy one."
        )
    if script_args.compare and model_args.use_peft:
        raise ValueError(
            "`--compare` trains whole models, got `--use_peft`. Train the baselines one by one: `--stage classic`, and "
            "`--stage joint` on the oracle's critiques."
        )


class Recipe:
    """Trains the models that are asked for, from one base on one dataset."""

    def __init__(
        self,
        script_args: CLoudScriptArguments,
        training_args: CLoudRewardConfig,
        model_args: ModelConfig,
        datasets: DatasetDict | dict[str, Dataset],
    ) -> None:
        self.base = model_path(model_args, QUIZ, critique_task.critique_base_path)
        self.script_args, self.args, self.model_args = script_args, training_args, model_args
        self.train_dataset = choose_split(datasets, script_args.dataset_train_split)
        wants_eval = training_args.eval_strategy != "no"
        self.eval_dataset = choose_split(datasets, script_args.dataset_test_split) if wants_eval else None
        self.stopwatch, self.errors = Stopwatch(), TrainingErrors()
        self.last_trainer: CLoudRewardTrainer

    def train(self, args: CLoudRewardConfig, model: str | None = None) -> Trained:
        """Trains what `args.stage` says, from `model` or the base."""
        start = time.perf_counter()
        self.stopwatch.name = Path(str(args.output_dir)).name
        with self.errors:
            self.last_trainer = train_stages(
                model or self.base,
                args,
                self.train_dataset,
                self.eval_dataset,
                peft_config=get_peft_config(self.model_args),
                quantization_config=get_quantization_config(self.model_args),
                resume=bool(args.resume_from_checkpoint),
                callbacks=[self.stopwatch, self.errors],
            )
        return Trained(Path(self.last_trainer.args.output_dir), time.perf_counter() - start)

    def train_all(self) -> dict[str, Trained]:
        """Trains the classic model, CLoud as in the paper, and CLoud whose joint stage reads the oracle's critiques."""
        root = Path(str(self.args.output_dir))
        own = {"stage": "classic", "output_dir": str(root / "classic"), "sft_options": None}
        given = self.script_args.classic_options if isinstance(self.script_args.classic_options, dict) else {}
        classic = self.train(replace(self.args, **{**given, **own}))
        self.stopwatch.seconds.clear()
        folder: dict[str, Any] = {"output_dir": str(root / "on_policy")}
        on_policy = self.train(replace(self.args, **folder))
        seconds_sft, _ = self.stopwatch.seconds
        trainer = self.last_trainer
        off_policy_args = self.args.joint_stage(str(root / "off_policy"))
        off_policy = self.train(off_policy_args, str(root / "on_policy" / SFT_FOLDER))
        self.last_trainer = trainer
        return {
            "classic": classic,
            "cloud_off_policy": replace(off_policy, seconds=seconds_sft + off_policy.seconds),
            "cloud_on_policy": on_policy,
        }


class Stopwatch(TrainerCallback):
    """
    Announces each training and takes its time.

    Attributes:
        name (`str`):
            What the model is called whose training comes next.
        seconds (`list[float]`):
            How long each training took.
    """

    def __init__(self) -> None:
        self.name = ""
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts."""
        self._start = time.perf_counter()
        if state.is_world_process_zero:
            print(f"\n{self.name}, stage {args.stage}: {state.max_steps} steps", flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops."""
        self.seconds.append(time.perf_counter() - self._start)


def load_datasets(
    script_args: CLoudScriptArguments, training_args: CLoudRewardConfig
) -> DatasetDict | dict[str, Dataset]:
    """Loads the embedded task, a dataset of the Hub, or local files."""
    if script_args.dataset_name is None:
        raise ValueError("`--dataset_name` is needed: a name on the Hub, a folder, a .jsonl file, or 'quiz'.")
    if script_args.dataset_name == QUIZ:
        return {
            script_args.dataset_train_split: critique_task.critique_dataset(
                script_args.train_size, seed=training_args.seed, split="train"
            ),
            script_args.dataset_test_split: critique_task.critique_dataset(
                max(script_args.final_eval_size, 256), seed=0, split="eval"
            ),
        }
    return load_named_dataset(script_args)


def report(
    trained: dict[str, Trained], pairs: Dataset, script_args: CLoudScriptArguments, args: CLoudRewardConfig
) -> None:
    """Scores held-out pairs with each model: some critiques, a table, and summary.json."""
    scored = {name: score_pairs(model, pairs, args, num_critiques=1) for name, model in trained.items()}
    best = list(trained)[-1]
    averaged = f"{best}_{script_args.num_averaged}"
    seconds = {name: model.seconds for name, model in trained.items()}
    if script_args.num_averaged > 1 and scored[best].chosen[0].critiques:
        scored[averaged] = score_pairs(trained[best], pairs, args, num_critiques=script_args.num_averaged)
        seconds[averaged] = seconds[best]
    summary: dict[str, Any] = {name: summarize(result, seconds[name]) for name, result in scored.items()}
    summary |= {
        "seed": args.seed,
        "num_pairs": len(pairs),
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, trl, trl_score)},
        },
    }
    path = Path(str(args.output_dir)) / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    console = Console()
    print_critiques(console, pairs, scored[best])
    print_table(console, summary, script_args.num_averaged)
    console.print(f"Numbers: {path}")


def score_pairs(model: Trained, pairs: Dataset, args: CLoudRewardConfig, *, num_critiques: int) -> Scored:
    """Scores both responses of every pair with one model."""
    start = time.perf_counter()
    scorer = CLoudScorer.from_pretrained(
        model.folder,
        num_critiques=num_critiques,
        max_new_tokens=args.max_critique_length,
        batch_size=args.per_device_eval_batch_size,
        seed=args.seed,
    )
    conversations = [as_conversation(row.get("prompt"), row[side]) for side in ("chosen", "rejected") for row in pairs]
    results = scorer(conversations)
    return Scored(results[: len(pairs)], results[len(pairs) :], time.perf_counter() - start)


def summarize(scored: Scored, seconds_training: float) -> dict[str, Any]:
    """The accuracy with its interval, and the seconds of training and scoring together."""
    rewards = [[result.reward for result in side] for side in (scored.chosen, scored.rejected)]
    return {
        "accuracy": pairwise_accuracy(*rewards).as_dict(),
        "seconds": round(seconds_training + scored.seconds, 1),
        "seconds_scoring": round(scored.seconds, 1),
        "truncated": sum(result.is_truncated for side in (scored.chosen, scored.rejected) for result in side),
    }


def print_table(console: Console, summary: dict[str, Any], num_averaged: int) -> None:
    """Prints accuracies with their 95% intervals, and times; fits into 80 columns."""
    title = f"{summary['num_pairs']} held-out pairs"
    table = Table(title=title, title_justify="left", box=HORIZONTALS)
    for column in ("", "accuracy", "95% interval", "train s", "score s"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, row in summary.items():
        if isinstance(row, dict) and "accuracy" in row:
            value, low, high = (100 * row["accuracy"][bound] for bound in ("value", "low", "high"))
            seconds = (f"{row['seconds'] - row['seconds_scoring']:.0f}", f"{row['seconds_scoring']:.0f}")
            table.add_row(label_of(name, num_averaged), f"{value:.1f}", f"{low:.1f}-{high:.1f}", *seconds)
    console.print(table)


def label_of(name: str, num_averaged: int) -> str:
    """What the table calls a model."""
    base = name.removesuffix(f"_{num_averaged}")
    return LABELS[base] if base == name else f"{LABELS[base]}, N = {num_averaged}"


def print_critiques(console: Console, pairs: Dataset, scored: Scored, num_each: int = 1) -> None:
    """Prints a pair that was ordered rightly, and one that was not, with what the critiques said."""
    if not scored.chosen[0].critiques:
        return
    table = Table(title="Critiques on held-out pairs", title_justify="left", box=HORIZONTALS, show_lines=True)
    for column in ("", "prompt", "response", "critique", "reward"):
        table.add_column(column)
    is_right = [
        chosen.reward > rejected.reward for chosen, rejected in zip(scored.chosen, scored.rejected, strict=True)
    ]
    for outcome in (True, False):
        for index in [index for index, right in enumerate(is_right) if right == outcome][:num_each]:
            for side, result in (("chosen", scored.chosen[index]), ("rejected", scored.rejected[index])):
                *asked, response = as_conversation(pairs[index].get("prompt"), pairs[index][side])
                texts = (asked[-1]["content"], response["content"], result.critiques[0], f"{result.reward:.2f}")
                table.add_row(f"{side}\n({'right' if outcome else 'wrong'})", *texts)
    console.print(table)


def make_parser() -> TrlParser:
    """Makes the parser: script, CLoud and model arguments, YAML by `--config`."""
    return TrlParser(option_classes("cloud"))
