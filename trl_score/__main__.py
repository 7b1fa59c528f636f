"""`python -m trl_score` is `trl-score`."""

import sys

from trl_score.cli import main

if __name__ == "__main__":
    sys.exit(main())
