"""Train a reward model that writes a critique before it gives a reward: CLoud.

The embedded task (no network, no arguments, a few minutes on two cores). Trains CLoud as in the paper, and beside it
a classic reward model and an off-policy CLoud, then prints a table and some critiques:

    accelerate launch examples/train_cloud.py

A model of your own, from a configuration or from flags (all of TRL's script arguments, `--help` lists them):

    accelerate launch examples/train_cloud.py --config examples/configs/llama3.1-8b_cloud.yaml --dataset_name DATA
    accelerate launch examples/train_cloud.py --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name pairs_with_critiques.jsonl --stage both --learning_rate 1e-6

`trl-score cloud` is the same, and needs no launcher before it.
"""

import sys

from trl_score.programs.cloud import main, make_parser
from trl_score.programs.options import CLoudScriptArguments
from trl_score.programs.run import run_program

__all__ = ["CLoudScriptArguments", "main", "make_parser"]

if __name__ == "__main__":
    sys.exit(run_program("cloud", sys.argv[1:], "train_cloud.py", __doc__))
