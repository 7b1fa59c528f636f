"""
The model card of a run's folder, made from its files alone: the record of the training, the configuration, the numbers
and the figures. The same files give the same card, byte for byte.

A card ends in a mark with its own checksum, by which a later push knows whether somebody has edited it since.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_score.plots.log_history import read_json
from trl_score.publishing.card_template import CARD, CLOUD_USAGE, SCORE_USAGE, TRL_CITATION
from trl_score.publishing.files import is_local
from trl_score.publishing.record import read_record
from trl_score.publishing.results import figures, main_results, result_tables
from trl_score.records import SCORE_CONFIG_FILE

CARD_FILE = "README.md"
_MARK = re.compile(r"\n<!-- trl_score card ([0-9a-f]{64}) -->\n$")
_STAGES = {
    "1": "Stage I",
    "2": "Stage II",
    "both": "Stage I, then Stage II",
    "sft": "critique SFT",
    "joint": "joint",
    "classic": "classic, without critiques",
}
_SHOWN_ELSEWHERE = ("correction_prompt", "critique_prompt", "stage", "reward_weights")


@dataclass(frozen=True)
class Method:
    """
    What cards of one method have in common.

    Args:
        what (`str`):
            What such a model does, after "trained".
        usage (`str`):
            How to use it, a template with the `name` of the model.
        pipeline_tag (`str`):
            The task, as the Hub calls it.
        library (`str`, *optional*):
            What loads it; `None` for Transformers, or PEFT where it is an adapter.
    """

    what: str
    usage: str
    pipeline_tag: str
    library: str | None = None


_METHODS = {
    "SCoRe": Method(
        "to correct its own mistakes: it answers, is asked to look again, and answers again",
        SCORE_USAGE,
        "text-generation",
    ),
    "CLoud": Method(
        "as a reward model that writes a critique of an answer and is read after it",
        CLOUD_USAGE,
        "text-classification",
        "trl_score",
    ),
}


@dataclass(frozen=True)
class Licence:
    """
    The licence of a base model, as its card names it.

    Args:
        license (`str`):
            Its identifier on the Hub, such as `"apache-2.0"` or `"other"`.
        license_name (`str`, *optional*):
            Its name, where the identifier is `"other"`.
        license_link (`str`, *optional*):
            Where it can be read.
    """

    license: str
    license_name: str | None = None
    license_link: str | None = None


def write_card(
    folder: Path,
    repo_id: str | None = None,
    base_model: str | None = None,
    licence: Licence | None = None,
    *,
    with_results: bool = True,
) -> Path:
    """
    Write the card of a run into its folder.

    Args:
        folder (`Path`):
            The folder.
        repo_id (`str`, *optional*):
            Where it is pushed to. By default what the record says, or else the folder's name.
        base_model (`str`, *optional*):
            Name on the Hub of the base model, where the record does not say it.
        licence (`Licence`, *optional*):
            The base model's licence, if it is known.
        with_results (`bool`, *optional*, defaults to `True`):
            Whether it shows numbers and figures.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If the folder holds no model of either trainer, or one of its files is cut off.
    """
    text = render_card(folder, repo_id, base_model, licence, with_results=with_results)
    file = folder / CARD_FILE
    file.write_text(f"{text}\n<!-- trl_score card {_checksum(text)} -->\n", encoding="utf-8")
    return file


def is_edited(folder: Path) -> bool:
    """
    Tell whether the card in a folder says something that `write_card` did not write.

    Args:
        folder (`Path`):
            The folder.

    Returns:
        `bool`: Whether it does, or is not of its making at all; `False` without a card.
    """
    file = folder / CARD_FILE
    if not file.is_file():
        return False
    text = file.read_text(encoding="utf-8")
    mark = _MARK.search(text)
    return mark is None or mark[1] != _checksum(text[: mark.start()])


def render_card(
    folder: Path,
    repo_id: str | None = None,
    base_model: str | None = None,
    licence: Licence | None = None,
    *,
    with_results: bool = True,
) -> str:
    """
    Fill in the card of a run.

    Args:
        folder (`Path`):
            The run's folder.
        repo_id (`str`, *optional*):
            Where it is pushed to.
        base_model (`str`, *optional*):
            Name on the Hub of the base model.
        licence (`Licence`, *optional*):
            The base model's licence.
        with_results (`bool`, *optional*, defaults to `True`):
            Whether it shows numbers and figures.

    Returns:
        `str`: The card, with its metadata.

    Raises:
        ValueError: If the folder holds no model of either trainer, or one of its files is cut off.
    """
    from jinja2 import Environment, StrictUndefined

    record, adapter = read_record(folder), _read(folder, "adapter_config.json")
    settings = _read(folder, SCORE_CONFIG_FILE)
    method_name = method_of(folder)
    method = _METHODS[method_name]
    name = repo_id or record.get("repo_id") or folder.resolve().name
    base = base_model or record.get("base_model") or _base_of(adapter)
    model_name = name.rpartition("/")[2]
    tables = result_tables(folder) if with_results else []
    results = main_results(folder) if with_results else {}
    environment = Environment(trim_blocks=True, undefined=StrictUndefined)
    return environment.from_string(CARD).render(
        metadata=_metadata(method, record, adapter, base, licence, model_name, results).to_yaml(),
        model_name=model_name,
        introduction=_introduction(method_name, record, adapter, base),
        usage=environment.from_string(method.usage).render(name=name),
        correction_prompt=_fence(_prompt_text(settings.get("correction_prompt"))),
        critique_prompt=_fence(_read(folder, "config.json").get("critique_prompt") if method_name == "CLoud" else None),
        tables=[f"{table.title}:\n\n{markdown_table(table.columns, table.rows)}" for table in tables],
        figures=figures(folder) if with_results else {},
        links="\n".join(record.get("links") or []),
        facts=markdown_table(["what", "value"], _facts(record, settings, adapter, base)),
        arguments=_arguments(record),
        deviations=record.get("deviations"),
        licence=_licence_text(base, licence),
        citations=[*_paper_citation(record), TRL_CITATION],
    )


def method_of(folder: Path) -> str:
    """
    Tell which method a model was trained with.

    Args:
        folder (`Path`):
            Its folder.

    Returns:
        `str`: `"SCoRe"` or `"CLoud"`.

    Raises:
        ValueError: If neither trainer has written it.
    """
    if "method" in (record := read_record(folder)):
        return str(record["method"])
    if (folder / SCORE_CONFIG_FILE).is_file():
        return "SCoRe"
    if _read(folder, "config.json").get("model_type") == "cloud":
        return "CLoud"
    raise ValueError(
        f"Expected a model of SCoReTrainer or CLoudRewardTrainer in {str(folder)!r}, got a folder with neither a "
        "`score_config.json` nor a `config.json` of the type 'cloud'. Name a folder that such a trainer has saved into."
    )


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    Write a table in Markdown.

    Args:
        columns (`Sequence[str]`):
            Heads of the columns.
        rows (`Sequence[Sequence[str]]`):
            The cells; what would break the table is escaped.

    Returns:
        `str`: The table.

    Example:
        >>> print(markdown_table(["", "turn 1"], [["base | greedy", "96.4"]]))
        |  | turn 1 |
        |---|---|
        | base \\| greedy | 96.4 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    head, _, *body = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def _metadata(
    method: Method,
    record: Mapping[str, Any],
    adapter: Mapping[str, Any],
    base: str | None,
    licence: Licence | None,
    model_name: str,
    results: Mapping[str, float],
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = record.get("dataset")
    on = dataset or "held-out data of the run"
    measured = [
        EvalResult(
            task_type=method.pipeline_tag,
            dataset_type=on,
            dataset_name=on,
            metric_type=metric,
            metric_value=round(value, 4),
        )
        for metric, value in results.items()
    ]
    return ModelCardData(
        model_name=model_name,
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        datasets=[dataset] if dataset and "/" in dataset else None,
        library_name=method.library or ("peft" if adapter else "transformers"),
        pipeline_tag=method.pipeline_tag,
        tags=sorted(
            {*(record.get("tags") or ["trl", "trl-score"]), *(["lora"] if adapter.get("peft_type") == "LORA" else [])}
        ),
        eval_results=measured or None,
        **({} if licence is None else {key: value for key, value in vars(licence).items() if value is not None}),
    )


def _introduction(method_name: str, record: Mapping[str, Any], adapter: Mapping[str, Any], base: str | None) -> str:
    kind = f"{_kind_of(adapter)} of {_link(base) if base else 'a model that is not on the Hub'}"
    paper = record.get("paper") or {}
    by = f"[{method_name}](https://huggingface.co/papers/{paper['id']})" if paper else method_name
    dataset, rewards = record.get("dataset"), record.get("reward_funcs")
    on = f" on {_link(dataset, 'datasets/') if '/' in dataset else dataset}" if dataset else ""
    for_what = f" with {_listed(rewards)} as reward" if rewards else ""
    method = f"The method is {by}, in trl_score, on top of [TRL](https://github.com/huggingface/trl)."
    return f"{kind}, trained{on}{for_what} {_METHODS[method_name].what}. {method}"


def _kind_of(adapter: Mapping[str, Any]) -> str:
    return f"A {_peft_name(adapter)} adapter" if adapter else "A fine-tuned version"


def _peft_name(adapter: Mapping[str, Any]) -> str:
    return {"LORA": "LoRA"}.get(adapter["peft_type"], str(adapter["peft_type"]))


def _facts(
    record: Mapping[str, Any], settings: Mapping[str, Any], adapter: Mapping[str, Any], base: str | None
) -> list[list[str]]:
    """The table of what was trained on what; rows without a value are left out."""
    budgets = settings.get("max_completion_length") or []
    rows = {
        "Base model": f"{_link(base)}{_commit(record.get('base_commit'))}" if base else None,
        "Trained before": "; ".join(_step_text(step) for step in record.get("earlier") or []),
        "Dataset": record.get("dataset"),
        "Rows": record.get("num_rows"),
        "Stage": _STAGES.get(str(record.get("stage")), record.get("stage")),
        "Reward functions": _listed(record.get("reward_funcs") or []),
        "Reward weights": record.get("reward_weights") if len(record.get("reward_weights") or []) > 1 else None,
        "Tokens of turn 1, turn 2": ", ".join(map(str, budgets)),
        "Steps": f"{record['step']} of {record['max_steps']}" if record.get("max_steps") else None,
        "Processes": record.get("num_processes"),
        "Adapter": _adapter_text(adapter),
        "Merged from": record.get("merged_from"),
        "Versions": ", ".join(f"{library} {number}" for library, number in (record.get("versions") or {}).items()),
    }
    return [[name, str(value)] for name, value in rows.items() if value not in (None, "")]


def _step_text(step: Mapping[str, Any]) -> str:
    if "repo_id" in step:
        return _link(step["repo_id"])
    stage = _STAGES.get(str(step.get("stage")), step.get("stage"))
    on = f" on {step['dataset']}" if step.get("dataset") else ""
    return f"{step.get('method')}, {stage}{on}, {step.get('step')} steps"


def _adapter_text(adapter: Mapping[str, Any]) -> str:
    if not adapter:
        return ""
    modules = adapter.get("target_modules") or []
    names = [modules] if isinstance(modules, str) else sorted({module.rpartition(".")[2] for module in modules})
    rank = f", rank {adapter['r']}, alpha {adapter.get('lora_alpha')}" if "r" in adapter else ""
    return f"{_peft_name(adapter)}{rank}, on {_listed(names)}"


def _arguments(record: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", f"`{json.dumps(value, ensure_ascii=False)}`"]
        for name, value in (record.get("arguments") or {}).items()
        if value is not None and name not in _SHOWN_ELSEWHERE
    ]
    return markdown_table(["argument", "value"], rows) if rows else ""


def _licence_text(base: str | None, licence: Licence | None) -> str:
    if base is None:
        return "The licence of the model that training began from holds for this one too."
    if licence is None:
        return f"The licence of {_link(base)} holds for this model too. Read it there."
    name = licence.license_name or licence.license
    link = f"[{name}]({licence.license_link})" if licence.license_link else f"`{name}`"
    return f"That of {_link(base)}, from whose weights it was made: {link}."


def _paper_citation(record: Mapping[str, Any]) -> list[str]:
    return [record["paper"]["citation"]] if record.get("paper") else []


def _base_of(adapter: Mapping[str, Any]) -> str | None:
    base = adapter.get("base_model_name_or_path")
    return base if base and not is_local(base) else None


def _link(name: str, kind: str = "") -> str:
    return f"[{name}](https://huggingface.co/{kind}{name})"


def _commit(commit: str | None) -> str:
    return f", commit `{commit[:12]}`" if commit else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _prompt_text(prompt: str | list[Mapping[str, str]] | None) -> str | None:
    if isinstance(prompt, list):
        return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    return prompt


def _fence(text: str | None) -> str | None:
    """A text as it stands, in a block whose fence is longer than any in the text."""
    if text is None:
        return None
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}text\n{text}\n{fence}"


def _read(folder: Path, name: str) -> Mapping[str, Any]:
    content = read_json(folder / name) if (folder / name).is_file() else {}
    return content if isinstance(content, dict) else {}


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
