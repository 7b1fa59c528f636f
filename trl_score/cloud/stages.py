"""All stages of CLoud in one call: critique SFT, the model's own critiques, joint training.

    output_dir/critique_sft   the model after SFT on the given (oracle) critiques
    output_dir/critiques      what that model wrote about the same responses, a journal for each dataset
    output_dir/joint          the reward model

Each step reads what the one before it wrote, so a run that was killed can go on where it was.

On several processes each writes its share of the critiques, with a whole copy of the model, under ZeRO-3 too.
"""

import json
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

from trl_score.checkpoints import has_whole_checkpoint
from trl_score.cloud.cloud_config import CLoudRewardConfig
from trl_score.cloud.cloud_trainer import CLoudRewardTrainer
from trl_score.cloud.critiques import self_critique_dataset
from trl_score.cloud.modeling import load_reward_model
from trl_score.cloud.prompts import CritiqueTemplate
from trl_score.cloud.trainer_inputs import load_tokenizer, model_init_kwargs, set_special_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import PeftConfig

logger = logging.getLogger(__name__)

SFT_FOLDER, CRITIQUES_FOLDER, JOINT_FOLDER = "critique_sft", "critiques", "joint"
_SFT_FILE = "critique_sft.json"
"""Written into the first folder when that stage is done: what it was done with."""


def train_stages(
    model: Any,
    args: CLoudRewardConfig,
    train_dataset: Any,
    eval_dataset: Any = None,
    *,
    processing_class: PreTrainedTokenizerBase | None = None,
    peft_config: "PeftConfig | None" = None,
    resume: bool = False,
    **trainer_kwargs: Any,
) -> CLoudRewardTrainer:
    """
    Trains what `args.stage` says, and saves the model.

    With `"both"`: critique SFT on the critiques of the dataset; then that model critiques the same responses, those of
    `eval_dataset` too; then the joint stage on these critiques, from the SFT model (the paper) or, with
    `restart_from_base`, from the model given. Any other stage is one training of [`CLoudRewardTrainer`].

    Args:
        model (`str`, or what [`CLoudRewardTrainer`] takes):
            The model to start from. For `"both"` its name or path, because it is loaded more than once.
        args ([`CLoudRewardConfig`]):
            Configuration.
        train_dataset ([`~datasets.Dataset`]):
            Preference pairs with critiques, see [`CLoudRewardTrainer`].
        eval_dataset ([`~datasets.Dataset`] or `dict`, *optional*):
            The same.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer; by default the model's.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train; the joint stage goes on with the one of SFT.
        resume (`bool`, *optional*, defaults to `False`):
            Whether to go on with what `output_dir` holds: a finished SFT stage is not repeated, a training goes on from
            its last checkpoint. (Critiques that were written are never written again.)
        **trainer_kwargs:
            Passed to [`CLoudRewardTrainer`], for each stage: `callbacks`, `compute_metrics`, `quantization_config`.

    Returns:
        [`CLoudRewardTrainer`]: the trainer of the last stage, done.

    Raises:
        `TypeError`: If for `"both"` the model is not a name, or a dataset is a stream.
        `ValueError`: If something can be seen to be wrong before training, or `output_dir` holds the SFT stage of
            another run.

    Example:

    ```python
    trainer = train_stages("meta-llama/Llama-3.1-8B", CLoudRewardConfig("runs/cloud", stage="both"), dataset)
    ```
    """
    if args.stage != "both":
        datasets = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        trainer = CLoudRewardTrainer(
            model, args, **datasets, processing_class=processing_class, peft_config=peft_config, **trainer_kwargs
        )
        return _train(trainer, resume)
    eval_sets = eval_dataset if isinstance(eval_dataset, dict) else {"eval": eval_dataset}
    _check_for_both(model, {"train": train_dataset, **eval_sets})
    tokenizer = load_tokenizer(model, args) if processing_class is None else processing_class
    set_special_tokens(tokenizer, args)
    shared = {"processing_class": tokenizer, **trainer_kwargs}
    root = Path(cast(str, args.output_dir))

    settings = _sft_settings(model, args, train_dataset)
    if not (resume and _is_done(root / SFT_FOLDER, settings)):
        sft_args = args.sft_stage(str(root / SFT_FOLDER))
        trainer = CLoudRewardTrainer(
            model, sft_args, None, train_dataset, eval_dataset, peft_config=peft_config, **shared
        )
        _finish_sft(_train(trainer, resume), root / SFT_FOLDER, settings)
        del trainer

    quantization = {name: value for name, value in trainer_kwargs.items() if name == "quantization_config"}
    critiqued = _critique_all(model, args, tokenizer, {"train": train_dataset, **eval_sets}, root, quantization)
    train_critiqued = critiqued.pop("train")
    eval_critiqued = critiqued if isinstance(eval_dataset, dict) else critiqued["eval"]
    joint_args = args.joint_stage(str(root / JOINT_FOLDER))
    start, peft_config = _start_of_joint(model, args, peft_config, root / SFT_FOLDER, quantization)
    joint = CLoudRewardTrainer(
        start, joint_args, None, train_critiqued, eval_critiqued, peft_config=peft_config, **shared
    )
    if not args.restart_from_base and not isinstance(start, str):
        joint.tell_adapter(str(root / SFT_FOLDER))
    return _train(joint, resume)


