"""The pages in docs/ say of every option and every logged key what the code says."""

from dataclasses import fields
from pathlib import Path

from trl_score import SCoReConfig
from trl_score.log_keys import SCORE_LOG_KEYS, SCORE_MEMORY_KEYS
from trl_score.score import score_config

PAGE = (Path(__file__).parent.parent / "docs" / "score_options.md").read_text()


def table(heading: str) -> list[list[str]]:
    """Returns the cells of the table under a heading, without its two header lines."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_options_are_those_of_the_config():
    own = [field for field in fields(SCoReConfig) if field.name in SCoReConfig.__annotations__]
    expected = {
        f"`{field.name}`": (
            "our own wording" if field.name == "correction_prompt" else f"`{field.default!r}`",
            field.metadata["help"],
        )
        for field in own
    }
    assert {name: (default, text) for name, default, text in table("Options")} == expected


def test_refused_options_are_all_named():
    section = PAGE.split("## Refused\n")[1].split("\n## ")[0]
    missing = [name for name, _, _ in score_config._REFUSED if name not in section]
    assert missing == []


def test_logged_keys_are_those_of_the_table():
    assert {key.strip("`"): text for key, text in table("Logged keys")} == SCORE_LOG_KEYS


def test_memory_keys_are_those_of_the_table():
    assert {key.strip("`"): text for key, text in table("Memory")} == SCORE_MEMORY_KEYS
