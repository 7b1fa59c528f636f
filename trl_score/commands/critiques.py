"""
Let a CLoud reward model criticise both responses of each pair of a preference dataset. Its own critiques are what the
joint stage of CLoud learns from.

  trl-score critiques --model runs/cloud/sft --dataset pairs.jsonl --output pairs_with_critiques.parquet
  trl-score critiques --model runs/cloud --dataset trl-lib/ultrafeedback_binarized --split test --output ultra.jsonl \
      --num_critiques 4 --temperature 0.5 --consistent

What is written is kept in OUTPUT.journal at once: a run that was killed goes on where it was, with the same command.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

_ENDINGS = (".jsonl", ".parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Adds the options of the command.

    Args:
        parser (`argparse.ArgumentParser`):
            Its parser.
    """
    parser.add_argument("--model", required=True, metavar="MODEL", help="folder or Hub name of a CLoud reward model")
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write, .jsonl or .parquet")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there already")
    data = parser.add_argument_group("data", "rows with chosen, rejected, and prompt unless the two contain it")
    data.add_argument(
        "--dataset", required=True, metavar="NAME", help="a JSON, JSON Lines, Parquet or CSV file, a folder, a Hub name"
    )
    data.add_argument("--dataset_config", metavar="NAME", help="configuration of the dataset")
    data.add_argument("--split", metavar="NAME", help="split of the dataset (default: all of them)")
    writing = parser.add_argument_group("critiques")
    writing.add_argument(
        "--num_critiques", type=int, default=1, metavar="N", help="critiques of each response (default: %(default)s)"
    )
    writing.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 is greedy, as in the paper (default: %(default)s)",
    )
    writing.add_argument(
        "--top_p", type=float, default=1.0, metavar="P", help="nucleus of sampling (default: %(default)s)"
    )
    writing.add_argument(
        "--max_new_tokens", type=int, default=1024, metavar="N", help="most tokens of a critique (default: %(default)s)"
    )
    writing.add_argument(
        "--batch_size", type=int, default=8, metavar="N", help="critiques written together (default: %(default)s)"
    )
    writing.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling (default: %(default)s)")
    writing.add_argument(
        "--consistent", action="store_true", help="keep only critiques whose rewards agree with the label"
    )
    loading = parser.add_argument_group("model")
    loading.add_argument("--dtype", metavar="NAME", help="load the model as, for instance, bfloat16")
    loading.add_argument(
        "--critique_prompt", metavar="TEXT", help="request for a critique, for a checkpoint that does not say its own"
    )


def run(arguments: argparse.Namespace) -> int:
    """
    Writes critiques.

    Args:
        arguments (`argparse.Namespace`):
            The options.

    Returns:
        `int`: The exit code.

    Raises:
        FileExistsError: If the output is there already and may not be replaced.
        ValueError: If the output is of no known kind, the model is no reward model, rows cannot be read or rendered, an
            option is out of range, or the journal is of another run.
    """
    from trl_score.plots.runs import refuse_to_overwrite

    output = Path(arguments.output)
    if output.suffix not in _ENDINGS:
        raise ValueError(f"Expected an output that ends in one of {list(_ENDINGS)}, got {str(output)!r}. Rename it.")
    refuse_to_overwrite([output], arguments.overwrite)
    dataset = _read_pairs(arguments)

    from accelerate import PartialState

    from trl_score.cloud.critiques import filter_consistent

    critiqued = _write_critiques(arguments, dataset, Path(f"{output}.journal"))
    counts = f"{len(critiqued)} rows"
    if arguments.consistent:
        kept = filter_consistent(critiqued)
        critiqued = kept.dataset
        counts = (
            f"{len(critiqued)} rows, dropped {kept.num_rows_dropped} rows and {kept.num_critiques_dropped} critiques"
        )
    if PartialState().is_main_process:
        _save(critiqued, output)
        print(f"{output}: {counts}")
    return 0


def _read_pairs(arguments: argparse.Namespace) -> "Dataset":
    from datasets import Dataset

    from trl_score.data.sources import read_source

    source = read_source(arguments.dataset, config=arguments.dataset_config, split=arguments.split)
    return Dataset.from_list(source.rows)


def _write_critiques(arguments: argparse.Namespace, dataset: "Dataset", journal: Path) -> "Dataset":
    import transformers

    from trl_score.cloud.critiques import self_critique_dataset
    from trl_score.cloud.generation import unwrap_reward_model
    from trl_score.cloud.modeling import load_reward_model
    from trl_score.cloud.prompts import CritiqueTemplate
    from trl_score.cloud.scorer import default_device
    from trl_score.evaluation import load_tokenizer

    transformers.logging.disable_progress_bar()  # of loading weights
    tokenizer = load_tokenizer(arguments.model)
    options: dict[str, Any] = {"dtype": arguments.dtype, "critique_prompt": arguments.critique_prompt}
    given = {name: value for name, value in options.items() if value is not None}
    model = load_reward_model(arguments.model, **given).to(default_device()).eval()
    return self_critique_dataset(
        model,
        CritiqueTemplate(tokenizer, unwrap_reward_model(model).config.critique_prompt),
        dataset,
        num_critiques=arguments.num_critiques,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        output_dir=journal,
    )


def _save(dataset: "Dataset", output: Path) -> None:
    """In whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f"{output.stem}.unfinished{output.suffix}")
    if output.suffix == ".parquet":
        dataset.to_parquet(unfinished)
    else:
        # `to_json` of a dataset rounds rewards.
        lines = (json.dumps(row, ensure_ascii=False) for row in dataset)
        unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    unfinished.replace(output)
