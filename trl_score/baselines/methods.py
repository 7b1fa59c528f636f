"""
The methods by name: what each one changes of a SCoRe run's configuration, and where in the paper it stands.

First in the flow, and torch-free. All methods start from one configuration, the SCoRe run's, so that model, data,
reward, correction prompt, length budgets, learning rate, batch size, samples and updates are the same.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["measured", "score", "single_turn", "traces"]
"""How a method is trained: not at all, by SCoReTrainer, by TRL's RLOOTrainer on turn 1, or on traces by SFTTrainer."""

TraceSetName: TypeAlias = Literal["D_STaR", "D+_STaR", "D_SFT", "D+_SFT"]
"""The paper's names of its trace sets (section 4)."""


@dataclass(frozen=True)
class Method:
    """
    A method, as a change of a SCoRe run.

    Args:
        name (`str`):
            What the command line calls it.
        summary (`str`):
            What it does, in a sentence.
        source (`str`):
            Where in SCoRe (arXiv 2409.12917) or elsewhere it stands.
        kind (`str`):
            How it is trained, see `Kind`.
        changes (`Mapping[str, Any]`, *optional*):
            Fields of SCoReConfig that it sets, whatever the run's configuration says.
        trace_set (`str`, *optional*):
            The traces that it is fine-tuned on.
        iterations (`int`, *optional*, defaults to `0`):
            How often traces are collected and the model is fine-tuned.
        follows_stage_1 (`bool`, *optional*, defaults to `False`):
            Whether the traces come after SCoRe's Stage I, in place of Stage II.
    """

    name: str
    summary: str
    source: str
    kind: Kind
    changes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    trace_set: TraceSetName | None = None
    iterations: int = 0
    follows_stage_1: bool = False


_ALL = (
    Method("base", "The base model as it is.", "Table 2, Base", "measured"),
    Method(
        "self_refine",
        "Prompting only: an answer, a critique of it, and an answer that takes the critique into account.",
        "Table 2, Self-Refine; arXiv 2303.17651",
        "measured",
    ),
    Method(
        "star",
        "Fine-tuned on its own successful corrections, three times over.",
        "Section 4, D_STaR",
        "traces",
        trace_set="D_STaR",
        iterations=3,
    ),
    Method(
        "star_plus",
        "As star, and on right answers that stayed right.",
        "Section 4, D+_STaR; Table 2, STaR",
        "traces",
        trace_set="D+_STaR",
        iterations=3,
    ),
    Method(
        "pair_sft",
        "Fine-tuned once on wrong first turns, each followed by a right answer to the same problem.",
        "Section 4, D_SFT; Table 2, Pair-SFT",
        "traces",
        trace_set="D_SFT",
        iterations=1,
    ),
    Method(
        "pair_sft_plus",
        "As pair_sft, and on right first turns followed by a right answer.",
        "Section 4, D+_SFT",
        "traces",
        trace_set="D+_SFT",
        iterations=1,
    ),
    Method("single_turn_rl", "Reinforcement learning of turn 1 alone.", "Table 4, w/o multi-turn", "single_turn"),
    Method(
        "multi_turn_rl",
        "Reinforcement learning of both turns with neither Stage I nor the bonus.",
        "Section 5, Figure 5",
        "score",
        changes={"stage": "2", "alpha": 0.0},
    ),
    Method(
        "score_no_stage_1", "Stage II only, for all steps.", "Table 4, w/o Stage I", "score", changes={"stage": "2"}
    ),
    Method(
        "score_no_shaping",
        "Both stages, without the bonus.",
        "Table 4, w/o reward shaping",
        "score",
        changes={"alpha": 0.0},
    ),
    Method(
        "score_star_stage_2",
        "Stage I, and then star_plus in place of Stage II.",
        "Table 4, STaR in Stage II",
        "traces",
        trace_set="D+_STaR",
        iterations=3,
        follows_stage_1=True,
    ),
    Method("score", "SCoRe as configured.", "Table 2, SCoRe", "score"),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""Name -> method, in the order of the paper's tables."""


def find_method(name: str | None) -> Method:
    """
    Finds a method by its name.

    Args:
        name (`str`, *optional*):
            One of `METHODS`.

    Returns:
        `Method`: the method.

    Raises:
        `ValueError`: If there is none of that name; the message has the nearest names, or all.

    Example:

    ```python
    >>> find_method("multi_turn_rl").changes
    {'stage': '2', 'alpha': 0.0}
    >>> find_method("pair-sft")
    Traceback (most recent call last):
        ...
    ValueError: Expected `method` to be the name of a method, got 'pair-sft'. Did you mean 'pair_sft' ...

    ```
    """
    if name is not None and name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(str(name), METHODS, n=3)
    hint = f"Did you mean {_or_list(near)}?" if near else f"There are {', '.join(METHODS)}."
    raise ValueError(f"Expected `method` to be the name of a method, got {name!r}. {hint}")


def _or_list(names: list[str]) -> str:
    return " or ".join([", ".join(map(repr, names[:-1]))] * (len(names) > 1) + [repr(names[-1])])
