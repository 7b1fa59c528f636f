"""A reward function by its dotted path: where it is looked for, and what is said where there is none."""

import sys

import pytest

from trl_score.rewards.named import load_reward_func


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's working folder with a module in it."""
    lines = [
        "class Exact:",
        "    def __call__(self, completions, **kwargs):",
        "        return [1.0] * len(completions)",
        "def half(completions, **kwargs):",
        "    return [0.5] * len(completions)",
        "limit = 3",
    ]
    (tmp_path / "my_rewards.py").write_text("\n".join(lines))
    (tmp_path / "my_broken_rewards.py").write_text("import surely_not_installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("my_rewards", "my_broken_rewards"):
        sys.modules.pop(name, None)


def test_a_function_is_taken_as_it_is_and_a_class_is_called(folder):
    assert load_reward_func("my_rewards.half")(["a"]) == [0.5]
    assert load_reward_func("my_rewards.Exact")(["a"]) == [1.0]


@pytest.mark.parametrize(
    "name",
    ["half", "", "my_rewards.other", "my_rewards.limit", "nowhere.half", "nowhere.at_all.half", "my_rewards.x.y"],
)
def test_what_is_not_there_is_named(folder, name):
    with pytest.raises(ValueError, match=f"Expected a reward function by its dotted path, .* got '{name}'"):
        load_reward_func(name)


def test_a_module_that_lacks_another_one_says_so_itself(folder):
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        load_reward_func("my_broken_rewards.half")
