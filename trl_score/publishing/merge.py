"""
Merge an adapter into its base: a full model that answers alike, with everything else that lay beside the adapter.

It works for adapters of both trainers, and writes the whole folder or none of it.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score.cloud.modeling import load_reward_model
from trl_score.publishing.card import CARD_FILE, method_of, write_card
from trl_score.publishing.files import WEIGHT_PATTERNS, published_files
from trl_score.publishing.record import RECORD_FILE, read_record, write_record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16", "float16")
_PROBE = "What is 17 + 25? Add the tens, then the ones: 10 + 20 = 30, 7 + 5 = 12. The sum is 42. Is that right?"
_MOST_DIFFERENCE = 0.1  # of the largest output: what rounding in bf16 makes of a deep model is well below


@dataclass(frozen=True)
class Merged:
    """
    A merged model.

    Args:
        folder (`Path`):
            Where it lies.
        difference (`float`):
            Largest difference of an output (a logit, for a CLoud model a reward) to that of base and adapter, on a
            probe.
        scale (`float`):
            Largest absolute output on the probe.
    """

    folder: Path
    difference: float
    scale: float


def merge_adapter(
    source: str | Path,
    output: str | Path,
    *,
    dtype: str = "auto",
    base_model: str | None = None,
    trust_remote_code: bool = False,
) -> Merged:
    """
    Merge an adapter of SCoReTrainer or CLoudRewardTrainer into its base.

    Args:
        source (`str` or `Path`):
            The adapter: a run's folder, one of its checkpoints, or a name on the Hub.
        output (`str` or `Path`):
            Folder of the full model. It must not exist yet, or be empty.
        dtype (`str`, *optional*, defaults to `"auto"`):
            In what the weights are merged and saved: one of `DTYPES`; `"auto"` is the base's own.
        base_model (`str`, *optional*):
            Where the base lies. By default where the adapter says.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code that comes with the base may be run.

    Returns:
        [`Merged`]: The folder, and how far the outputs are from those of base and adapter.

    Raises:
        FileExistsError: If `output` holds something.
        FileNotFoundError: If `source` holds no adapter.
        ValueError: If the adapter is of another trainer, cannot be merged, or the merged model answers otherwise.
    """
    place = Path(output)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise FileExistsError(f"Expected `output` to be a new or empty folder, got {str(output)!r}. Name another one.")
    if dtype not in DTYPES:
        raise ValueError(f"Expected `dtype` to be one of {', '.join(DTYPES)}, got {dtype!r}.")
    folder = Path(source) if Path(source).is_dir() else Path(snapshot_download(str(source)))
    config = _read_adapter(folder, source)
    base = base_model or config.base_model_name_or_path
    tokenizer = _load_tokenizer(folder, base, trust_remote_code)
    model = _load(folder, base, config.revision, dtype, trust_remote_code)
    before = _outputs(model, tokenizer)
    merged = model.merge_and_unload(safe_merge=True)
    difference, scale = float((_outputs(merged, tokenizer) - before).abs().max()), float(before.abs().max())
    if not difference <= _MOST_DIFFERENCE * scale:
        raise ValueError(
            f"The merged model must answer like base and adapter, got outputs that differ by up to {difference:.3g} "
            f"(largest output {scale:.3g}) in {dtype}. Merge in float32, or publish the adapter."
        )
    with _new_folder(place) as unfinished:
        merged.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        _carry_over(folder, unfinished, config)
    return Merged(place, difference, scale)


def _read_adapter(folder: Path, source: str | Path) -> Any:
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"Expected an adapter in {str(source)!r}, got no `adapter_config.json`. A full model needs no merging."
        )
    method_of(folder)
    config = PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning:
        raise ValueError(
            f"Expected an adapter of weights, got one of prompts ({config.peft_type}), which cannot be merged."
        )
    if not config.base_model_name_or_path:
        logger.warning("The adapter in %s does not say what its base is.", source)
    return config


def _load_tokenizer(folder: Path, base: str, trust_remote_code: bool) -> "PreTrainedTokenizerBase":
    has_own = (folder / "tokenizer_config.json").is_file()
    return AutoTokenizer.from_pretrained(folder if has_own else base, trust_remote_code=trust_remote_code)


def _load(folder: Path, base: str, revision: str | None, dtype: str, trust_remote_code: bool) -> Any:
    kwargs: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if method_of(folder) == "CLoud":
        return load_reward_model(folder, base_model=base, **kwargs).eval()
    model = AutoModelForCausalLM.from_pretrained(base, revision=revision, **kwargs)
    return PeftModel.from_pretrained(model, str(folder)).eval()


def _outputs(model: Any, tokenizer: "PreTrainedTokenizerBase") -> torch.Tensor:
    """Logits, or the reward, on the probe, in fp32."""
    ids = torch.tensor([tokenizer.encode(_PROBE)], device=model.device)
    with torch.no_grad():
        outputs = model(input_ids=ids)
    return (outputs.rewards if "rewards" in outputs else outputs.logits).float()


@contextmanager
def _new_folder(place: Path) -> Iterator[Path]:
    """A folder that takes its name when it is whole, and is removed if it does not become so."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as parent:
        unfinished = Path(parent) / place.name
        unfinished.mkdir()
        yield unfinished
        unfinished.replace(place)


def _carry_over(folder: Path, merged: Path, config: Any) -> None:
    """Copies what lay beside the adapter, and writes record and card of the merged model."""
    made_anew = ("config.json", RECORD_FILE, CARD_FILE)
    for file in published_files(folder):
        is_weight = any(Path(file.path).match(pattern) for pattern in WEIGHT_PATTERNS)
        if not is_weight and file.path not in made_anew and not (merged / file.path).exists():
            (merged / file.path).parent.mkdir(exist_ok=True)
            shutil.copy2(file.file, merged / file.path)
    record = read_record(folder)
    if record:
        write_record(merged, {**record, "merged_from": f"{config.peft_type.value} adapter", "repo_id": None})
    write_card(merged)
