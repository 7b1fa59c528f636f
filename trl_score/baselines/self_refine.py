"""
Self-Refine (arXiv 2303.17651): prompting alone. An answer, a critique of it, an answer that takes the critique into
account.

Generated as three turns, of which the critique is not scored; recorded as two, with the critique beside them, so that
its table is the other methods' table.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_score.evaluation import Evaluation, EvaluationSettings
from trl_score.evaluation.respondents import LocalRespondent
from trl_score.evaluation.run import check_rows, run_evaluation
from trl_score.evaluation.turns import AnsweredTurn, Rows
from trl_score.records import Message, RewardFunc
from trl_score.score.prompts import Correction

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
    settings = EvaluationSettings(
        max_completion_length=max_completion_length,
        num_turns=3,
        do_sample=do_sample,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
        chat_template_kwargs=chat_template_kwargs or {},
    )
    check_rows(dataset, settings)
    respondent = _SelfRefineRespondent(model, tokenizer, settings, dataset, (critique_prompt, refine_prompt))
    evaluation = run_evaluation(respondent, dataset, reward_func, settings, progress=progress)
    return SelfRefineEvaluation(evaluation.records, evaluation.metrics, respondent.critiques)


class _SelfRefineRespondent(LocalRespondent):
    """Takes three turns, and keeps the second to itself."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        settings: EvaluationSettings,
        dataset: "Dataset",
        requests: tuple[str | list[Message], str | list[Message]],
    ) -> None:
        super().__init__(model, tokenizer, settings, dataset)
        self._own_requests = [self.correction(request) for request in requests]
        self.critiques: list[str] = []

    def answer(self, rows: Rows, *, sample: int, seed: int) -> list[AnsweredTurn]:
        first, critique, refined = super().answer(rows, sample=sample, seed=seed)
        self.critiques += critique.texts
        return [first, refined]

    def requests(self, rows: Rows) -> list[list[Correction]]:
        # A row's own correction prompt asks to look again, and knows nothing of a critique.
        return [[request] * len(rows["prompt"]) for request in self._own_requests]
