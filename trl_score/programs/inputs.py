"""What both programs load before a trainer is made: datasets by name, and what a model is loaded with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from trl import ModelConfig, ScriptArguments

_FILES = (".json", ".jsonl", ".parquet", ".csv")


def model_path(model_args: ModelConfig, embedded: str, embedded_path: Callable[[], Path]) -> str:
    """
    Finds the model to start from.

    Args:
        model_args ([`~trl.ModelConfig`]):
            The model arguments.
        embedded (`str`):
            What the model that is shipped with the package is called.
        embedded_path (`Callable`):
            Gives its folder.

    Returns:
        `str`: a folder, or a name on the Hub.

    Raises:
        ValueError: If no model is named.
    """
    name = model_args.model_name_or_path
    if not name:
        raise ValueError(f"`--model_name_or_path` is needed: a folder, a name on the Hub, or {embedded!r}.")
    return str(embedded_path()) if name == embedded else name


def load_named_dataset(script_args: ScriptArguments) -> DatasetDict | dict[str, Dataset]:
    """
    Loads a dataset of the Hub, a folder or a local file.

    Args:
        script_args ([`~trl.ScriptArguments`]):
            The dataset's name. A file is the training split.

    Returns:
        `DatasetDict` or `dict[str, Dataset]`: its splits by name.

    Raises:
        ValueError: If a file holds something else than rows.
    """
    path = Path(str(script_args.dataset_name))
    if path.suffix in _FILES:
        builder = {".jsonl": "json"}.get(path.suffix, path.suffix[1:])
        try:
            return load_dataset(builder, data_files={script_args.dataset_train_split: str(path)})
        except DatasetGenerationError as error:
            raise ValueError(f"Expected rows in '{path}', got what is no {builder}: {error.__cause__}") from error
    return load_dataset(
        script_args.dataset_name, name=script_args.dataset_config, streaming=script_args.dataset_streaming
    )


def choose_split(datasets: DatasetDict | dict[str, Dataset], name: str) -> Dataset:
    """
    Gives one split of what was loaded.

    Args:
        datasets (`DatasetDict` or `dict[str, Dataset]`):
            All splits.
        name (`str`):
            The split's name.

    Returns:
        [`~datasets.Dataset`]: the split.

    Raises:
        ValueError: If there is no such split.

    Example:
        >>> choose_split({"train": Dataset.from_list([{"prompt": "2+2="}])}, "test")
        Traceback (most recent call last):
        ValueError: The dataset has no split 'test', only train. Name one with `--dataset_train_split` or ...
    """
    if name not in datasets:
        raise ValueError(
            f"The dataset has no split {name!r}, only {', '.join(datasets)}. Name one with `--dataset_train_split` or "
            "`--dataset_test_split`."
        )
    return datasets[name]


def model_init_kwargs(model_args: ModelConfig, given: dict[str, Any] | str | None) -> dict[str, Any]:
    """
    Gives what a model is loaded with: TRL's model arguments, then `model_init_kwargs` of the configuration.

    Args:
        model_args ([`~trl.ModelConfig`]):
            The model arguments.
        given (`dict`, *optional*):
            `model_init_kwargs`, which go first.

    Returns:
        `dict`: keyword arguments of `from_pretrained`.
    """
    return {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(given if isinstance(given, dict) else {}),
    }
