"""
Imports point one way: from programs to trainers to models to maths to text and numbers, which load no torch.

`LAYERS` is the rule; each file is read, not run. Two more tests then measure what importing really loads.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "deepspeed")


@dataclass(frozen=True)
class Layer:
    """
    What the modules of one layer may import. Whatever is imported for the type checker alone may be third-party.

    Args:
        modules (`tuple[str, ...]`): Names or patterns, without `trl_score.`; the first layer that matches counts.
        below (`tuple[str, ...]`): Layers whose modules they may import, beside their own.
        at_once (`tuple[str, ...]`): Third-party packages that they may import when they are imported.
        when_used (`tuple[str, ...]`): Third-party packages that they may import inside functions.
    """

    modules: tuple[str, ...]
    below: tuple[str, ...]
    at_once: tuple[str, ...] = ()
    when_used: tuple[str, ...] = ()


LAYERS = {
    # A reward that is a model: it loads one when it is made, not when it is imported.
    "model reward": Layer(("rewards", "rewards.cloud_rewards"), ("text", "model")),
    "evaluate module": Layer(
        ("metrics.self_correction_metric", "metrics.self_correction_metric.*"), ("text",), ("datasets", "evaluate")
    ),
    "text": Layer(
        (
            "records",
            "line_file",
            "checkpoints",
            "log_keys",
            "user_errors",
            "quantization",
            "step_guard",
            "collapse",
            "score",
            "score.prompts",
            "score.answers",
            "score.row_settings",
            "score.scoring_watch",
            "score.turn_rewards",
            "cloud",
            "cloud.prompts",
            "rewards",
            "rewards.*",
            "metrics",
            "metrics.*",
            "baselines",
            "baselines.methods",
        ),
        (),
        ("numpy", "rapidfuzz", "sympy", "mpmath", "math_verify", "latex2sympy2_extended"),
        ("jinja2",),
    ),
    "plots": Layer(("plots", "plots.*"), ("text",), ("numpy",), ("matplotlib", "pandas")),
    "data": Layer(("data", "data.*"), ("text",), ("numpy", "datasets"), ("tokenizers", "transformers")),
    "maths": Layer(
        (
            "score.shaping",
            "score.advantages",
            "score.group_signal",
            "score.importance",
            "score.losses",
            "score.turn_metrics",
            "cloud.losses",
        ),
        ("text",),
        ("torch", "numpy"),
    ),
    "model": Layer(
        (
            "score.engines",
            "score.rollout",
            "cloud.modeling",
            "cloud.collator",
            "cloud.generation",
            "cloud.engines",
            "cloud.critiques",
            "cloud.scorer",
        ),
        ("text", "maths"),
        ("torch", "transformers", "trl", "datasets", "tqdm", "safetensors", "accelerate"),
        ("vllm", "peft", "deepspeed"),
    ),
    # Work on preference data that needs no model of ours: endpoints, judgements, benchmarks.
    "preference data": Layer(
        (
            "cloud.chat",
            "cloud.local_chat",
            "cloud.endpoint",
            "cloud.oracle",
            "cloud.judgements",
            "cloud.prompt_sets",
            "cloud.recipe",
            "cloud.response_rewards",
            "cloud.reward_bench",
            "cloud.reward_bench_rows",
            "cloud.best_of_n",
        ),
        ("text", "data", "model"),
        ("datasets", "numpy", "tqdm", "aiohttp"),
        ("torch", "transformers"),
    ),
    # Numbers from shapes; a model's shape is read without its weights.
    "costs": Layer(("score.costs",), (), (), ("torch", "transformers")),
    "trl_compat": Layer(
        ("trl_compat", "publishing.hub_trainer"),
        ("text", "maths", "model", "publishing"),
        ("torch", "transformers", "trl", "accelerate", "datasets", "huggingface_hub"),
    ),
    "merge": Layer(
        ("publishing.merge",), ("text", "model", "publishing"), ("torch", "transformers", "peft", "huggingface_hub")
    ),
    # What a run's folder says of it, and how it gets to the Hub: no model is loaded.
    "publishing": Layer(
        ("publishing", "publishing.*"), ("text", "plots"), ("huggingface_hub",), ("jinja2", "matplotlib")
    ),
    "trainers": Layer(
        (
            "score.score_config",
            "score.preflight",
            "score.adapters",
            "score.phase_memory",
            "score.phase_times",
            "score.skipped_steps",
            "score.trainer_inputs",
            "score.score_trainer",
            "callbacks",
            "progress",
            "cloud.cloud_config",
            "cloud.trainer_inputs",
            "cloud.pair_metrics",
            "cloud.skipped_steps",
            "cloud.cloud_trainer",
            "cloud.stages",
        ),
        ("text", "maths", "model", "trl_compat", "terminal"),
        ("torch", "transformers", "trl", "accelerate", "peft", "datasets"),
        ("rich", "pandas", "wandb", "trackio", "deepspeed"),
    ),
    # What an evaluation asks, keeps and shows: no model. Its records are what plots read.
    "evaluation text": Layer(
        (
            "evaluation.turns",
            "evaluation.settings",
            "evaluation.problems",
            "evaluation.records",
            "evaluation.folder",
            "evaluation.metrics",
            "evaluation.comparison",
            "evaluation.run",
            "evaluation.tables",
        ),
        ("text", "data", "plots", "root"),
        ("rich", "tqdm"),
        ("datasets",),
    ),
    "evaluation endpoint": Layer(("evaluation.endpoint",), ("text", "evaluation text", "preference data")),
    # It reads models, not trainers: whatever trained a model, it is evaluated alike.
    "evaluation model": Layer(
        ("evaluation.evaluate", "evaluation.respondents"),
        ("text", "data", "maths", "model", "plots", "evaluation text"),
        ("torch", "transformers", "peft"),
    ),
    # The package's face: a name is loaded when it is used.
    "evaluation": Layer(("evaluation",), ("evaluation text", "evaluation model")),
    # A trained model by hand: it answers as an evaluation does.
    "pipeline": Layer(
        ("pipeline",),
        ("text", "plots", "model", "evaluation", "evaluation text", "evaluation model"),
        ("torch", "transformers", "datasets", "huggingface_hub"),
    ),
    # The methods that SCoRe is compared with: they sample and measure as evaluation does, and train with TRL.
    "baselines": Layer(
        ("baselines.*",),
        (
            "text",
            "data",
            "maths",
            "model",
            "trl_compat",
            "trainers",
            "evaluation",
            "evaluation text",
            "evaluation model",
        ),
        ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tqdm"),
    ),
    # A page about a run, from its files alone.
    "report": Layer(("report", "report_page"), ("text", "plots"), (), ("matplotlib", "jinja2")),
    # Pictures of a run into the trackers that it reports to, while it trains.
    "tracking": Layer(
        ("tracking",),
        ("text", "plots"),
        ("transformers",),
        ("torch", "numpy", "pandas", "matplotlib", "wandb", "trackio"),
    ),
    "terminal": Layer(("terminal_view", "live_lines"), ("text",), (), ("rich",)),
    "exit codes": Layer(("command_parser", "exit_codes"), ("text",), (), ("yaml",)),
    # Training from options to a saved model.
    "programs": Layer(
        ("programs", "programs.*"),
        (
            "root",
            "text",
            "plots",
            "data",
            "model",
            "costs",
            "preference data",
            "trainers",
            "baselines",
            "evaluation",
            "evaluation text",
            "evaluation model",
            "tracking",
            "exit codes",
        ),
        ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "rich"),
    ),
    # The command line: on top of all, and of nothing but the standard library until a command runs.
    "command line": Layer(
        ("cli", "__main__", "commands", "commands.*"),
        (
            "root",
            "text",
            "plots",
            "data",
            "maths",
            "model",
            "costs",
            "preference data",
            "trainers",
            "evaluation",
            "evaluation text",
            "evaluation model",
            "evaluation endpoint",
            "pipeline",
            "terminal",
            "report",
            "publishing",
            "merge",
            "exit codes",
            "programs",
        ),
        (),
        ("yaml", "datasets", "numpy", "rich", "tqdm", "torch", "transformers", "trl", "accelerate", "peft"),
    ),
    "root": Layer(("",), ("text", "model", "trainers", "pipeline")),
}
METHODS = ("score", "cloud")


@dataclass(frozen=True)
class Import:
    """One imported name: the module it comes from, the name (`None` for `import module`), and where it is written."""

    module: str
    name: str | None
    where: str  # "at once", "when used" (inside a function) or "typing"


class ImportFinder(ast.NodeVisitor):
    """Collects the imports of one file."""

    def __init__(self):
        self.imports = []
        self.where = "at once"

    def visit_inside(self, where, nodes):
        outside, self.where = self.where, where if self.where == "at once" else self.where
        for node in nodes:
            self.visit(node)
        self.where = outside

    def visit_FunctionDef(self, node):
        self.visit_inside("when used", node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node):
        self.visit_inside("typing" if ast.unparse(node.test) == "TYPE_CHECKING" else self.where, node.body)
        self.visit_inside(self.where, node.orelse)

    def visit_Import(self, node):
        self.imports += [Import(alias.name, None, self.where) for alias in node.names]

    def visit_ImportFrom(self, node):
        module = "." * node.level + (node.module or "")
        self.imports += [Import(module, alias.name, self.where) for alias in node.names]


def layer_of(module):
    """Name of the layer of a module given without `trl_score.`, or `None`."""
    for name, layer in LAYERS.items():
        if any(fnmatchcase(module, pattern) for pattern in layer.modules):
            return name
    return None


def modules_of_package():
    """Module name without `trl_score.` -> its file; the root is the empty name."""
    files = {}
    for path in sorted((ROOT / "trl_score").rglob("*.py")):
        parts = path.relative_to(ROOT / "trl_score").with_suffix("").parts
        files[".".join(part for part in parts if part != "__init__")] = path
    return files


def own_target(imported, modules):
    """The module of ours that an import names: `from trl_score import records` names `records`."""
    module = imported.module.removeprefix("trl_score").removeprefix(".")
    inner = f"{module}.{imported.name}".removeprefix(".")
    return inner if inner in modules else module


def method_of(module):
    """`"score"` or `"cloud"` where a module belongs to one method, else `None`."""
    return next((method for method in METHODS if module == method or module.startswith(method + ".")), None)


def explain(module, imported, modules):
    """Says what is wrong with one import in `module`, or returns `None`."""
    name = layer_of(module)
    layer = LAYERS[name]
    written = f"trl_score.{module}".removesuffix(".") + f" (layer {name}) imports {imported.module}"
    if imported.module.startswith("."):
        return f"{written}: write the full name, `trl_score. ...`"
    first = imported.module.partition(".")[0]
    if first == "trl_score":
        target = own_target(imported, modules)
        if method_of(module) and method_of(target) and method_of(module) != method_of(target):
            return f"{written}: nobody imports the other method's folder"
        if layer_of(target) not in (name, *layer.below):
            return f"{written} ({imported.name}, layer {layer_of(target)}), but it may import {layer.below} only"
        return None
    if first == "trl" and module != "trl_compat" and "._" in f".{imported.module}.{imported.name}":
        return f"{written}.{imported.name}: only trl_compat.py touches a private name of TRL"
    if first in sys.stdlib_module_names or imported.where == "typing" or first in layer.at_once:
        return None
    if first not in layer.when_used:
        return f"{written}, but it may import {layer.at_once + layer.when_used} only"
    if imported.where == "at once":
        return f"{written} at its top: import it inside the function that needs it"
    return None


def violations(module, source, modules):
    """All that is wrong with the imports of a file, a sentence each."""
    if layer_of(module) is None:
        return [
            f"trl_score.{module} is in no layer: add it to `LAYERS` in tests/test_import_rules.py, where it belongs"
        ]
    finder = ImportFinder()
    finder.visit(ast.parse(source))
    return [message for imported in finder.imports if (message := explain(module, imported, modules))]


@pytest.mark.parametrize("module", modules_of_package())
def test_module_imports_what_its_layer_may(module):
    modules = modules_of_package()
    assert violations(module, modules[module].read_text(), modules) == []


def test_every_row_of_the_table_names_a_module():
    modules = modules_of_package()
    patterns = [pattern for layer in LAYERS.values() for pattern in layer.modules]
    assert [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in modules)] == []


KNOWN = ("records", "score.losses", "score.score_trainer", "cloud.losses", "metrics", "plots.style")


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("unheard_of", "", "add it to `LAYERS`"),
        ("records", "import torch", "may import"),
        ("metrics.pass_at_k", "def f():\n    from torch import nn", "may import"),
        ("metrics.pass_at_k", "try:\n    import torch\nexcept ImportError:\n    pass", "may import"),
        ("metrics.pass_at_k", "class A:\n    import trl.rewards", "may import"),
        ("score.losses", "from trl_score.score.score_trainer import SCoReTrainer", "may import"),
        ("score.losses", "from trl_score.score import score_trainer", "may import"),
        ("evaluation.evaluate", "from trl_score import SCoReTrainer", "may import"),
        ("score.losses", "from trl_score.cloud.losses import lm_loss", "other method"),
        ("score.losses", "from .shaping import turn_returns", "full name"),
        ("score.score_trainer", "from trl.trainer.utils import _hidden", "private name of TRL"),
        ("score.score_trainer", "from trl._lazy_module import _LazyModule", "private name of TRL"),
        ("plots.style", "from matplotlib import pyplot", "inside the function"),
    ],
)
def test_a_planted_import_is_found(module, source, message):
    assert len(found := violations(module, source, KNOWN)) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("records", "import json\nfrom collections.abc import Sequence"),
        ("score.prompts", "if TYPE_CHECKING:\n    from transformers import PreTrainedTokenizerBase"),
        ("plots.style", "def f():\n    from matplotlib import pyplot"),
        ("score.score_trainer", "from trl_score.score.losses import score_loss\nfrom trl_score import records"),
        ("trl_compat", "from trl._lazy_module import _LazyModule"),
    ],
)
def test_a_sound_import_is_not(module, source):
    assert violations(module, source, KNOWN) == []


def run_python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize(
    "module",
    [
        "trl_score",
        "trl_score.records",
        "trl_score.log_keys",
        "trl_score.score.prompts",
        "trl_score.rewards",
        "trl_score.metrics",
        "trl_score.plots",
        "trl_score.report",
        "trl_score.data",
        "trl_score.cli",
        "trl_score.commands",
        "trl_score.baselines.methods",
        "trl_score.baselines.budget",
        "trl_score.evaluation.run",
        "trl_score.evaluation.problems",
        "trl_score.evaluation.comparison",
        "trl_score.evaluation.endpoint",
        "trl_score.evaluation.tables",
    ],
)
def test_text_numbers_and_plots_load_no_torch(module):
    code = f"""
import sys, pkgutil, {module}
for found in pkgutil.walk_packages(getattr({module}, "__path__", []), "{module}."):
    if "{module}" != "trl_score" and "self_correction_metric" not in found.name:
        __import__(found.name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    loaded = run_python(code).split()
    assert module.partition(".")[0] in loaded
    assert [name for name in loaded if name in (*MODEL_LIBRARIES, "matplotlib")] == []


def test_root_is_imported_in_under_300_ms():
    code = "import time; start = time.perf_counter(); import trl_score; print(time.perf_counter() - start)"
    # The best of five: a busy machine makes an import slower, never faster.
    assert min(float(run_python(code)) for _ in range(5)) < 0.3
