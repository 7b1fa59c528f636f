"""The final answer of a turn, for comparing the two turns with each other. Torch-free; grading is the rewards' work."""


def extract_answer(text: str) -> str:
    r"""
    Takes the final answer out of a turn: the content of the last `\boxed{...}`, or the whole text without one.

    Args:
        text (`str`):
            What the model wrote in one turn.

    Returns:
        `str`: the answer, without white space around it. Braces are matched; of an unclosed last box, what is there.

    Example:

    ```python
    >>> extract_answer(r"So it is \boxed{\frac{1}{2}}."), extract_answer(" 42 ")
    ('\\frac{1}{2}', '42')

    ```
    """
    marker = "\\boxed{"
    start = text.rfind(marker)
    if start < 0:
        return text.strip()
    depth = 1
    content = text[start + len(marker) :]
    for index, character in enumerate(content):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return content[:index].strip()
    return content.strip()
