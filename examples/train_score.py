"""Train a language model to correct itself with SCoRe.

The embedded task (no network, no arguments, a few minutes on two cores), then a table, a figure and some dialogues:

    accelerate launch examples/train_score.py

A model of your own, from a configuration or from flags (all of TRL's script arguments, `--help` lists them):

    accelerate launch examples/train_score.py --config examples/configs/qwen2.5-1.5b_lora.yaml
    accelerate launch examples/train_score.py --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name openai/gsm8k --dataset_config main --reward_funcs my_module.my_reward --use_peft

`trl-score score` is the same, and needs no launcher before it.
"""

import sys

from trl_score.programs.options import SCoReScriptArguments
from trl_score.programs.run import run_program
from trl_score.programs.score import main, make_parser

__all__ = ["SCoReScriptArguments", "main", "make_parser"]

if __name__ == "__main__":
    sys.exit(run_program("score", sys.argv[1:], "train_score.py", __doc__))
