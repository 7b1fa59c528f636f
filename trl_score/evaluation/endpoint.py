"""
A model behind an OpenAI-compatible endpoint that answers in an evaluation. Torch-free.

The conversation is sent anew for each turn, as the server's own chat template renders it. Every reply is kept in a
journal at once: what was answered is never asked again. A request that failed is not scored, and counted.
"""

from collections.abc import Sequence
from typing import Any

from trl_score.cloud.chat import ChatModel, ChatRequest, Journal, Sampling, ask
from trl_score.evaluation.records import problem_names
from trl_score.evaluation.settings import EvaluationSettings
from trl_score.evaluation.turns import AnsweredTurn, Rows
from trl_score.records import Message, Prompt
from trl_score.score.prompts import as_correction_messages

MAX_FAILURES_IN_A_ROW = 20
"""After so many failed requests in a row the run ends: an endpoint that is down would be asked everything in vain."""


class EndpointRespondent:
    """
    A chat model that answers rows, turn by turn, each turn of all rows of a batch at the same time.

    Greedy decoding asks for temperature 0. Sampled draws of a problem carry seeds of their own, which a server may
    ignore; a reply that is in the journal stays what it is.

    Args:
        model (`ChatModel`):
            Who is asked, such as a [`~trl_score.cloud.endpoint.ChatEndpoint`].
        settings ([`EvaluationSettings`]):
            How it is asked. Arguments of the chat template are the server's matter.
        journal ([`~trl_score.cloud.chat.Journal`]):
            Where replies are kept, open for writing.

    Raises:
        `ValueError`: If the settings have arguments of the chat template.
    """

    def __init__(self, model: ChatModel, settings: EvaluationSettings, journal: Journal) -> None:
        if settings.chat_template_kwargs:
            raise ValueError(
                f"`chat_template_kwargs` must be empty for an endpoint, whose server has the chat template, got "
                f"{settings.chat_template_kwargs}. Set them there, or in `extra_body`."
            )
        self.model = model
        self.settings = settings
        self.journal = journal
        self._failures_in_a_row = 0

    @property
    def identity(self) -> dict[str, Any]:
        """`dict`: What the chat model says of itself."""
        return {"endpoint": dict(self.model.identity)}

    def answer(self, rows: Rows, *, sample: int, seed: int) -> list[AnsweredTurn]:
        """
        Lets the model answer some rows.

        Args:
            rows (`dict[str, list]`):
                The rows.
            sample (`int`):
                Which sample of them, from 0.
            seed (`int`):
                Not used: a request has a seed of its own, made of the run's and the sample.

        Returns:
            `list[AnsweredTurn]`: the turns, each of all rows.

        Raises:
            [`~trl_score.cloud.chat.ChatError`]: If the endpoint refuses everything.
        """
        names = problem_names(rows)
        conversations = [_as_messages(prompt) for prompt in rows["prompt"]]
        corrections = [as_correction_messages(prompt) for prompt in self.settings.row_correction_prompts(rows)]
        texts: Sequence[str | None] = self.settings.given_first_turns(rows, sample)
        turns: list[AnsweredTurn] = []
        failures: dict[int, str] = {}
        for number, budgets in enumerate(self.settings.row_budgets(rows), start=1):
            requests = {
                row: self._request(f"{names[row]}, turn {number}", conversations[row], budgets[row], sample)
                for row, text in enumerate(texts)
                if text is None and row not in failures
            }
            turn = self._ask_turn(requests, texts, failures)
            turns.append(turn)
            failures, texts = turn.failures, [None] * len(names)
            conversations = [
                [*conversation, {"role": "assistant", "content": text}, *correction]
                for conversation, text, correction in zip(conversations, turn.texts, corrections, strict=True)
            ]
        return turns

    def _request(self, row_id: str, conversation: list[Message], budget: int, sample: int) -> ChatRequest:
        settings = self.settings
        sampling = (
            Sampling(budget, settings.temperature, seed=settings.seed) if settings.do_sample else Sampling(budget)
        )
        return ChatRequest(f"{row_id}, sample {sample}", conversation, sampling, draw=sample)

    def _ask_turn(
        self, requests: dict[int, ChatRequest], given: Sequence[str | None], failed_before: dict[int, str]
    ) -> AnsweredTurn:
        """One turn: given texts, replies to the requests of some rows, and nothing in rows that failed."""
        replies = ask(
            requests.values(),
            self.model,
            self.journal,
            max_failures_in_a_row=MAX_FAILURES_IN_A_ROW - self._failures_in_a_row,
        )
        texts, truncated, failures = [text or "" for text in given], [False] * len(given), dict(failed_before)
        for (row, request), reply in zip(requests.items(), replies, strict=True):
            if reply is None:
                failures[row] = self.journal.failures[request.row_id].cause
                # Batches may be small: failures count on from one to the next.
                self._failures_in_a_row += request.row_id not in self.journal.failed_before
            else:
                texts[row], truncated[row] = reply.text, reply.is_truncated
                self._failures_in_a_row = 0
        return AnsweredTurn(texts, truncated, failures=failures)


def _as_messages(prompt: Prompt) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
