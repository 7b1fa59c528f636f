"""
`--dry_run`: checks options, data, templates and rewards, and says what a run will do and need. No weights are loaded,
and nothing is written to the output folder.
"""

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from peft import PeftConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils import find_adapter_config_file
from trl import ModelConfig, TrlParser, get_peft_config

from trl_score.programs.inputs import choose_split, model_init_kwargs, model_path
from trl_score.programs.memory import Batch, Precision, checkpoint_bytes, chunk_bytes, memory_need
from trl_score.programs.options import ADDER, QUIZ
from trl_score.programs.parser import option_classes
from trl_score.programs.processes import Processes
from trl_score.score.costs import Engine, ModelSize, logit_bytes

Plan = dict[str, dict[str, str]]
"""What a run will do: rows of name and value, by the title of their part."""


def dry_run(name: str, options: argparse.Namespace) -> int:
    """
    Checks a run and prints its plan.

    Args:
        name (`str`):
            `"score"` or `"cloud"`.
        options (`argparse.Namespace`):
            What the program's parser gave.

    Returns:
        `int`: The exit code.

    Raises:
        ValueError: If something is wrong.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    processes = Processes.of(options.launcher, getattr(options, "deepspeed", None))
    script_class, config_class, model_class = option_classes(name)
    planned = type(config_class.__name__, (config_class,), {"world_size": property(lambda self: processes.number)})
    classes: Any = (script_class, planned, model_class)
    parser = TrlParser(classes)
    parsed = parser.parse_dict(vars(options), allow_extra_keys=True)
    make_plan: Callable[..., Plan] = {"score": plan_of_score, "cloud": plan_of_cloud}[name]
    with without_progress_bars():
        try:
            plan = make_plan(*parsed, processes)
        except TypeError as error:  # a check's own sentence: a prompt that is neither a text nor messages
            raise ValueError(str(error)) from error
    if os.environ.get("RANK", "0") == "0":
        print_plan(plan)
    return 0


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hides the progress bars of datasets while it is open."""
    was_hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not was_hidden:
            enable_progress_bars()


def plan_of_score(script_args: Any, args: Any, model_args: ModelConfig, processes: Processes) -> Plan:
    """
    Checks a run of SCoRe as its trainer does before it loads a model, and calls each reward function.

    Args:
        script_args ([`SCoReScriptArguments`]):
            Data and rewards.
        args ([`SCoReConfig`]):
            The configuration, as each of the processes sees it.
        model_args ([`~trl.ModelConfig`]):
            The model.
        processes ([`Processes`]):
            Where it will run.

    Returns:
        `dict`: The plan.
    """
    from trl_score.baselines.budget import Schedule
    from trl_score.data import adder
    from trl_score.programs.score import load_datasets, load_reward_funcs
    from trl_score.score import preflight
    from trl_score.score.trainer_inputs import load_model_config, load_tokenizer

    path = model_path(model_args, ADDER, adder.adder_base_path)
    base, peft_config = start_of(path, model_args)
    datasets = load_datasets(script_args, args)
    args.model_init_kwargs = model_init_kwargs(model_args, args.model_init_kwargs)
    reward_funcs = load_reward_funcs(script_args.reward_funcs)
    train = choose_split(datasets, script_args.dataset_train_split)
    evaluated = choose_split(datasets, script_args.dataset_test_split) if args.eval_strategy != "no" else None
    preflight.check_engine(args, base, peft_config)
    tokenizer = load_tokenizer(path, args)
    settings = preflight.check_run(base, args, train, evaluated, tokenizer)
    preflight.check_rewards(reward_funcs, train)
    rows = preflight.first_rows(train)
    rewards = {f"reward {reward_name(func)}": try_reward(func, train) for func in reward_funcs}

    prompt_tokens = longest_prompt([row["prompt"] for row in rows], tokenizer, args)
    completion = max(settings.of(row).num_tokens for row in rows)
    budget = Schedule.of(args, num_rows(train)).budget(args.max_steps, args.num_train_epochs)
    stage_1 = min(args.num_stage_1_steps(budget.updates), budget.updates)
    has_copy = args.needs_reference and peft_config is None
    model = SizedModel.of(load_model_config(base, args), peft_config, args, model_args, processes.engine)
    num_scored = args.per_device_train_batch_size * completion
    batch = Batch(args.per_device_train_batch_size, prompt_tokens + completion, model.logits_of_score(num_scored))
    return {
        "Data": {
            "training prompts": count(num_rows(train)),
            "evaluation prompts": "none" if evaluated is None else count(num_rows(evaluated)),
            "longest prompt": f"{prompt_tokens:,} tokens",
            "longest rollout": f"{prompt_tokens + completion:,} tokens",
            **rewards,
        },
        "Run": {
            "processes": processes_text(processes),
            "optimizer steps": f"{budget.updates:,}: Stage I {stage_1:,}, Stage II {budget.updates - stage_1:,}",
            "rollouts": f"{budget.rollouts:,}, {args.num_generations} of each of {budget.prompts:,} prompts",
            "tokens at most": f"{budget.rollouts * (prompt_tokens + completion):,}",
        },
        "Disk": disk(args, model, processes, num_checkpoints(args, budget.updates) + (args.stage == "both")),
        **memory(args, model, processes, batch, has_reference_copy=has_copy),
    }


