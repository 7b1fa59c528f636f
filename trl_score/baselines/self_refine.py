"""
Self-Refine (arXiv 2303.17651): prompting alone. An answer, a critique of it, an answer that takes the critique into
account.

Generated as three turns, of which the critique is not scored; recorded as two, with the critique beside them, so that
its table is the other methods' table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from trl_score.baselines.sampling import TurnSampler, row_batches, score_two_turns
from trl_score.evaluation import Evaluation, EvaluationRecord
from trl_score.evaluation_records import make_records
from trl_score.evaluation_turns import AnsweredTurn
from trl_score.metrics import self_correction_metrics
from trl_score.records import Message, RewardFunc
from trl_score.score.prompts import is_conversational_prompt

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CRITIQUE_PROMPT = (
    "Read your answer as a strict examiner would. Say of each step whether it holds, and where one does not, name the "
    "mistake. Write the critique only, without a new answer."
)
"""Our own wording; the paper does not give its own. It never says whether turn 1 was right."""

REFINE_PROMPT = (
    "Now write your answer anew, with everything put right that your critique found, and nothing changed that it did "
    "not. Give the complete answer, in the same form as before."
)
"""Our own wording."""


@dataclass(frozen=True)
class SelfRefineEvaluation(Evaluation):
    """
    What Self-Refine gives: records and metrics of the two answers, and the critiques between them.

    Args:
        critiques (`list[str]`):
            One per record.
    """

    critiques: list[str]

    def record_dicts(self) -> list[dict[str, Any]]:
        """
        Gives the records as JSON can hold them.

        Returns:
            `list[dict]`: each with its `critique`.
        """
        pairs = zip(self.records, self.critiques, strict=True)
        return [{**record.as_dict(), "critique": critique} for record, critique in pairs]


def evaluate_self_refine(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dataset: "Dataset",
    reward_func: RewardFunc,
    *,
    max_completion_length: tuple[int, int, int],
    critique_prompt: str | list[Message] = CRITIQUE_PROMPT,
    refine_prompt: str | list[Message] = REFINE_PROMPT,
    do_sample: bool = False,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    progress: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> SelfRefineEvaluation:
    """
    Lets a model answer, criticise its answer and answer again, and measures the two answers.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, on its device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        dataset ([`~datasets.Dataset`]):
            Rows with a `prompt`, and what the reward function needs.
        reward_func (`Callable`):
            A reward function as in training. It sees both answers and never a critique.
        max_completion_length (`tuple[int, int, int]`):
            Most tokens of the answer, of the critique and of the refined answer.
        critique_prompt (`str` or `list[dict]`, *optional*):
            What is asked after the answer.
        refine_prompt (`str` or `list[dict]`, *optional*):
            What is asked after the critique.
        do_sample (`bool`, *optional*, defaults to `False`):
            Whether to sample; greedy otherwise.
        temperature (`float`, *optional*, defaults to `1.0`):
            Of sampling.
        batch_size (`int`, *optional*, defaults to `64`):
            Problems generated together.
        seed (`int`, *optional*, defaults to `0`):
            Of sampling and of the bootstrap.
        progress (`str`, *optional*):
            A progress bar's label; no bar by default.
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.

    Returns:
        `SelfRefineEvaluation`: records of two turns, their metrics, and the critiques.

    Raises:
        `ValueError`: If the dataset is empty or has no `prompt`, or the chat template cannot be continued.
    """
    if len(dataset) == 0 or "prompt" not in dataset.column_names:
        raise ValueError(
            f"An evaluation needs rows with a `prompt`, got {len(dataset)} rows with the columns "
            f"{dataset.column_names}."
        )
    sampler = TurnSampler(
        model,
        tokenizer,
        (critique_prompt, refine_prompt),
        max_completion_length,
        is_chat=is_conversational_prompt(dataset[0]["prompt"]),
        do_sample=do_sample,
        temperature=temperature,
        chat_template_kwargs=chat_template_kwargs,
    )
    records: list[EvaluationRecord] = []
    critiques: list[str] = []
    with tqdm(total=len(dataset), desc=progress, disable=progress is None, unit="problem", leave=False) as bar:
        for rows in row_batches(dataset, batch_size):
            sampled = sampler.sample(rows, f"{seed}-{len(records)}")
            answers, texts = (sampled.turns[0], sampled.turns[2]), (sampled.texts[0], sampled.texts[2])
            rewards = score_two_turns(reward_func, rows, texts, answers)
            records += make_records(
                rows,
                [
                    AnsweredTurn(written, [turn.truncated for turn in turns])
                    for written, turns in zip(texts, answers, strict=True)
                ],
                list(zip(*rewards, strict=True)),
                is_turn_1_offline=[False] * len(rows["prompt"]),
                sample=0,
            )
            critiques += sampled.texts[1]
            bar.update(len(rows["prompt"]))
    return SelfRefineEvaluation(records, _metrics(records, seed), critiques)


def _metrics(records: Sequence[EvaluationRecord], seed: int) -> Any:
    return self_correction_metrics(
        [record.correct for record in records],
        [record.answers for record in records],
        [record.turns for record in records],
        seed=seed,
    )
