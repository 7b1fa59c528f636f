"""
Which files of a run's folder are published, and in which form: what others need to load and judge the model.

Files are chosen by what is let through, never by what is held back, so that nothing is published because nobody thought
of it. What stays behind: optimizer states, `training_args.bin` (a pickle, with tokens in it), checkpoints, logs,
tables of rollouts, pickled weights, the frozen copy of an adapter that PEFT saves as `ref/`.

In the configuration files, places on this machine give way to the last part of their path; a file with an access token
in it is refused.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_score.checkpoints import WHOLE_FILE, list_files

WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json")
"""What makes out the model: what an earlier push left of these is removed by the next one, or it might be loaded."""

PUBLISHED_PATTERNS: dict[str, str] = {
    "model*.safetensors": "the weights of a full model, with a CLoud model's reward head",
    "model.safetensors.index.json": "which weight lies in which of several files",
    "adapter_model*.safetensors": "the weights of an adapter, with a CLoud model's reward head",
    "adapter_config.json": "the adapter: kind, rank, modules, and the base model that it belongs to",
    "config.json": "the model's configuration; a CLoud model's says its critique prompt",
    "generation_config.json": "generation settings: end tokens and what the base model's author recommends",
    "score_config.json": "SCoRe: correction prompt, budgets of both turns, coefficients, stage",
    "training_config.json": "what was trained on what, with which arguments and versions",
    "tokenizer.json": "the tokenizer",
    "tokenizer_config.json": "the tokenizer's settings",
    "tokenizer.model": "the tokenizer, as SentencePiece saves it",
    "special_tokens_map.json": "the tokenizer's special tokens",
    "added_tokens.json": "tokens added to the tokenizer",
    "vocab.json": "the tokenizer's vocabulary",
    "vocab.txt": "the tokenizer's vocabulary",
    "merges.txt": "the tokenizer's merges",
    "chat_template.jinja": "the chat template",
    "additional_chat_templates/*.jinja": "further chat templates",
    "*.py": "code of an architecture that Transformers does not have; only if the configuration names it",
    "summary.json": "the numbers of the final evaluation",
    "metrics.json": "the numbers of an evaluation",
    "*.png": "figures",
    "figures/*.png": "figures that the card shows",
    "README.md": "the model card",
    "LICENSE*": "a licence",
    "NOTICE*": "what a licence asks to pass on",
}
"""Patterns of the files in a run's folder that are published, and what each is."""

_PATH_KEYS = ("_name_or_path", "name_or_path", "base_model_name_or_path", "best_model_checkpoint", "tokenizer_file")
_CONFIGURATIONS, _RESULTS = ("*config.json", "trainer_state.json"), ("summary.json", "metrics.json")
_PLACE = re.compile(r"(/|~/|[A-Z]:\\)[^\s/]+[/\\]\S+")  # "/no_think", or a text that begins with a slash, is none
_TEXTS = (".json", ".md", ".py", ".jinja", ".txt")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
_MOST_TEXT = 16 * 2**20  # bytes; a tokenizer of a large vocabulary has as many


@dataclass(frozen=True)
class PublishedFile:
    """
    One file to publish.

    Args:
        path (`str`):
            Its path in the repository.
        file (`Path`):
            Where it lies.
        content (`bytes`, *optional*):
            What is published, where that is not the file as it stands.
    """

    path: str
    file: Path
    content: bytes | None = None

    @property
    def source(self) -> bytes | str:
        """`bytes` or `str`: What is uploaded, or where it lies."""
        return str(self.file) if self.content is None else self.content

    @property
    def num_bytes(self) -> int:
        """`int`: Its size."""
        return self.file.stat().st_size if self.content is None else len(self.content)


def published_files(folder: Path, base_model: str | None = None) -> list[PublishedFile]:
    """
    Choose the files of a run's folder that are published.

    Args:
        folder (`Path`):
            The folder.
        base_model (`str`, *optional*):
            What an adapter's configuration shall call its base model, where that lies in a folder of this machine.

    Returns:
        `list[PublishedFile]`: The files, by path.

    Raises:
        FileNotFoundError: If no model lies in the folder.
        ValueError: If a file holds an access token.
    """
    places = {place for pattern in PUBLISHED_PATTERNS for place in folder.glob(pattern) if place.is_file()}
    if not _has_own_code(folder):
        places = {place for place in places if place.suffix != ".py"}
    if not any(place.match(pattern) for place in places for pattern in WEIGHT_PATTERNS):
        raise FileNotFoundError(
            f"Expected a model or an adapter in {str(folder)!r}, got none (no file like "
            f"{', '.join(WEIGHT_PATTERNS[:2])}). Name the output folder of a run, or one of its checkpoints."
        )
    return [_prepare(folder, place, base_model) for place in sorted(places)]


