"""
How much of the text changes between two turns: the edit-distance ratio that shows a model which only copies its answer.

The paper (arXiv 2409.12917, sections 4 and 5) gives the edit distance between both responses, normalised by the total
length of both, and names neither the unit nor the distance. Both readings are here, on characters:

- `"levenshtein"`: insertions, deletions and substitutions, each at a cost of 1. The distance is at most the longer
  length, so two texts of equal length reach at most 0.5, however different they are.
- `"indel"`: insertions and deletions only; a substitution costs 2. Two texts with nothing in common reach 1.0.

The paper's histograms have much of their mass between 0.6 and 0.9. Texts of similar length cannot be there under the
first reading, so the histograms fit the second. The two are never to be mixed in one figure.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Literal

from rapidfuzz.distance import Indel, Levenshtein

EditDistanceKind = Literal["levenshtein", "indel"]
_DISTANCES: dict[str, Callable[[Sequence[Hashable], Sequence[Hashable]], int]] = {
    "levenshtein": Levenshtein.distance,
    "indel": Indel.distance,
}


def edit_distance_ratio(
    text_t1: Sequence[Hashable], text_t2: Sequence[Hashable], *, kind: EditDistanceKind = "levenshtein"
) -> float:
    """
    Edit distance between two turns over the summed length of both.

        ratio = distance(text_t1, text_t2) / (len(text_t1) + len(text_t2))

    Args:
        text_t1 (`str` or `Sequence[Hashable]`):
            Turn 1. A string is compared by its characters, any other sequence (token ids, words) by its items.
        text_t2 (`str` or `Sequence[Hashable]`):
            Turn 2.
        kind (`str`, *optional*, defaults to `"levenshtein"`):
            `"levenshtein"`, at most `max(len) / sum(len)`, which is 0.5 for equal lengths, or `"indel"`, which reaches
            1.0 and fits the paper's histograms.

    Returns:
        `float`: The ratio, from 0 (the turns are equal, also when both are empty) to 1.

    Raises:
        ValueError: If `kind` is not one of the two.

    Example:
        >>> edit_distance_ratio("12", "34")
        0.5
        >>> edit_distance_ratio("12", "34", kind="indel")
        1.0
    """
    if kind not in _DISTANCES:
        raise ValueError(f"Expected `kind` to be one of {sorted(_DISTANCES)}, got {kind!r}.")
    total_length = len(text_t1) + len(text_t2)
    if total_length == 0:
        return 0.0
    return _DISTANCES[kind](text_t1, text_t2) / total_length


def edit_distance_ratios(
    texts_t1: Sequence[Sequence[Hashable]],
    texts_t2: Sequence[Sequence[Hashable]],
    *,
    kind: EditDistanceKind = "levenshtein",
) -> list[float]:
    """
    Edit-distance ratio of each problem: what the histogram draws and the mean summarises.

    Args:
        texts_t1 (`Sequence[str]`):
            Turn 1 of each problem.
        texts_t2 (`Sequence[str]`):
            Turn 2 of each problem.
        kind (`str`, *optional*, defaults to `"levenshtein"`):
            As in [`edit_distance_ratio`].

    Returns:
        `list[float]`: The ratio of each problem.

    Raises:
        ValueError: If the two turns are not equally many, or `kind` is unknown.

    Example:
        >>> edit_distance_ratios(["12", ""], ["12", "3"])
        [0.0, 1.0]
    """
    if len(texts_t1) != len(texts_t2):
        raise ValueError(
            f"Expected one turn 2 for each turn 1, got {len(texts_t1)} of turn 1, {len(texts_t2)} of turn 2."
        )
    return [
        edit_distance_ratio(text_t1, text_t2, kind=kind) for text_t1, text_t2 in zip(texts_t1, texts_t2, strict=True)
    ]