def longest_prompt(prompts: list[Any], tokenizer: Any, args: Any) -> int:
    """
    Counts the tokens of the longest prompt, which is looked for among the 64 of most characters.

    Args:
        prompts (`list`):
            Texts or chats.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        args ([`SCoReConfig`]):
            With further arguments of the chat template.

    Returns:
        `int`: tokens.
    """
    from trl_score.score.prompts import tokenize_prompts

    template_kwargs = args.chat_template_kwargs if isinstance(args.chat_template_kwargs, dict) else {}
    longest = sorted(prompts, key=lambda prompt: len(str(prompt)))[-64:]
    return max(map(len, tokenize_prompts(longest, tokenizer, template_kwargs)))


def plan_of_cloud(script_args: Any, args: Any, model_args: ModelConfig, processes: Processes) -> Plan:
    """
    Checks a run of CLoud as far as its first stage sees: data, template, lengths.

    Args:
        script_args ([`CLoudScriptArguments`]):
            Data.
        args ([`CLoudRewardConfig`]):
            The configuration, as each of the processes sees it.
        model_args ([`~trl.ModelConfig`]):
            The model.
        processes ([`Processes`]):
            Where it will run.

    Returns:
        `dict`: The plan.
    """
    from trl_score.cloud.collator import RowMaker, prepare_rows
    from trl_score.cloud.prompts import CritiqueTemplate
    from trl_score.cloud.trainer_inputs import (
        check_context,
        check_critique_prompt,
        load_model_config,
        load_tokenizer,
        set_special_tokens,
    )
    from trl_score.data import critique_task
    from trl_score.programs.cloud import check_compare, load_datasets

    check_compare(script_args, args, model_args)
    base, peft_config = start_of(model_path(model_args, QUIZ, critique_task.critique_base_path), model_args)
    train = choose_split(load_datasets(script_args, args), script_args.dataset_train_split)
    args.model_init_kwargs = model_init_kwargs(model_args, args.model_init_kwargs)
    config, tokenizer = load_model_config(base, args), load_tokenizer(base, args)
    set_special_tokens(tokenizer, args)
    check_critique_prompt(config, args)
    check_context(config, args)
    template = CritiqueTemplate(tokenizer, args.critique_prompt)
    maker = RowMaker(template, args.max_length, args.overlong, first_critique_only=False, name="train_dataset")
    rows = prepare_rows(train.take(64), maker, None)
    stages = stages_of(script_args, args)
    steps = {stage: num_steps(of_stage, num_rows(train), processes.number) for stage, of_stage in stages.items()}
    length = args.max_length or config.max_position_embeddings
    model = SizedModel.of(config, peft_config, args, model_args, processes.engine)
    num_rows_of_batch = 2 * args.per_device_train_batch_size
    batch = Batch(num_rows_of_batch, length, model.logits_of_cloud(num_rows_of_batch * length))
    checkpoints = sum(num_checkpoints(of_stage, steps[stage]) for stage, of_stage in stages.items())
    return {
        "Data": {
            "training pairs": count(num_rows(train)),
            "of the first 64": f"{rows.num_dropped} dropped, {rows.num_shortened} shortened to fit `max_length`",
            "longest row": f"{length:,} tokens",
        },
        "Run": {
            "processes": processes_text(processes),
            "optimizer steps": ", ".join(f"{stage} {number:,}" for stage, number in steps.items()),
            "critiques to write": f"{2 * len(train):,}" if args.stage == "both" else "none",
        },
        "Disk": disk(args, model, processes, checkpoints, num_models=len(stages)),
        **memory(args, model, processes, batch, has_reference_copy=False),
    }


