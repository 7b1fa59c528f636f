"""What a row sets for itself, and what it takes from the run."""

import pytest

from trl_score.score.prompts import Correction
from trl_score.score.row_settings import RowSettings


@pytest.fixture
def settings():
    """Budgets 30 and 20; a correction is the length of its prompt, and each reading is noted."""
    read = []

    def read_correction(prompt):
        read.append(prompt)
        return Correction([9], [len(prompt)])

    row_settings = RowSettings((30, 20), "Check it.", read_correction)
    row_settings.read = read
    return row_settings


def row(budget_t1=None, budget_t2=None, correction=None):
    return {
        "prompt": "2+2=",
        "max_completion_length_t1": budget_t1,
        "max_completion_length_t2": budget_t2,
        "correction_prompt": correction,
    }


def test_a_row_that_sets_nothing_has_the_settings_of_the_run(settings):
    assert settings.of({"prompt": "2+2="}) is settings.own
    assert settings.of(row()) is settings.own
    assert (settings.own.budgets, settings.own.correction) == ((30, 20), Correction([9], [len("Check it.")]))


@pytest.mark.parametrize(
    ("own", "budgets", "request_length"),
    [(row(5), (5, 20), 9), (row(budget_t2=6), (30, 6), 9), (row(5, 6, "Again."), (5, 6), 6), (row(7, 7), (7, 7), 9)],
)
def test_a_row_has_its_own_where_it_sets_it(settings, own, budgets, request_length):
    setting = settings.of(own)
    assert (setting.budgets, setting.correction.request_ids) == (budgets, [request_length])
    assert (setting.num_learned, setting.num_tokens) == (sum(budgets), sum(budgets) + 2)


def test_each_correction_prompt_is_read_once(settings):
    for prompt in ["Again.", None, "Again.", "Sure?", "Sure?"]:
        settings.of(row(correction=prompt))
    assert settings.read == ["Check it.", "Again.", "Sure?"]


@pytest.mark.parametrize("budget", [0, -1, 2.5, "12"])
def test_budgets_that_are_none_are_refused(settings, budget):
    message = rf"'max_completion_length_t2' must hold whole numbers of at least 1 token, .*, got {budget!r} for .*2\+2"
    with pytest.raises(ValueError, match=message):
        settings.of(row(budget_t2=budget))


def test_correction_prompt_that_is_no_text_is_refused(settings):
    with pytest.raises(ValueError, match=r"'correction_prompt' must hold a user message's text, .* of type list"):
        settings.of(row(correction=[{"role": "user", "content": "Again."}]))
