"""The form of a completion, whatever it says."""

import pytest

from trl_score.rewards import boxed_format_reward, code_block_format_reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (r"\boxed{4}", 1.0),
        (r"so \fbox{x}.", 1.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{4", 0.0),
        ("4", 0.0),
        (r"\boxed{1} \boxed{", 0.0),
    ],
)
def test_boxed(text: str, reward: float) -> None:
    assert boxed_format_reward([text], solution=["unused"]) == [reward]
    assert boxed_format_reward([[{"role": "assistant", "content": text}]]) == [reward]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("```python\nx = 1\n```", 1.0),
        ("Here:\n```\nx\n```\nDone.", 1.0),
        ("```\na\n```\n```\nb\n```", 0.0),
        ("```python\nx = 1", 0.0),
        ("use `x`", 0.0),
        ("say ``` inline ``` twice", 0.0),
        ("", 0.0),
    ],
)
def test_code_block(text: str, reward: float) -> None:
    assert code_block_format_reward([text]) == [reward]
    assert code_block_format_reward([[{"role": "assistant", "content": text}]]) == [reward]
