"""A reward function by its dotted path, as command lines and YAML files name it."""

import importlib
import sys
from pathlib import Path

from trl_score.records import RewardFunc


def load_reward_func(name: str) -> RewardFunc:
    """
    Finds a reward function by name. Modules in the current folder are found too.

    Args:
        name (`str`):
            Such as `my_lib.rewards.exact_match`. A class is called without arguments.

    Returns:
        `Callable`: the reward function.

    Raises:
        `ValueError`: If there is no such module, or nothing of that name in it that can be called.

    Example:

    ```python
    >>> load_reward_func("trl_score.rewards.MathReward").__name__
    'math_reward'
    >>> load_reward_func("trl_score.rewards.math")
    Traceback (most recent call last):
        ...
    ValueError: Expected a reward function by its dotted path, such as 'my_module.my_reward', got ...

    ```
    """
    module_name, _, attribute = name.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute) if module_name else None
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        found = None
    except AttributeError:
        found = None
    if not callable(found):
        raise ValueError(
            f"Expected a reward function by its dotted path, such as 'my_module.my_reward', got {name!r}, where there "
            "is none. Modules in the current folder are found."
        )
    return found() if isinstance(found, type) else found
