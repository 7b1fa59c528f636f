"""
Let a model answer every problem, ask it to look again, and measure how well it corrects itself: the paper's table, with
95% intervals. A run that was killed goes on where it was when it is started again.

  trl-score evaluate --model adder --task adder --do_sample --output_dir runs/base
  trl-score evaluate --model runs/math --task math-500 --output_dir runs/math/evaluation
  trl-score evaluate --model runs/math --task own-maths --path exam.jsonl --columns problem=question --output_dir exam
  trl-score evaluate --endpoint http://localhost:8000/v1 --model my-model --task gsm8k --output_dir gsm8k
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl_score.cloud.endpoint import ChatEndpoint
    from trl_score.evaluation.problems import Problems
    from trl_score.evaluation.settings import EvaluationSettings
    from trl_score.evaluation.turns import Respondent

EMBEDDED = "adder"
DEFAULT_MAX_NEW_TOKENS = 512
REPLIES = "replies.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Adds the options of the command.

    Args:
        parser (`argparse.ArgumentParser`):
            Its parser.
    """
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder to write into, or to go on in")
    parser.add_argument("--overwrite", action="store_true", help="begin anew, and lose what is in the folder")
    parser.add_argument(
        "--compare", metavar="RECORDS", help="records.jsonl, or its folder, of another model: adds paired tests"
    )
    _add_model_arguments(parser.add_argument_group("model"))
    _add_problem_arguments(parser.add_argument_group("problems"))
    _add_turn_arguments(parser.add_argument_group("turns"))
    _add_sampling_arguments(parser.add_argument_group("sampling"))


def _add_model_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="folder or Hub name of a model or an adapter, 'adder', or the name that an endpoint has for it",
    )
    group.add_argument("--tokenizer", metavar="NAME", help="folder or Hub name of another tokenizer than the model's")
    group.add_argument("--endpoint", metavar="URL", help="address of an OpenAI-compatible server, up to /v1")
    group.add_argument("--api_key_env", metavar="NAME", help="environment variable that holds the endpoint's key")
    group.add_argument(
        "--max_concurrency", type=int, default=16, metavar="N", help="most requests at a time (default: %(default)s)"
    )
    group.add_argument(
        "--max_tries", type=int, default=5, metavar="N", help="tries of one request (default: %(default)s)"
    )
    group.add_argument(
        "--timeout_s", type=float, default=600.0, metavar="S", help="seconds for one try (default: %(default)s)"
    )


def _add_problem_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--task", nargs="+", default=[], metavar="NAME", help="task, or several at once: docs/tasks.md")
    group.add_argument("--path", metavar="PATH", help="local copy, data of your own, or another name on the Hub")
    group.add_argument("--split", metavar="NAME", help="split (default: the task's for measuring)")
    group.add_argument(
        "--columns", nargs="+", metavar="NAME=COLUMN", help="the task's name for a column = the source's"
    )
    group.add_argument(
        "--task_options", nargs="+", metavar="NAME=VALUE", help="further options of the task, such as shown_tests=none"
    )
    group.add_argument(
        "--reward_funcs", "--reward_func", metavar="PATH", help="reward function in place of the task's: a dotted path"
    )
    group.add_argument("--num_problems", type=int, metavar="N", help="the first N problems, of each task")


def _add_turn_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--num_turns", "--turns", type=int, default=2, metavar="N", help="turns of each problem (default: %(default)s)"
    )
    group.add_argument(
        "--max_new_tokens",
        type=int,
        nargs="+",
        metavar="N",
        help="most tokens of a turn, or a number for each turn (default: as in training, else the task's)",
    )
    group.add_argument(
        "--correction_prompt",
        metavar="TEXT",
        help="what is asked between turns (default: as in training, else the task's)",
    )
    group.add_argument(
        "--offline_turn_1_column",
        metavar="NAME",
        help="column with first turns that are given (default: none; of mbpp-r, turn_1)",
    )


