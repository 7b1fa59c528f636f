"""What the benchmark of code graders says of programs that fail."""

import pytest
from code_grader import judge_all


def test_rates_of_programs_that_fail_mean_nothing() -> None:
    with pytest.raises(RuntimeError, match="Expected all 2 programs to pass, got 1"):
        judge_all(lambda tasks: [True, False], 2)()
