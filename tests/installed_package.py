"""
Uses an installed trl_score as a stranger would; `make package` runs it in an environment that holds nothing else.

Imports every module, reads every data file that the package reads at run time, and loads the shipped model.
"""

import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import trl_score


def main() -> None:
    root = Path(trl_score.__file__).parent
    if not root.is_relative_to(sys.prefix):
        sys.exit(f"expected trl_score in the environment {sys.prefix}, but it was imported from {root}")
    modules = [module.name for module in pkgutil.walk_packages([str(root)], prefix="trl_score.")]
    for module in modules:
        import_module(module)
    exec("from trl_score import *", {})  # every name in `__all__` is there

    from transformers import AutoModelForCausalLM, AutoTokenizer

    adder = root / "data" / "adder_base"
    tokenizer = AutoTokenizer.from_pretrained(adder)
    model = AutoModelForCausalLM.from_pretrained(adder)
    contents = f"{len(modules)} modules, {len(trl_score.__all__)} public names, {len(tokenizer)} tokens"
    sys.stdout.write(
        f"trl_score {trl_score.__version__}: {contents}, {model.num_parameters():,} parameters. All there.\n"
    )


if __name__ == "__main__":
    main()