def checkpoint_files(folder: Path) -> list[PublishedFile]:
    """
    Choose the files of a checkpoint that a run needs to go on from it: all but the pickled arguments.

    Args:
        folder (`Path`):
            The checkpoint.

    Returns:
        `list[PublishedFile]`: The files. They hold the optimizer's state, which nobody needs to use the model.
    """
    left_out = ("training_args.bin", WHOLE_FILE)
    places = [place for place in folder.rglob("*") if place.is_file() and place.name not in left_out]
    files = [_prepare(folder, place, None) for place in sorted(places)]
    if (folder / WHOLE_FILE).is_file():  # it lists what is published, or nobody could go on from it
        listed = list_files({file.path: file.num_bytes for file in files})
        files.append(PublishedFile(WHOLE_FILE, folder / WHOLE_FILE, listed.encode()))
    return files


def is_local(name: str) -> bool:
    """
    Tell whether the name of a model or a dataset is a place on this machine, where nobody else finds it.

    Args:
        name (`str`):
            As given to `from_pretrained` or `load_dataset`.

    Returns:
        `bool`: Whether it is.

    Example:
        >>> is_local("/data/models/qwen"), is_local("./out"), is_local("Qwen/Qwen2.5-1.5B-Instruct")
        (True, True, False)
    """
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or Path(name).exists()


def published_name(name: str | None) -> str | None:
    """
    Give the name under which a dataset is published: of a place on this machine its last part.

    Args:
        name (`str`, *optional*):
            As given to `load_dataset`.

    Returns:
        `str`, *optional*: The name.

    Example:
        >>> published_name("/home/ann/sums.jsonl"), published_name("openai/gsm8k"), published_name(None)
        ('sums.jsonl', 'openai/gsm8k', None)
    """
    return Path(name).name if name is not None and is_local(name) else name


def without_places(settings: Any, base_model: str | None = None) -> Any:
    """
    Replace the places on this machine in a configuration by the last part of their path.

    Args:
        settings:
            The content of a JSON file. Only the keys are looked at that hold such places; texts stay as they are.
        base_model (`str`, *optional*):
            What to write in place of a local `base_model_name_or_path`.

    Returns:
        The same, without them.

    Example:
        >>> without_places({"base_model_name_or_path": "/home/ann/models/qwen", "r": 8})
        {'base_model_name_or_path': 'qwen', 'r': 8}
        >>> without_places({"base_model_name_or_path": "/home/ann/models/qwen"}, "Qwen/Qwen2.5-0.5B")
        {'base_model_name_or_path': 'Qwen/Qwen2.5-0.5B'}
    """
    if isinstance(settings, list):
        return [without_places(value, base_model) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    kept = {}
    for key, value in settings.items():
        if key in _PATH_KEYS and isinstance(value, str) and is_local(value):
            is_base = key == "base_model_name_or_path" and base_model is not None
            kept[key] = base_model if is_base else Path(value).name
        else:
            kept[key] = without_places(value, base_model)
    return kept


def results_without_places(results: Any) -> Any:
    """
    Replace whatever looks like a place on this machine in the numbers of an evaluation by the last part of its path.

    Args:
        results:
            The content of a JSON file, whose keys may be names of models or files too.

    Returns:
        The same, without them.

    Example:
        >>> results_without_places({"model": "/home/ann/runs/score", "tasks": {"/data/sums.jsonl": "eval"}})
        {'model': 'score', 'tasks': {'sums.jsonl': 'eval'}}
    """
    if isinstance(results, list):
        return [results_without_places(value) for value in results]
    if isinstance(results, Mapping):
        return {results_without_places(key): results_without_places(value) for key, value in results.items()}
    return Path(results).name if isinstance(results, str) and _PLACE.fullmatch(results) else results


def _has_own_code(folder: Path) -> bool:
    """Whether a configuration names classes of files that lie beside it (`auto_map`)."""
    files = [folder / "config.json", folder / "tokenizer_config.json"]
    return any("auto_map" in json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file())


def _prepare(folder: Path, place: Path, base_model: str | None) -> PublishedFile:
    path, content = place.relative_to(folder).as_posix(), None
    is_configuration, are_results = (
        any(place.match(pattern) for pattern in patterns) for patterns in (_CONFIGURATIONS, _RESULTS)
    )
    if is_configuration or are_results:
        found = json.loads(place.read_text(encoding="utf-8"))
        kept = without_places(found, base_model) if is_configuration else results_without_places(found)
        if kept != found:
            content = (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()
    if place.suffix in _TEXTS and place.stat().st_size <= _MOST_TEXT:
        _refuse_tokens(place)
    return PublishedFile(path, place, content)


def _refuse_tokens(place: Path) -> None:
    if _TOKEN.search(place.read_text(encoding="utf-8", errors="replace")):
        raise ValueError(
            f"Expected no access token in what is published, got something like one (`hf_...`) in {str(place)!r}. "
            "Take it out of the file, and revoke it if others may have seen it."
        )