def _check_for_both(model: Any, datasets: dict[str, Any]) -> None:
    if not isinstance(model, str):
        raise TypeError(
            f"`stage='both'` loads the model more than once, so `model` must be its name or path, got "
            f"{type(model).__name__}. Save it first, or train the stages one by one."
        )
    for name, dataset in datasets.items():
        if dataset is not None and not isinstance(dataset, Dataset):
            raise TypeError(
                f"`stage='both'` critiques whole datasets, so {name!r} must be a `datasets.Dataset`, got "
                f"{type(dataset).__name__}. Collect the rows that you want first."
            )


def _train(trainer: CLoudRewardTrainer, resume: bool) -> CLoudRewardTrainer:
    trainer.train(resume_from_checkpoint=resume and has_whole_checkpoint(Path(trainer.args.output_dir)))
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    return trainer


# Critique SFT


def _sft_settings(model: str, args: CLoudRewardConfig, dataset: Dataset) -> dict[str, Any]:
    sft_args = args.sft_stage(cast(str, args.output_dir))
    names = ("seed", "learning_rate", "num_train_epochs", "max_steps", "max_length", "critique_prompt")
    return {"model": model, "num_rows": len(dataset), **{name: vars(sft_args)[name] for name in names}}


def _is_done(folder: Path, settings: dict[str, Any]) -> bool:
    path = folder / _SFT_FILE
    if not path.is_file():
        return False
    before = json.loads(path.read_text())
    differing = sorted(name for name in settings if before.get(name) != settings[name])
    if differing:
        raise ValueError(
            f"{str(folder)!r} holds the critique SFT of a run with other values of {differing}, so it cannot be gone "
            "on with. Give another `output_dir`, or leave `resume` out to begin again."
        )
    return True


def _finish_sft(trainer: CLoudRewardTrainer, folder: Path, settings: dict[str, Any]) -> None:
    if trainer.accelerator.is_main_process:
        (folder / _SFT_FILE).write_text(json.dumps(settings, indent=2) + "\n")
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()


# The model's own critiques


def _critique_all(
    model: str,
    args: CLoudRewardConfig,
    tokenizer: PreTrainedTokenizerBase,
    datasets: dict[str, Dataset | None],
    root: Path,
    quantization: dict[str, Any],
) -> dict[str, Dataset | None]:
    with _whole_weights(args):
        reward_model = _load_sft(model, args, root / SFT_FOLDER, dtype=_compute_dtype(args), **quantization)
        reward_model = reward_model.to(args.device)
    template = CritiqueTemplate(tokenizer, args.critique_prompt)
    return {
        name: None
        if dataset is None
        else without_empty_critiques(
            self_critique_dataset(
                reward_model,
                template,
                dataset,
                num_critiques=args.num_self_critiques,
                temperature=args.critique_temperature,
                max_new_tokens=args.max_critique_length,
                batch_size=args.critique_batch_size,
                seed=args.seed,
                output_dir=root / CRITIQUES_FOLDER / name,
            ),
            name,
        )
        for name, dataset in datasets.items()
    }


