"""
Trainers that teach language models to correct themselves (SCoRe) and to judge by writing a critique first (CLoud).

The names below are loaded on first use: `import trl_score`, and the parts that need no model (`trl_score.rewards`,
`trl_score.metrics`, `trl_score.plots`), load no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trl_score.cloud.cloud_config import CLoudRewardConfig as CLoudRewardConfig
    from trl_score.cloud.cloud_trainer import CLoudRewardTrainer as CLoudRewardTrainer
    from trl_score.cloud.modeling import CLoudConfig as CLoudConfig
    from trl_score.cloud.modeling import CLoudRewardModel as CLoudRewardModel
    from trl_score.cloud.modeling import load_reward_model as load_reward_model
    from trl_score.cloud.scorer import CLoudScorer as CLoudScorer
    from trl_score.pipeline import SelfCorrectionPipeline as SelfCorrectionPipeline
    from trl_score.rewards.checks import check_reward_func as check_reward_func
    from trl_score.score.score_config import SCoReConfig as SCoReConfig
    from trl_score.score.score_trainer import SCoReTrainer as SCoReTrainer

__version__ = "0.1.0"

# Public name -> the module that defines it. A new name goes here and above; tests/test_public_api.py compares the two.
_DEFINED_IN = {
    "CLoudConfig": "trl_score.cloud.modeling",
    "CLoudRewardConfig": "trl_score.cloud.cloud_config",
    "CLoudRewardModel": "trl_score.cloud.modeling",
    "CLoudRewardTrainer": "trl_score.cloud.cloud_trainer",
    "CLoudScorer": "trl_score.cloud.scorer",
    "SCoReConfig": "trl_score.score.score_config",
    "SCoReTrainer": "trl_score.score.score_trainer",
    "SelfCorrectionPipeline": "trl_score.pipeline",
    "check_reward_func": "trl_score.rewards.checks",
    "load_reward_model": "trl_score.cloud.modeling",
}

__all__ = ["__version__", *_DEFINED_IN]


def __getattr__(name: str) -> object:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_DEFINED_IN))}")
    value: object = vars(import_module(_DEFINED_IN[name]))[name]
    globals()[name] = value  # the next access finds the name itself, and does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_DEFINED_IN})
