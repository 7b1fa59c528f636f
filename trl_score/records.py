"""What passes between the steps of SCoRe: the messages, one generated turn, one two-turn rollout.

Stands first in the flow: nothing here computes anything, and nothing here imports torch. Token ids are plain Python
lists, because a rollout is ragged; they become tensors when TRL pads them.

Notation used in the whole package: B rollouts on this process, N rollouts on all processes, G rollouts of one prompt
(`num_generations`), P prompts, T completion tokens (both turns and the correction prompt between them), V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

Message: TypeAlias = dict[str, Any]
"""One chat message: `{"role": ..., "content": ...}`."""

Prompt: TypeAlias = str | list[Message]
"""What a dataset row asks: plain text, or a list of chat messages."""

Completion: TypeAlias = str | list[Message]
"""What a model answered in one turn, in the form that TRL's reward functions take."""

RewardFunc: TypeAlias = Callable[..., Sequence[float | None]]
"""TRL's reward callable, `(prompts, completions, completion_ids, **columns) -> list[float | None]`."""

RIGHT_ABOVE = 0.5
"""A turn is right if its reward is above this, in training, evaluation and figures."""

BUDGET_COLUMNS = ("max_completion_length_t1", "max_completion_length_t2")
"""Dataset columns: most tokens of turn 1 and turn 2 of a row; `None` for the run's own budget."""

SCORE_CONFIG_FILE = "score_config.json"
"""Stands beside a saved model: the stage that it went through, and what it was trained with."""

CORRECTION_COLUMN = "correction_prompt"
"""Dataset column: what a row is asked between its turns; `None` for the run's own wording."""


@runtime_checkable
class ChecksDataset(Protocol):
    """A reward callable that can say, before training, whether a dataset's columns are fit to be scored by."""

    def check_dataset(self, dataset: Any) -> None:
        """
        Args:
            dataset (`datasets.Dataset`):
                The rows.

        Raises:
            `ValueError`: If a column is missing, or rows are unfit; the message lists them.
        """


@dataclass(frozen=True)
class GeneratedTurn:
    """
    What a generation engine returns for one prompt.

    Args:
        token_ids (`list[int]`):
            The ids that the model wrote, with its end-of-turn token where it wrote one. Never empty: a model that ends
            at once wrote the end token.
        truncated (`bool`):
            Whether the length budget ended the turn, and not the model.
        logprobs (`list[float | None]`, *optional*):
            For each id the log-probability, in nats, that the engine sampled it with; `None` for one that the engine
            cannot say. Engines that sample from the trainer's own model give no list.

    Example:

    ```python
    >>> GeneratedTurn(token_ids=[5, 6, 2], truncated=False).token_ids
    [5, 6, 2]

    ```
    """

    token_ids: list[int]
    truncated: bool
    logprobs: list[float | None] | None = None


@dataclass(frozen=True)
class Rollout:
    """
    One two-turn rollout as one row of tokens: [prompt, turn 1, correction prompt, turn 2].

    Args:
        prompt_ids (`list[int]`):
            The prompt x, templated.
        turn_1 (`GeneratedTurn`):
            The first answer.
        correction_ids (`list[int]`):
            Everything between the two turns: what closes turn 1 where the model did not close it itself, the request
            to look again, and the header of turn 2.
        turn_2 (`GeneratedTurn`):
            The second answer.
        is_turn_1_offline (`bool`, *optional*, defaults to `False`):
            Whether turn 1 was taken from the dataset and not sampled from the policy. Its tokens are then a part of
            the prompt of turn 2 and are not learned from.

    Example:

    ```python
    >>> rollout = Rollout([1, 2], GeneratedTurn([3, 9], False), [7, 8], GeneratedTurn([4, 9], False))
    >>> rollout.completion_ids
    [3, 9, 7, 8, 4, 9]
    >>> rollout.turn_of_token
    [1, 1, 0, 0, 2, 2]

    ```
    """

    prompt_ids: list[int]
    turn_1: GeneratedTurn
    correction_ids: list[int]
    turn_2: GeneratedTurn
    is_turn_1_offline: bool = False

    @property
    def completion_ids(self) -> list[int]:
        """`list[int]`: All that follows the prompt, T tokens."""
        return [*self.turn_1.token_ids, *self.correction_ids, *self.turn_2.token_ids]

    @property
    def turn_of_token(self) -> list[int]:
        """`list[int]`: T numbers: 1 and 2 where the policy wrote the token in that turn, 0 where it did not."""
        turn_1 = 0 if self.is_turn_1_offline else 1
        return [turn_1] * len(self.turn_1.token_ids) + [0] * len(self.correction_ids) + [2] * len(self.turn_2.token_ids)

    @property
    def logprobs(self) -> list[float | None] | None:
        """
        `list[float | None]`: T log-probabilities as the engine sampled, 0 where the policy did not write the token.
        `None` if the engine gives none.
        """
        if self.turn_2.logprobs is None:
            return None
        turn_1 = self.turn_1.logprobs
        if self.is_turn_1_offline:
            turn_1 = [0.0] * len(self.turn_1.token_ids)
        if turn_1 is None:
            raise ValueError(
                "Both turns come from one engine, got log-probabilities of turn 2 and none of turn 1. An engine gives "
                "them for all turns or for none."
            )
        return [*turn_1, *[0.0] * len(self.correction_ids), *self.turn_2.logprobs]