@contextmanager
def _whole_weights(args: CLoudRewardConfig) -> "Iterator[None]":
    """Each process loads all weights, also under ZeRO-3: they write at their own pace, and could not share them."""
    is_partitioned = is_deepspeed_zero3_enabled()
    if is_partitioned:
        unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if is_partitioned:
            cast(Any, args).deepspeed_plugin.set_deepspeed_weakref()


def without_empty_critiques(dataset: Dataset, name: str = "train") -> Dataset:
    """
    Leaves out critiques that are empty, and rows of which a response has no other.

    Args:
        dataset ([`~datasets.Dataset`]):
            What [`self_critique_dataset`] returned.
        name (`str`, *optional*, defaults to `"train"`):
            What to call it in the log.

    Returns:
        [`~datasets.Dataset`]: the rest.

    Raises:
        `ValueError`: If nothing is left: the model has not learned to write critiques.

    Example:

    ```python
    >>> row = {"chosen_critique": ["Right.", " "], "chosen_critique_truncated": [False, False]}
    >>> row |= {"rejected_critique": ["Wrong."], "rejected_critique_truncated": [True]}
    >>> without_empty_critiques(Dataset.from_list([row]))[0]["chosen_critique"]
    ['Right.']

    ```
    """
    kept = dataset.map(_without_empty, desc=f"Empty critiques of {name}")
    kept = kept.filter(_has_critiques, desc=f"Rows without critiques of {name}")
    if len(kept) == 0:
        raise ValueError(
            f"Of all {len(dataset)} rows of {name!r} the model wrote an empty critique of at least one response, so "
            "that none is left to train on. It closes its turn at once: train it longer on critiques (`sft_options`)."
        )
    if len(kept) < len(dataset):
        logger.warning("%s: %d of %d rows dropped, no critique left.", name, len(dataset) - len(kept), len(dataset))
    return kept


def _without_empty(row: dict[str, Any]) -> dict[str, Any]:
    for side in ("chosen", "rejected"):
        texts = row[f"{side}_critique"]
        kept = [index for index, text in enumerate(texts) if text.strip()]
        for column in (column for column in row if column.startswith(f"{side}_critique")):
            row[column] = [row[column][index] for index in kept]
    return row


def _has_critiques(row: dict[str, Any]) -> bool:
    return bool(row["chosen_critique"]) and bool(row["rejected_critique"])


def _compute_dtype(args: CLoudRewardConfig) -> torch.dtype:
    """What the model computes in while it is trained, so that it writes as fast."""
    if args.bf16:
        return torch.bfloat16
    return torch.float16 if args.fp16 else torch.float32


# The joint stage


def _start_of_joint(
    model: str,
    args: CLoudRewardConfig,
    peft_config: "PeftConfig | None",
    sft_folder: Path,
    quantization: dict[str, Any],
) -> tuple[Any, "PeftConfig | None"]:
    if args.restart_from_base:
        return model, peft_config
    if peft_config is None:
        return str(sft_folder), None
    reward_model = _load_sft(model, args, sft_folder, **quantization)
    reward_model.set_adapter("default")  # which makes it trainable
    return reward_model, None


def _load_sft(model: str, args: CLoudRewardConfig, folder: Path, **kwargs: Any) -> Any:
    set_seed(args.seed)  # an adapter hides a head that nobody uses, but whose weights tell one model from another
    if (folder / "adapter_config.json").is_file():
        kwargs["base_model"] = model
    return load_reward_model(folder, **{"dtype": torch.float32, **model_init_kwargs(args), **kwargs})
