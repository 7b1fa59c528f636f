"""docs/publishing.md says of every file and key what the code says."""

from pathlib import Path

import pytest

from trl_score.publishing.files import PUBLISHED_PATTERNS
from trl_score.publishing.push import PAUSES_S
from trl_score.publishing.record import RECORD_KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text()


@pytest.mark.parametrize(
    ("heading", "expected"), [("The files", PUBLISHED_PATTERNS), ("training_config.json", RECORD_KEYS)]
)
def test_tables_are_those_of_the_code(heading, expected):
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert rows == [[f"`{name}`", meaning] for name, meaning in expected.items()]


def test_pauses_are_those_of_the_code():
    first, second, third = (f"{pause_s:g}" for pause_s in PAUSES_S)
    assert f"tried again after {first}, {second} and {third} seconds" in PAGE
