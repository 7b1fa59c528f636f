"""
Ways in which self-correction training collapses, read off the training log one entry at a time.

Rules alone, which load no torch: `trl_score.callbacks` wraps each as a callback that warns while training, and the
report replays them over a log.
"""

from collections.abc import Mapping

Logs = Mapping[str, float | None]
"""One entry of the training log; `None` where nothing could be counted."""


class CollapseRule:
    """
    One way to fail, and how long it must last before anything is said.

    Subclasses say in `finding` what is wrong with a log entry. Made for training logs (not evaluation), because what
    the policy does when it samples is what it learns from.

    Args:
        patience (`int`, *optional*, defaults to `5`):
            Log entries in a row before it speaks.

    Raises:
        `ValueError`: If `patience` is below 1.

    Example:

    ```python
    >>> rule = CopyRule(patience=2)
    >>> log = {"score/answers_changed": 0.0, "score/edit_distance_ratio": 0.0}
    >>> rule.check(log), rule.check(log) is not None
    (None, True)

    ```
    """

    def __init__(self, patience: int = 5) -> None:
        if patience < 1:
            raise ValueError(f"`patience` must be at least 1 log entry, got {patience}.")
        self.patience = patience
        self.num_in_a_row = 0

    def finding(self, logs: Logs) -> str | None:
        """
        Says what is wrong with a log entry.

        Args:
            logs (`Mapping`):
                One entry of the training log.

        Returns:
            `str`, *optional*: the finding, or `None`.
        """
        raise NotImplementedError

    def check(self, logs: Logs) -> str | None:
        """
        Looks at one log entry.

        Args:
            logs (`Mapping`):
                One entry of the training log.

        Returns:
            `str`, *optional*: the finding, once it has lasted `patience` entries; said once for each time it sets in.
        """
        finding = self.finding(logs)
        self.num_in_a_row = self.num_in_a_row + 1 if finding else 0
        return finding if self.num_in_a_row == self.patience else None


class CopyRule(CollapseRule):
    """
    Turn 2 copies turn 1: the policy answers as well as it can at once and no longer corrects (SCoRe, figures 3 and 5).

    Args:
        least_changed (`float`, *optional*, defaults to `0.02`):
            Share of answers changed below which, together with `least_edited`, turn 2 counts as a copy.
        least_edited (`float`, *optional*, defaults to `0.02`):
            Edit-distance ratio likewise.
        patience (`int`, *optional*, defaults to `5`):
            See [`CollapseRule`].
    """

    def __init__(self, least_changed: float = 0.02, least_edited: float = 0.02, patience: int = 5) -> None:
        super().__init__(patience)
        self.least_changed = least_changed
        self.least_edited = least_edited

    def finding(self, logs: Logs) -> str | None:
        """Both the answers and the texts stay as they were."""
        changed, edited = logs["score/answers_changed"], logs["score/edit_distance_ratio"]
        if changed is None or edited is None or changed >= self.least_changed or edited >= self.least_edited:
            return None
        return (
            f"turn 2 copies turn 1: {changed:.1%} of the answers change, edit-distance ratio {edited:.3f}. Train Stage "
            "I longer, or raise `alpha`."
        )


class SandbaggingRule(CollapseRule):
    """
    Turn 1 gets worse while the bonus grows: the policy errs at first in order to correct itself afterwards.

    Cannot pay under the paper's credit (turn discount 0), so where it shows, look at `turn_discount` and the rewards.

    Args:
        most_lost (`float`, *optional*, defaults to `0.1`):
            How far turn 1's accuracy may fall below its best, while delta(t1,t2) rises above its value at that best.
        patience (`int`, *optional*, defaults to `5`):
            See [`CollapseRule`].
    """

    def __init__(self, most_lost: float = 0.1, patience: int = 5) -> None:
        super().__init__(patience)
        self.most_lost = most_lost
        self.best_accuracy_t1 = 0.0
        self.delta_at_best = 0.0

    def finding(self, logs: Logs) -> str | None:
        """Turn 1 is far below its best, and delta is above what it was then."""
        accuracy_t1, delta = logs["score/accuracy_t1"], logs["score/delta_t1_t2"]
        if accuracy_t1 is None or delta is None:
            return None
        if accuracy_t1 >= self.best_accuracy_t1:
            self.best_accuracy_t1, self.delta_at_best = accuracy_t1, delta
        if self.best_accuracy_t1 - accuracy_t1 <= self.most_lost or delta <= self.delta_at_best:
            return None
        return (
            f"turn 1 gets worse while the bonus grows: accuracy {accuracy_t1:.1%}, best {self.best_accuracy_t1:.1%}; "
            f"delta(t1,t2) {delta:+.1%}, {self.delta_at_best:+.1%} then. Set `turn_discount=0`, or raise `beta_2`."
        )


class KLBudgetRule(CollapseRule):
    """
    A turn's KL to the reference is beyond its budget.

    Args:
        budget_t1 (`float`, *optional*, defaults to `5.0`):
            Most nats per sequence of turn 1.
        budget_t2 (`float`, *optional*, defaults to `50.0`):
            Most nats per sequence of turn 2.
        patience (`int`, *optional*, defaults to `5`):
            See [`CollapseRule`].
    """

    def __init__(self, budget_t1: float = 5.0, budget_t2: float = 50.0, patience: int = 5) -> None:
        super().__init__(patience)
        self.budgets = {"score/kl_t1": budget_t1, "score/kl_t2": budget_t2}

    def finding(self, logs: Logs) -> str | None:
        """One of the two KLs is above its budget."""
        for key, budget in self.budgets.items():
            kl = logs.get(key)  # not logged without a reference
            if kl is not None and kl > budget:
                return (
                    f"{key} is {kl:.2f} nats per sequence, budget {budget:.2f}. Raise `beta_1` (`beta_2` for turn 1 in "
                    "Stage I), or lower the learning rate."
                )
        return None


class TruncationRule(CollapseRule):
    """
    A length budget cuts many turns off, so that their reward says nothing of what the policy would have written.

    Args:
        most_truncated (`float`, *optional*, defaults to `0.3`):
            Share of a turn's completions that may be cut off.
        patience (`int`, *optional*, defaults to `5`):
            See [`CollapseRule`].
    """

    def __init__(self, most_truncated: float = 0.3, patience: int = 5) -> None:
        super().__init__(patience)
        self.most_truncated = most_truncated

    def finding(self, logs: Logs) -> str | None:
        """One of the two turns is cut off too often."""
        for turn in (1, 2):
            truncated = logs[f"score/truncated_t{turn}"]
            if truncated is not None and truncated > self.most_truncated:
                return (
                    f"{truncated:.1%} of turn {turn} is cut off by its budget. Raise `max_completion_length_t{turn}`, "
                    "or ask for shorter answers."
                )
        return None
