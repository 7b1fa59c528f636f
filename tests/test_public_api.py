"""The names at the root: few, lazy, and the same in `__all__`, for the type checker and at run time."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import trl_score

PUBLIC_NAMES = [
    "CLoudConfig",
    "CLoudRewardConfig",
    "CLoudRewardModel",
    "CLoudRewardTrainer",
    "CLoudScorer",
    "SCoReConfig",
    "SCoReTrainer",
    "SelfCorrectionPipeline",
    "__version__",
    "check_reward_func",
    "load_reward_model",
]


def names_for_the_type_checker():
    """Name -> module, from the imports under `if TYPE_CHECKING` in the root's source."""
    tree = ast.parse(Path(trl_score.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {alias.asname: node.module for node in block.body for alias in node.names}


def test_public_names():
    assert sorted(trl_score.__all__) == PUBLIC_NAMES


def test_type_checker_sees_the_names_that_are_loaded():
    assert names_for_the_type_checker() == trl_score._DEFINED_IN


@pytest.mark.parametrize("name", [name for name in PUBLIC_NAMES if name != "__version__"])
def test_a_public_name_is_what_its_module_defines(name):
    value = getattr(trl_score, name)
    assert value.__name__ == name
    assert value.__module__ == trl_score._DEFINED_IN[name]
    assert getattr(import_module(value.__module__), name) is value
    assert value.__doc__


def test_unknown_name_is_an_attribute_error_that_lists_the_names():
    with pytest.raises(AttributeError, match=r"no attribute 'ScoreTrainer'; it has .*SCoReTrainer"):
        trl_score.ScoreTrainer  # noqa: B018


def test_dir_lists_names_that_are_not_loaded_yet():
    code = "import trl_score; print('SCoReTrainer' in dir(trl_score), 'SCoReTrainer' in vars(trl_score))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "False"]
