"""
Sampling traces: a model's own two turns on the training problems, at the training temperature, token ids kept.

On several processes each samples its share, and all get all of them.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from trl_score.baselines.budget import Budget
from trl_score.baselines.trace_sets import Trace
from trl_score.evaluation import EvaluationSettings
from trl_score.evaluation.respondents import LocalRespondent
from trl_score.evaluation.run import score_turn
from trl_score.evaluation.turns import Rows
from trl_score.records import RewardFunc, Rollout
from trl_score.score.score_config import SCoReConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def draw_problems(num_rows: int, budget: Budget, *, seed: int | str) -> list[int]:
    """
    Draws the problems to sample, as a SCoRe run meets them: in a random order, all before any comes again.

    Args:
        num_rows (`int`):
            Rows of the dataset.
        budget ([`Budget`]):
            How many prompts, and how many rollouts of each.
        seed (`int` or `str`):
            Of the order.

    Returns:
        `list[int]`: a row for each rollout, those of one prompt together.

    Example:

    ```python
    >>> rows = draw_problems(3, Budget(updates=1, prompts=4, group_size=2), seed=0)
    >>> len(rows), sorted(set(rows[:6])), rows[0] == rows[1]
    (8, [0, 1, 2], True)

    ```
    """
    rng = random.Random(f"{seed}")
    drawn: list[int] = []
    while len(drawn) < budget.prompts:
        drawn += rng.sample(range(num_rows), min(num_rows, budget.prompts - len(drawn)))
    return [row for row in drawn for _ in range(budget.group_size)]


def sample_traces(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dataset: "Dataset",
    problems: Sequence[int],
    reward_func: RewardFunc,
    args: SCoReConfig,
    *,
    seed: int | str,
    progress: str | None = None,
) -> list[Trace]:
    """
    Samples two turns for each of some problems. A collective operation: every process is to call it.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, on its device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        dataset ([`~datasets.Dataset`]):
            Rows with a `prompt`, and what the reward function needs.
        problems (`Sequence[int]`):
            Rows of it, one for each trace; a row may come again.
        reward_func (`Callable`):
            A reward function as in training. A turn is right where it gives more than 0.5.
        args ([`SCoReConfig`]):
            Of the run: correction prompt, length budgets, temperature, arguments of the chat template, and how many
            rollouts a process makes at once.
        seed (`int` or `str`):
            Of sampling. The global random state is left as it was.
        progress (`str`, *optional*):
            A progress bar's label; no bar by default.

    Returns:
        `list[Trace]`: the traces of all processes, the same on each.
    """
    state = PartialState()
    own = list(problems[state.process_index :: state.num_processes])
    settings = EvaluationSettings(
        max_completion_length=args.turn_budgets,
        correction_prompt=args.correction_prompt,
        do_sample=True,
        temperature=args.temperature,
        batch_size=max((args.generation_batch_size or 1) // state.num_processes, 1),
        chat_template_kwargs=args.chat_template_kwargs if isinstance(args.chat_template_kwargs, dict) else {},
    )
    respondent = LocalRespondent(model, tokenizer, settings, dataset)
    traces: list[Trace] = []
    show = progress is not None and state.is_main_process
    with tqdm(total=len(own), desc=progress, disable=not show, unit="trace", leave=False) as bar:
        for start in range(0, len(own), settings.batch_size):
            rows = own[start : start + settings.batch_size]
            seed_of_batch = random.Random(f"{seed}-{state.process_index}-{start}").getrandbits(48)
            traces += _sample_batch(respondent, rows, dataset[rows], reward_func, seed_of_batch)
            bar.update(len(rows))
    gathered: list[Trace] = gather_object(traces)
    return gathered


def _sample_batch(
    respondent: LocalRespondent, problems: Sequence[int], rows: Rows, reward_func: RewardFunc, seed: int
) -> list[Trace]:
    timed = respondent.roll_out(rows, sample=0, seed=seed)
    turns = [respondent.decode(generated) for generated in timed.turns]
    rewards = [score_turn(reward_func, rows, turns, number) for number in (1, 2)]
    parts = zip(respondent.tokenize(rows), timed.turns[0], timed.correction_ids[0], timed.turns[1], strict=True)
    rollouts = [Rollout(*part) for part in parts]
    texts, rewards_of_rows = zip(turns[0].texts, turns[1].texts, strict=True), zip(*rewards, strict=True)
    return [Trace(*part) for part in zip(problems, rollouts, texts, rewards_of_rows, strict=True)]