def stages_of(script_args: Any, args: Any) -> dict[str, Any]:
    """
    Lists the trainings of a run of CLoud.

    Args:
        script_args ([`CLoudScriptArguments`]):
            Whether the paper's baselines are trained too.
        args ([`CLoudRewardConfig`]):
            The run's configuration.

    Returns:
        `dict`: the configuration of each training, by its name.
    """
    if args.stage != "both":
        return {args.stage: args}
    stages = {"sft": args.sft_stage("sft"), "joint": args.joint_stage("joint")}
    if not script_args.compare:
        return stages
    own = {"stage": "classic", "sft_options": None}
    classic = replace(args, **{**(script_args.classic_options or {}), **own})
    return {"classic": classic, **stages, "off-policy joint": stages["joint"]}


def start_of(path: str, model_args: ModelConfig) -> tuple[str, Any]:
    """
    Finds the base of a model, and the adapter to train.

    Args:
        path (`str`):
            Folder or Hub name of a model, or of an adapter, which is trained further.
        model_args ([`~trl.ModelConfig`]):
            With the options of a new adapter.

    Returns:
        `tuple[str, PeftConfig | None]`: folder or name of the base, and the adapter's configuration.
    """
    if find_adapter_config_file(path) is None:
        return path, get_peft_config(model_args)
    adapter = PeftConfig.from_pretrained(path)
    adapter.inference_mode = False
    return str(adapter.base_model_name_or_path), adapter


def try_reward(func: Callable[..., Any], dataset: Any) -> str:
    """
    Calls a reward function on made-up completions to the first two rows.

    Args:
        func (`Callable`):
            The reward function.
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows, of which the first two are taken.

    Returns:
        `str`: what it gave, and what may mislead in training.

    Raises:
        ValueError: If it fails, or returns something else than rewards.
    """
    from trl_score.rewards.checks import check_reward_func

    rows = [dict(row) for row in dataset.take(2)]
    is_chat = not isinstance(rows[0]["prompt"], str)
    made_up: Any = [{"role": "assistant", "content": "42"}] if is_chat else "42"
    report = check_reward_func(func, [row | {"completion": made_up} for row in rows])
    if not report.rewards:
        raise ValueError(f"Reward function {report.name} {report.problems[0]}. Its rows: {sorted(rows[0])}.")
    return "; ".join([f"{report.rewards} for the made-up answer 42", *report.problems])


def reward_name(func: Callable[..., Any]) -> str:
    """
    Gives what a reward function is called.

    Args:
        func (`Callable`):
            The reward function.

    Returns:
        `str`: its name, or that of its class.
    """
    return str(getattr(func, "__name__", type(func).__name__))


def num_rows(dataset: Any) -> int | None:
    """
    Gives the rows of a dataset.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The dataset.

    Returns:
        `int`, *optional*: how many, `None` of a stream.
    """
    return len(dataset) if hasattr(dataset, "__len__") else None


def count(number: int | None) -> str:
    """
    Writes how many rows there are.

    Args:
        number (`int`, *optional*):
            How many; `None` of a stream.

    Returns:
        `str`: The number.

    Example:
        >>> count(8192), count(None)
        ('8,192', 'a stream')
    """
    return "a stream" if number is None else f"{number:,}"


def num_steps(args: Any, rows: int | None, num_processes: int) -> int:
    """
    Adds up the optimizer steps of a training on a dataset.

    Args:
        args ([`~transformers.TrainingArguments`]):
            Its configuration.
        rows (`int`, *optional*):
            Rows of the dataset, `None` of a stream.
        num_processes (`int`):
            Processes.

    Returns:
        `int`: `max_steps`, or what the epochs come to.

    Raises:
        ValueError: If a stream has no `max_steps`.
    """
    if args.max_steps > 0:
        return int(args.max_steps)
    if rows is None:
        raise ValueError("A streamed dataset has no length: expected `max_steps` to be set, got none.")
    batches = math.ceil(rows / (args.per_device_train_batch_size * num_processes))
    return math.ceil(args.num_train_epochs * max(1, math.ceil(batches / args.gradient_accumulation_steps)))


