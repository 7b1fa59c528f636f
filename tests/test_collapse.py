"""The rules on their own; what each of them finds is tested where they warn, in tests/test_callbacks.py."""

import pytest

from trl_score.collapse import CollapseRule, KLBudgetRule


def test_a_rule_of_ones_own_speaks_once_it_has_lasted():
    class LossRule(CollapseRule):
        def finding(self, logs):
            return "the loss is high" if logs["loss"] > 1 else None

    rule = LossRule(patience=2)
    spoken = [rule.check({"loss": loss}) for loss in (2, 1, 2, 2, 2, 1, 2, 2)]
    assert [index for index, finding in enumerate(spoken) if finding] == [3, 7]


def test_a_rule_without_a_finding_is_no_rule():
    with pytest.raises(NotImplementedError):
        CollapseRule().check({})


def test_a_budget_of_each_turn():
    rule = KLBudgetRule(budget_t1=1.0, budget_t2=2.0, patience=1)
    assert rule.check({"score/kl_t1": 1.0, "score/kl_t2": 2.0}) is None
    assert rule.check({"score/kl_t1": 1.5}).startswith("score/kl_t1 is 1.50 nats per sequence, budget 1.00.")
