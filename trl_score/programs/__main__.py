"""`python -m trl_score.programs NAME [options]` runs a program in this process, as a launcher has started it."""

import sys

from trl_score.programs.run import run_program

if __name__ == "__main__":
    sys.exit(run_program(sys.argv[1], sys.argv[2:], f"trl-score {sys.argv[1]}"))