@dataclass(frozen=True)
class SizedModel:
    """
    What of a model decides on disk and memory.

    Args:
        size ([`~trl_score.score.costs.ModelSize`], *optional*):
            Its size; `None` where there are no formulas for its kind.
        num_trained (`int`):
            Parameters that are trained.
        precision ([`Precision`]):
            Bytes of their values.
        is_lora (`bool`):
            Whether an adapter is trained.
    """

    size: ModelSize | None
    num_trained: int
    precision: Precision
    is_lora: bool

    @classmethod
    def of(cls, config: Any, peft_config: Any, args: Any, model_args: ModelConfig, engine: Engine) -> "SizedModel":
        """
        Counts parameters without making any: on PyTorch's meta device.

        Args:
            config ([`~transformers.PreTrainedConfig`]):
                The model's configuration.
            peft_config ([`~peft.PeftConfig`], *optional*):
                An adapter to train.
            args ([`~transformers.TrainingArguments`]):
                With the precision of computing.
            model_args ([`~trl.ModelConfig`]):
                With the weights' type.
            engine (`str`):
                What trains; DeepSpeed has its own type of the weights.

        Returns:
            [`SizedModel`]: the model.
        """
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
            if peft_config is not None:
                model = get_peft_model(model, peft_config)
        try:
            size = ModelSize.of(config)
        except (ValueError, AttributeError):  # experts, or other names for the sizes of its layers
            size = None
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return cls(size, trained, precision_of(args, model_args, config, engine), peft_config is not None)

    def logits_of_score(self, num_tokens: int) -> float:
        """
        Gives what the log-probabilities of a micro-batch of rollouts need.

        Args:
            num_tokens (`int`):
                Tokens after the prompts, of all rows.

        Returns:
            `float`: bytes; 0 where the model's size is not known.
        """
        if self.size is None:
            return 0.0
        bytes_per_value = self.precision.computed
        return logit_bytes(self.size, num_tokens, bytes_per_value=bytes_per_value, is_head_trained=not self.is_lora)

    def logits_of_cloud(self, num_tokens: int) -> float:
        """
        Gives what the critique loss of a micro-batch needs.

        Args:
            num_tokens (`int`):
                Tokens of all rows, critiques at most.

        Returns:
            `float`: bytes; 0 where the model's size is not known.
        """
        from trl_score.cloud.modeling import LOGITS_PER_CHUNK

        if self.size is None:
            return 0.0
        kinds = {"logits_per_chunk": LOGITS_PER_CHUNK, "bytes_per_value": self.precision.computed}
        return chunk_bytes(num_tokens, self.size.vocab_size, **kinds)


def precision_of(args: Any, model_args: ModelConfig, config: Any, engine: Engine) -> Precision:
    """
    Reads off the configuration how many bytes values have.

    Args:
        args ([`~transformers.TrainingArguments`]):
            The configuration.
        model_args ([`~trl.ModelConfig`]):
            The model's type, and whether it is quantized.
        config ([`~transformers.PreTrainedConfig`]):
            The model's configuration, for `dtype="auto"`.
        engine (`str`):
            What trains: with bf16 or fp16 DeepSpeed holds the weights in it, however they were loaded, and a copy in
            fp32 with the optimizer's state.

    Returns:
        [`Precision`]: the bytes.
    """
    dtype = model_args.dtype if model_args.dtype not in (None, "auto") else str(getattr(config, "dtype", "float32"))
    is_mixed = bool(args.bf16 or args.fp16)
    of_model = 2 if "16" in str(dtype) or (is_mixed and engine.startswith("zero")) else 4
    quantized = 0.5 if model_args.load_in_4bit else 1.0 if model_args.load_in_8bit else None
    computed = 2 if is_mixed else of_model
    return Precision(weight=quantized or of_model, trained=of_model, computed=computed)


def disk(args: Any, model: SizedModel, processes: Processes, checkpoints: int, num_models: int = 1) -> dict[str, str]:
    """
    Writes what a run puts on disk.

    Args:
        args ([`~transformers.TrainingArguments`]):
            What is saved, and where.
        model ([`SizedModel`]):
            The model.
        processes ([`Processes`]):
            What splits the optimizer's state.
        checkpoints (`int`):
            How many are kept at most.
        num_models (`int`, *optional*, defaults to `1`):
            Results beside the checkpoints.

    Returns:
        `dict`: rows of a plan.
    """
    kind = {"engine": processes.engine}
    each = checkpoint_bytes(model.num_trained, model.precision, has_optimizer=not args.save_only_model, **kind)
    result = checkpoint_bytes(model.num_trained, model.precision, has_optimizer=False, **kind)
    return {
        "folder": str(args.output_dir),
        "checkpoints at most": f"{checkpoints} of {as_bytes(each)}",
        "together at most": as_bytes(checkpoints * each + num_models * result),
    }