def _add_sampling_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--do_sample", action="store_true", help="sample; greedy otherwise")
    group.add_argument("--temperature", type=float, metavar="T", help="of sampling (default: 1.0)")
    group.add_argument(
        "--num_samples", type=int, default=1, metavar="N", help="answers to each problem (default: %(default)s)"
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of sampling and of the intervals (default: %(default)s)"
    )
    group.add_argument(
        "--batch_size", type=int, default=64, metavar="N", help="problems answered together (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """
    Evaluates, prints the table, and says where the files lie.

    Args:
        arguments (`argparse.Namespace`):
            The options.

    Returns:
        `int`: The exit code.

    Raises:
        OSError: If the model cannot be found, or another process evaluates into the folder.
        UserError: If the endpoint refuses everything.
        ValueError: If options do not go together, the problems cannot be used, there is no tokenizer, the chat template
            cannot be continued, or the folder holds another evaluation.
    """
    from rich.console import Console

    from trl_score.evaluation.comparison import check_comparable, compare_records
    from trl_score.evaluation.folder import METRICS, check_description
    from trl_score.evaluation.records import problem_names
    from trl_score.evaluation.run import check_rows, describe_evaluation, run_evaluation
    from trl_score.evaluation.tables import print_comparison, print_summary
    from trl_score.plots.records import read_records

    _check_options(arguments)
    # All that can be wrong without the model is found before it is loaded.
    others = read_records(arguments.compare) if arguments.compare is not None else None
    endpoint = _make_endpoint(arguments)
    settings, problems = _make_settings(arguments, _load_problems(arguments))
    check_rows(problems.dataset, settings)
    if others is not None:
        check_comparable(others, problem_names(problems.dataset[:]), settings.num_turns)
    if not arguments.overwrite:
        identity = {"model": arguments.model} if endpoint is None else {"endpoint": endpoint.identity}
        description = describe_evaluation(identity, problems.dataset, problems.reward_func, settings, problems.about)
        check_description(arguments.output_dir, description)
    with ExitStack() as open_files:
        respondent = _make_respondent(arguments, endpoint, problems, settings, open_files)
        evaluation = run_evaluation(
            respondent,
            problems.dataset,
            problems.reward_func,
            settings,
            about=problems.about,
            output_dir=arguments.output_dir,
            overwrite=arguments.overwrite,
            progress=_label(arguments),
        )
    folder = Path(arguments.output_dir)
    summary = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    console = Console(highlight=False)
    print_summary(console, _label(arguments), summary)
    if others is not None:
        print_comparison(console, compare_records(others, evaluation.records, seed=settings.seed))
    console.print(f"Records and metrics: {folder}", soft_wrap=True, markup=False)
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.temperature is not None and not arguments.do_sample:
        raise ValueError("`--temperature` is of sampling, got one without `--do_sample`. Add it.")
    if arguments.endpoint is None and arguments.api_key_env is not None:
        raise ValueError("`--api_key_env` is an endpoint's, got one without `--endpoint`. Add it.")
    if arguments.endpoint is not None and arguments.tokenizer is not None:
        raise ValueError("`--tokenizer` is of a model that is loaded here, got one with `--endpoint`. Take it out.")


def _make_endpoint(arguments: argparse.Namespace) -> "ChatEndpoint | None":
    if arguments.endpoint is None:
        return None
    from trl_score.cloud.endpoint import ChatEndpoint

    return ChatEndpoint(
        arguments.endpoint,
        arguments.model,
        api_key_env=arguments.api_key_env,
        max_concurrency=arguments.max_concurrency,
        max_tries=arguments.max_tries,
        timeout_s=arguments.timeout_s,
    )


def _load_problems(arguments: argparse.Namespace) -> "Problems":
    from trl_score.evaluation.problems import load_problems
    from trl_score.rewards.named import load_reward_func

    options = _named_values(arguments.task_options, "--task_options")
    return load_problems(
        arguments.task,
        path=arguments.path,
        split=arguments.split,
        columns=_named_values(arguments.columns, "--columns"),
        options={name: _json_or_text(value) for name, value in options.items()},
        reward_func=load_reward_func(arguments.reward_funcs) if arguments.reward_funcs is not None else None,
        num_problems=arguments.num_problems,
    )


def _named_values(items: Sequence[str] | None, option: str) -> dict[str, str]:
    named = {}
    for item in items or ():
        name, equals, value = item.partition("=")
        if not name or not equals or not value:
            raise ValueError(f"`{option}` takes NAME=VALUE, got {item!r}.")
        named[name] = value
    return named


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _make_settings(arguments: argparse.Namespace, problems: "Problems") -> "tuple[EvaluationSettings, Problems]":
    """What the command line says goes before what the model was trained with, and that before what suits the task."""
    from trl_score.evaluation.settings import EvaluationSettings
    from trl_score.records import BUDGET_COLUMNS, CORRECTION_COLUMN
    from trl_score.score.prompts import DEFAULT_CORRECTION_PROMPT

    trained_with = _trained_with(arguments)
    prompt = arguments.correction_prompt or trained_with.get("correction_prompt")
    budgets = arguments.max_new_tokens or _of_all_turns(trained_with.get("max_completion_length"), arguments.num_turns)
    if len(arguments.task) > 1:  # rows of several tasks carry what suits their task
        chosen = {CORRECTION_COLUMN} if prompt else set()
        chosen |= set(BUDGET_COLUMNS) if budgets else set()
        columns = [name for name in problems.dataset.column_names if name not in chosen]
        problems = replace(problems, dataset=problems.dataset.select_columns(columns))
    if not budgets:
        budgets = [problems.max_completion_length or DEFAULT_MAX_NEW_TOKENS]
    settings = EvaluationSettings(
        max_completion_length=budgets[0] if len(budgets) == 1 else budgets,
        num_turns=arguments.num_turns,
        num_samples=arguments.num_samples,
        correction_prompt=prompt or problems.correction_prompt or DEFAULT_CORRECTION_PROMPT,
        offline_turn_1_column=arguments.offline_turn_1_column or problems.offline_turn_1_column,
        do_sample=arguments.do_sample,
        temperature=1.0 if arguments.temperature is None else arguments.temperature,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        chat_template_kwargs=trained_with.get("chat_template_kwargs") or {},
    )
    return settings, problems


def _trained_with(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.endpoint is not None or arguments.model == EMBEDDED:
        return {}
    from trl_score.pipeline import read_score_config

    return read_score_config(arguments.model)


def _of_all_turns(budgets: Sequence[int] | None, num_turns: int) -> list[int]:
    """Further turns are as long as the last one that was trained."""
    return [budgets[min(turn, len(budgets) - 1)] for turn in range(num_turns)] if budgets else []


def _make_respondent(
    arguments: argparse.Namespace,
    endpoint: "ChatEndpoint | None",
    problems: "Problems",
    settings: "EvaluationSettings",
    open_files: ExitStack,
) -> "Respondent":
    if endpoint is not None:
        from trl_score.cloud.chat import Journal
        from trl_score.evaluation.endpoint import EndpointRespondent

        journal = open_files.enter_context(Journal(Path(arguments.output_dir) / REPLIES))
        if arguments.overwrite:
            journal.clear()
        return EndpointRespondent(endpoint, settings, journal)
    import transformers

    from trl_score.data.adder import adder_base_path
    from trl_score.evaluation import load_model, load_tokenizer
    from trl_score.evaluation.respondents import LocalRespondent

    transformers.logging.disable_progress_bar()  # of loading weights
    path = str(adder_base_path()) if arguments.model == EMBEDDED else arguments.model
    tokenizer = load_tokenizer(arguments.tokenizer or path)
    return LocalRespondent(load_model(path), tokenizer, settings, problems.dataset, name=arguments.model)


def _label(arguments: argparse.Namespace) -> str:
    return Path(arguments.model).name or str(arguments.model)