def memory(
    args: Any, model: SizedModel, processes: Processes, batch: Batch, *, has_reference_copy: bool
) -> dict[str, dict[str, str]]:
    """
    Writes what each process holds while it updates.

    Args:
        args ([`~transformers.TrainingArguments`]):
            Whether activations are kept.
        model ([`SizedModel`]):
            The model.
        processes ([`Processes`]):
            What splits it.
        batch ([`Batch`]):
            A micro-batch.
        has_reference_copy (`bool`):
            Whether there is a second model.

    Returns:
        `dict`: a part of a plan.
    """
    if model.size is None:
        return {
            "Memory": {
                "estimate": "none, for want of formulas for a model of this kind",
                "trained": f"{model.num_trained:,}",
            }
        }
    need = memory_need(
        model.size,
        batch,
        model.precision,
        num_trained=model.num_trained,
        engine=processes.engine,
        num_processes=processes.number,
        has_reference_copy=has_reference_copy,
        gradient_checkpointing=args.gradient_checkpointing,
        num_micro_batches=args.gradient_accumulation_steps,
    )
    trained = f"{model.num_trained:,} trained{' (LoRA)' if model.is_lora else ''}"
    parts = {**asdict(need), "together": need.total}
    return {
        "Memory of a process, estimated": {
            "parameters": f"{model.size.num_parameters:,}, {trained}",
            "micro-batch": f"{batch.num_rows} rows of up to {batch.num_tokens:,} tokens",
            **{name: as_bytes(number) for name, number in parts.items()},
        }
    }


def num_checkpoints(args: Any, updates: int) -> int:
    """
    Counts the checkpoints that are kept.

    Args:
        args ([`~transformers.TrainingArguments`]):
            When it saves.
        updates (`int`):
            Optimizer steps.

    Returns:
        `int`: The number.
    """
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    every = args.save_steps if args.save_steps >= 1 else max(1, math.ceil(args.save_steps * updates))
    by_strategy = {"steps": math.ceil(updates / every), "epoch": math.ceil(args.num_train_epochs)}
    number = by_strategy.get(strategy, 0)
    return min(number, args.save_total_limit or number)


def processes_text(processes: Processes) -> str:
    """
    Writes where a run is.

    Args:
        processes ([`Processes`]):
            The processes.

    Returns:
        `str`: such as `8, zero3`.
    """
    return f"{processes.number}" + (f", {processes.engine}" if processes.number > 1 else "")


def as_bytes(number: float) -> str:
    """
    Writes bytes for reading.

    Args:
        number (`float`):
            Bytes.

    Returns:
        `str`: in the unit that fits.

    Example:
        >>> as_bytes(512), as_bytes(3 * 2**20), as_bytes(15 * 2**30)
        ('512 B', '3.0 MiB', '15.0 GiB')
    """
    if number < 1024:
        return f"{number:.0f} B"
    power = min(4, int(math.log(number, 1024)))
    return f"{number / 1024**power:,.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def print_plan(plan: Mapping[str, Mapping[str, str]]) -> None:
    """
    Prints a plan: a table in a terminal, else lines.

    Args:
        plan (`Mapping`):
            Rows by the title of their part.
    """
    if not sys.stdout.isatty():
        print("\n\n".join(f"{title}\n" + "\n".join(plain_rows(rows)) for title, rows in plan.items()))
        return
    from rich.box import HORIZONTALS
    from rich.console import Console
    from rich.table import Table

    for title, rows in plan.items():
        table = Table(title=title, title_justify="left", box=HORIZONTALS, show_header=False)
        for row in rows.items():
            table.add_row(*row)
        Console().print(table)


def plain_rows(rows: Mapping[str, str]) -> Sequence[str]:
    """
    Writes rows as lines, names of one width.

    Args:
        rows (`Mapping[str, str]`):
            Values by name.

    Returns:
        `Sequence[str]`: The lines.

    Example:
        >>> plain_rows({"steps": "2", "tokens": "30"})
        ['  steps   2', '  tokens  30']
    """
    width = max(map(len, rows))
    return [f"  {name:<{width}}  {value}" for name, value in rows.items()]
