"""
What trl_score counts on in TRL beyond its documented surface.

`trl_compat.PRIVATE_NAMES` and `PRIVATE_ATTRIBUTES` say it in words; here each of them is looked at in the installed
TRL, by its signature and in a tiny run of a plain GRPOTrainer. When TRL changes, the test that fails says what was
counted on, what is there now, and in which version: the place to repair is trl_compat.py.
"""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from accelerate import Accelerator
from score_runs import addition_dataset, odd_length
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer, RewardTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import utils as trl_utils

from trl_score import trl_compat
from trl_score.score.engines import VLLMEngine
from trl_score.score.score_trainer import SCoReTrainer

PACKAGE = Path(trl_compat.__file__).parent
COMPAT = PACKAGE / "trl_compat.py"
TRAINER = PACKAGE / "score" / "score_trainer.py"
HUB_TRAINER = PACKAGE / "publishing" / "hub_trainer.py"
CLOUD_TRAINER = PACKAGE / "cloud" / "cloud_trainer.py"
PRIVATE = {**trl_compat.PRIVATE_NAMES, **trl_compat.PRIVATE_ATTRIBUTES}


def breach(name: str, found: str) -> str:
    """Says in one sentence what was counted on and what TRL has now."""
    return f"TRL {trl.__version__}: trl_score counts on GRPOTrainer.{name} as {PRIVATE[name]!r}, found {found}."


def signature_breach(trainer_class: type, name: str) -> str | None:
    """Compares a method's parameters with those that `PRIVATE_NAMES` gives; `...` stands for further optional ones."""
    method = inspect.getattr_static(trainer_class, name, None)
    if method is None:
        return breach(name, "no such method")
    expected = re.match(r"\((.*?)\)", PRIVATE[name])[1].split(", ")
    parameters = inspect.signature(method).parameters
    if list(parameters)[: len(expected) - ("..." in expected)] != [word for word in expected if word != "..."]:
        return breach(name, f"the parameters {inspect.signature(method)}")
    further = list(parameters.values())[len(expected) - ("..." in expected) :]
    if any(parameter.default is inspect.Parameter.empty for parameter in further):
        return breach(name, f"further parameters without a default: {inspect.signature(method)}")
    return None


# Names and signatures


@pytest.mark.parametrize("name", trl_compat.PRIVATE_NAMES)
def test_private_method_has_the_signature_counted_on(name):
    message = signature_breach(GRPOTrainer, name)
    assert message is None, message


def test_log_probs_take_the_arguments_that_we_pass():
    parameters = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    missing = {"batch_size", "compute_entropy", "compute_aux_loss"} - set(parameters)
    assert not missing, breach("_get_per_token_logps_and_entropies", f"no parameters {sorted(missing)}")


def test_fused_head_reads_what_we_set_for_a_cpu():
    inner = [constant for constant in trl_utils.add_fused_lm_head.__code__.co_consts if inspect.iscode(constant)]
    read = {name for code in inner for name in code.co_names}
    missing = set(trl_compat.UTILS_CONSTANTS) - read
    assert not missing, (
        f"TRL {trl.__version__}: the fused LM head no longer reads {sorted(missing)} of trl.trainer.utils."
    )


class ChangedTrainer:
    """A TRL of the future."""

    def _compute_loss(self, model: Any, batch: Any) -> None: ...

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any, environments: Any
    ) -> None: ...


def test_a_change_in_trl_is_told_in_one_sentence():
    version = re.escape(trl.__version__)
    for name, found in (
        ("_compute_loss", r"the parameters \(self, model: Any, batch: Any\) -> None"),
        ("_calculate_rewards", r"further parameters without a default: \(self, inputs.*"),
        ("_log_metric", "no such method"),
    ):
        message = signature_breach(ChangedTrainer, name)
        pattern = rf"TRL {version}: trl_score counts on GRPOTrainer\.{name} as .*, found {found}\."
        assert re.fullmatch(pattern, message), message


# A run


class WatchedTrainer(GRPOTrainer):
    """A plain GRPOTrainer that writes down what goes through the places that trl_compat.py overrides."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: dict[str, list[Any]] = {}

    def _see(self, name: str, value: Any) -> Any:
        self.seen.setdefault(name, []).append(value)
        return value

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._see("inputs", inputs)
        return self._see("batch", super()._generate_and_score_completions(inputs))

    def _calculate_rewards(self, *args: Any) -> Any:
        self._see("rewards arguments", args)
        return self._see("rewards", super()._calculate_rewards(*args))

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self._see("loss inputs", inputs)
        return self._see("loss", super()._compute_loss(model, inputs))

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        return self._see("log-probs", super()._get_per_token_logps_and_entropies(*args, **kwargs))


@pytest.fixture(scope="module")
def watched(local_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> WatchedTrainer:
    """One step of GRPO with a rollout function that gives an `env_mask`, and a reward that logs."""

    def reward(completions: Any, log_extra: Any, log_metric: Any, **kwargs: Any) -> list[float]:
        log_extra("length", [len(completion[0]["content"]) for completion in completions])
        log_metric("one", 1.0)
        return odd_length(completions)

    def rollout(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        trainer.seen["prompts"] = [prompts]
        return {
            "prompt_ids": [[40, 41, 42]] * len(prompts),
            "completion_ids": [[50 + row, 51, 52, 2][: 3 + row % 2] for row in range(len(prompts))],
            "logprobs": None,
            "env_mask": [[1, 0, 1, 1][: 3 + row % 2] for row in range(len(prompts))],
        }

    args = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("watched")),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_generations=4,
        max_steps=1,
        max_completion_length=4,
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
        disable_tqdm=True,
        save_strategy="no",
        beta=0.1,
    )
    trainer = WatchedTrainer(
        model=str(local_model("qwen2")), reward_funcs=[reward, odd_length], args=args, train_dataset=addition_dataset()
    )
    trainer.rollout_func = rollout
    trainer.train()
    return trainer


def test_batch_is_made_of_the_rows_of_one_rollout(watched):
    (inputs,), (prompts,) = watched.seen["inputs"], watched.seen["prompts"]
    # 8 rows, the 4 rollouts of a prompt next to each other; the rollout function gets them all, in order.
    assert [row["prompt"] for row in inputs] == prompts
    assert prompts == [prompt for prompt in prompts[::4] for _ in range(4)]
    assert prompts[0] != prompts[4]


def test_batch_has_what_we_edit(watched):
    (batch,) = watched.seen["batch"]
    shapes = {
        "prompt_ids": (8, 3),
        "prompt_mask": (8, 3),
        "completion_ids": (8, 4),
        "completion_mask": (8, 4),
        "advantages": (8,),
        "num_items_in_batch": (),
        "ref_per_token_logps": (8, 4),
        "tool_mask": (8, 4),
    }
    found = {key: tuple(batch[key].shape) if key in batch else "missing" for key in shapes}
    assert found == shapes, breach("_generate_and_score_completions", str(found))
    # Prompts padded on the left and completions on the right, in the order of the rollouts.
    assert batch["completion_ids"][:, 0].tolist() == list(range(50, 58))
    assert batch["completion_mask"].sum(dim=1).tolist() == [3, 4] * 4
    # The mask of the rollout function decides what is learned from: 2 or 3 tokens of each row.
    assert batch["num_items_in_batch"].item() == 4 * 2 + 4 * 3


def test_batch_is_cut_into_micro_batches_with_all_its_keys(watched):
    (batch,) = watched.seen["batch"]
    micro_batches = watched.seen["loss inputs"]
    assert [len(micro["completion_ids"]) for micro in micro_batches] == [4, 4]
    for micro in micro_batches:
        assert micro.keys() == batch.keys(), breach("_compute_loss", f"the keys {sorted(micro)}")
        # Of the whole rollout batch, which is why the trainer divides it by `steps_per_generation`.
        assert micro["num_items_in_batch"].item() == batch["num_items_in_batch"].item()


def test_rewards_are_gathered_for_all_functions(watched):
    ((inputs, prompts, completions, completion_ids),) = watched.seen["rewards arguments"]
    (rewards,) = watched.seen["rewards"]
    assert {len(inputs), len(prompts), len(completions), len(completion_ids)} == {8}
    assert isinstance(completions[0], list) and set(completions[0][0]) == {"role", "content"}
    assert rewards.shape == (8, 2), breach("_calculate_rewards", f"shape {tuple(rewards.shape)}")
    assert rewards[:, 1].tolist() == odd_length(completions)


def test_log_probs_come_as_three(watched):
    for outputs in watched.seen["log-probs"]:
        assert len(outputs) == 3, breach("_get_per_token_logps_and_entropies", f"a tuple of {len(outputs)}")
        logps, entropies, aux_loss = outputs
        assert logps.shape[1] == 4 and aux_loss is None
        assert entropies is None or entropies.shape == logps.shape
        assert trl_compat.LogProbs(*outputs).per_token_logps is logps


def test_loss_is_a_scalar_with_gradient(watched):
    for loss in watched.seen["loss"]:
        assert loss.shape == () and loss.requires_grad, breach("_compute_loss", f"{loss!r}")


def test_logged_columns_lie_where_they_are_read(watched):
    extra = watched._logs["extra"]
    assert list(extra) == ["length"] and len(extra["length"]) == 8, breach("_logs", f"extra columns {dict(extra)}")
    assert watched.state.log_history[0]["one"] == 1.0


def test_other_attributes(watched):
    assert isinstance(watched._tokenizer, PreTrainedTokenizerBase), breach("_tokenizer", repr(watched._tokenizer))
    with watched._dist.summon_full_params(watched.model_wrapped, recurse=False):
        pass
    assert set(watched._paper) >= {"title", "id", "citation"}, breach("_paper", repr(watched._paper))
    assert isinstance(watched._name, str) and isinstance(watched._tag_names, list)


def test_metrics_lie_where_they_are_replaced(watched):
    assert isinstance(watched._metrics["train"], dict), breach("_metrics", repr(watched._metrics))
    watched._metrics["eval"]["a new key"].append(1.0)
    assert watched._metrics["eval"].pop("a new key") == [1.0]


# TRL's object for vLLM. Its server mode needs no vLLM here: the client alone is a stand-in.


def vllm_breach(name: str, found: str) -> str:
    return f"TRL {trl.__version__}: trl_score counts on VLLMGeneration.{name}, found {found}."


def test_vllm_object_has_what_we_read_and_set():
    stored = set(re.findall(r"self\.(\w+) = ", inspect.getsource(VLLMGeneration)))
    missing = set(trl_compat.VLLM_ATTRIBUTES) - stored
    assert not missing, vllm_breach(", ".join(sorted(missing)), "no such attribute")
    parameters = list(inspect.signature(VLLMGeneration.generate).parameters)
    assert parameters[:4] == ["self", "prompts", "images", "num_generations"], vllm_breach("generate", str(parameters))
    # A missing sync would be found by no other test without vLLM: TRL brings the weights before it asks for rollouts.
    source = inspect.getsource(GRPOTrainer._generate)
    assert re.search(r"global_step != self\._last_loaded_step.*sync_weights.*self\.rollout_func\(", source, re.DOTALL)


class ClientStandIn:
    """Answers as TRL's client of a vLLM server does."""

    def generate(self, prompts: list[list[int]], features: None, **sampling: Any) -> dict[str, Any]:
        self.sampling = sampling
        rows = [[token + 1 for token in prompt][: sampling["max_tokens"]] for prompt in prompts]
        logprobs = [[[-0.5] for _ in row] for row in rows]
        return {"prompt_ids": prompts, "completion_ids": rows, "logprobs": logprobs, "logprob_token_ids": None}


@pytest.mark.parametrize("do_sample", [True, False])
def test_vllm_object_asks_for_what_our_engine_sets(do_sample):
    backend = object.__new__(VLLMGeneration)
    vars(backend).update(
        {"mode": "server", "accelerator": Accelerator(cpu=True), "vllm_client": ClientStandIn(), "logprobs": 0},
        temperature=0.7,
        top_p=0.9,
        top_k=5,
        min_p=None,
        repetition_penalty=1.1,
        max_completion_length=99,
        structured_outputs_regex=None,
        generation_kwargs={"frequency_penalty": 0.5},
    )
    turns = VLLMEngine(backend, stop_ids=[9], do_sample=do_sample)([[7, 8, 1], [3, 4]], [3, 1])
    assert [turn.token_ids for turn in turns] == [[8, 9], [4]]
    assert [turn.logprobs for turn in turns] == ([[-0.5, -0.5], [-0.5]] if do_sample else [[None, None], [None]])
    shaping = (
        {"temperature": 0.7, "top_p": 0.9, "top_k": 5} if do_sample else {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
    )
    assert backend.vllm_client.sampling == {
        **shaping,
        "min_p": 0.0,
        "n": 1,
        "max_tokens": 3,
        "logprobs": 0,
        "repetition_penalty": 1.1,
        "structured_outputs_regex": None,
        "generation_kwargs": {"frequency_penalty": 0.5, "stop_token_ids": [9]},
    }


def test_what_resuming_saves_and_restores_lies_where_it_is_read(watched):
    # Two micro-batches, one step, which was logged.
    assert watched._step == 2, breach("_step", repr(watched._step))
    buffered = watched._buffered_inputs
    assert [set(micro) for micro in buffered] == [set(watched.seen["batch"][0])] * 2, breach(
        "_buffered_inputs", "others"
    )
    assert all(isinstance(value, torch.Tensor) for value in buffered[0].values()), breach("_buffered_inputs", "others")
    assert isinstance(watched._metrics["train"], dict), breach("_metrics", repr(watched._metrics))
    # Nothing was logged, so the losses are still added up, and at the end of training they were counted.
    losses = sum(loss.item() for loss in watched.seen["loss"])
    assert watched._tr_loss.item() == pytest.approx(losses, abs=1e-6), breach("_tr_loss", repr(watched._tr_loss))
    assert watched._globalstep_last_logged == 0, breach(
        "_globalstep_last_logged", repr(watched._globalstep_last_logged)
    )
    assert watched._total_loss_scalar == watched._tr_loss.item(), breach("_total_loss_scalar", "another sum")


def test_sampler_draws_an_order_each_time_it_is_begun(watched):
    """A resumed run skips the epochs that are done by beginning them."""
    sampler = watched._get_train_sampler(watched.train_dataset)
    other = watched._get_train_sampler(watched.train_dataset)
    next(iter(other))
    orders = [list(sampler), list(sampler)]
    assert orders[0] != orders[1], breach("_get_train_sampler", "the same order in each epoch")
    assert list(other) == orders[1], breach("_get_train_sampler", "an order that depends on more than its epochs")


# Where private names stand


def private_names_of_trl(instance: GRPOTrainer) -> set[str]:
    """All private attributes and methods of a GRPOTrainer and its bases, class and instance."""
    names = {*dir(GRPOTrainer), *vars(instance)}
    # TRL adds two while the first batch runs; they are in its source.
    source = inspect.getsource(inspect.getmodule(GRPOTrainer))
    names |= set(re.findall(r"self\.(_[a-z]\w*)", source))
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def attributes(path: Path, base: str | None = None) -> set[str]:
    """Names after a dot in a file; with `base`, after that name only."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if base is None or (isinstance(node.value, ast.Name) and node.value.id == base)}


def stored_attributes(path: Path) -> set[str]:
    """Names after a dot that a file assigns to."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if isinstance(node.ctx, ast.Store)}


def class_body(path: Path, name: str) -> list[ast.stmt]:
    """The statements of a class."""
    classes = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
    return next(node.body for node in classes if node.name == name)


def attributes_of_class(path: Path, name: str) -> set[str]:
    """Names after a dot in a class."""
    nodes = (node for statement in class_body(path, name) for node in ast.walk(statement))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def package_files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != COMPAT]


def test_no_other_file_reads_a_private_attribute_of_a_grpo_trainer(watched):
    private = private_names_of_trl(watched)
    offenders = {str(path.relative_to(PACKAGE)): attributes(path) & private for path in package_files()}
    assert {name: found for name, found in offenders.items() if found} == {}


def test_no_other_file_imports_trl_internals():
    for path in package_files():
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                # `from trl import X` is documented; what lies deeper moves between versions.
                assert not module.startswith("trl."), f"{path.name} imports {module}: take it through trl_compat.py"


def test_compat_declares_what_it_uses_and_uses_what_it_declares(watched):
    # What stands in `RewardSeams` is RewardTrainer's, and looked at below.
    used = (attributes(COMPAT) - attributes_of_class(COMPAT, "RewardSeams")) & private_names_of_trl(watched)
    body = [
        node
        for name in ("HubSeams", "CheckpointSeams", "EngineSeams", "GRPOSeams")
        for node in class_body(COMPAT, name)
    ]
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    defined |= {target.id for node in body if isinstance(node, ast.Assign) for target in node.targets}
    used |= defined & private_names_of_trl(watched)
    assert used == set(PRIVATE)


def test_our_own_private_names_hide_none_of_trl(watched):
    """A private attribute of ours by the same name would overwrite TRL's without a word."""
    overridden = set(trl_compat.PRIVATE_NAMES) | set(trl_compat.PRIVATE_ATTRIBUTES)
    classes = (
        (COMPAT, "GRPOSeams"),
        (COMPAT, "EngineSeams"),
        (COMPAT, "CheckpointSeams"),
        (COMPAT, "HubSeams"),
        (HUB_TRAINER, "HubTrainer"),
        (TRAINER, "SCoReTrainer"),
    )
    for path, name in classes:
        body = class_body(path, name)
        methods = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        stored = stored_attributes(path) - (attributes_of_class(COMPAT, "RewardSeams") if path == COMPAT else set())
        ours = {n for n in methods | stored if n.startswith("_") and not n.startswith("__")}
        assert ours & private_names_of_trl(watched) <= overridden


def test_public_attributes_that_we_read_exist(watched):
    classes = [cls for cls in SCoReTrainer.__mro__ if cls.__module__.startswith("trl_score.")]
    own = {name for cls in (*classes, trl_compat.RewardSeams) for name in vars(cls)}
    for path in (COMPAT, HUB_TRAINER, TRAINER):
        read = attributes(path, base="self") - stored_attributes(path) - own
        # Set up only where a run needs them: a loop for async rewards, continuous batching, vLLM.
        read -= {"async_loop", "continuous_batching_config", "vllm_generation"}
        missing = {name for name in read if name not in dir(watched)}
        assert not missing, f"TRL {trl.__version__}: GRPOTrainer has no {sorted(missing)}, read in {path.name}."


def test_loss_takes_advantages_per_token(watched):
    """The form (B, T) that our subclass writes into `advantages`, and TRL's loss says it accepts."""
    micro = dict(watched.seen["loss inputs"][0])
    micro["advantages"] = micro["advantages"].unsqueeze(1).expand(-1, 4)
    watched.model.train()
    per_token = watched._compute_loss(watched.model, micro)
    per_rollout = watched._compute_loss(watched.model, watched.seen["loss inputs"][0])
    torch.testing.assert_close(per_token, per_rollout)


# RewardTrainer, whose seams CLoud uses


def private_names_of_reward_trainer() -> set[str]:
    """All private attributes and methods of a RewardTrainer and its bases, class and instance."""
    names = set(dir(RewardTrainer))
    for base in RewardTrainer.__mro__[:-1]:
        names |= set(re.findall(r"self\.(_[a-z]\w*)", inspect.getsource(base)))
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("name", trl_compat.REWARD_PRIVATE_NAMES)
def test_reward_trainers_private_method_has_the_signature_counted_on(name):
    expected = re.match(r"\((.*?)\)", trl_compat.REWARD_PRIVATE_NAMES[name])[1].split(", ")
    found = list(inspect.signature(inspect.getattr_static(RewardTrainer, name)).parameters)
    assert found == expected, f"TRL {trl.__version__}: RewardTrainer.{name} takes {found}, {expected} was counted on."


def test_reward_seams_declare_what_they_use_and_use_what_they_declare():
    private = private_names_of_reward_trainer()
    body = class_body(COMPAT, "RewardSeams")
    used = attributes_of_class(COMPAT, "RewardSeams") | {n.name for n in body if isinstance(n, ast.FunctionDef)}
    used |= {target.id for node in body if isinstance(node, ast.Assign) for target in node.targets}
    declared = set(trl_compat.REWARD_PRIVATE_NAMES) | set(trl_compat.REWARD_PRIVATE_ATTRIBUTES)
    assert used & private == declared


def test_private_names_of_cloud_hide_none_of_reward_trainer():
    private = private_names_of_reward_trainer()
    assert {"_metrics", "_signature_columns", "_prepare_dataset"} <= private  # the comparison is of something
    for path in (PACKAGE / "cloud").glob("*.py"):
        found = attributes(path) & private
        assert not found, f"{path.name} reads {sorted(found)}, private names of RewardTrainer"
    methods = {
        node.name for node in class_body(CLOUD_TRAINER, "CLoudRewardTrainer") if isinstance(node, ast.FunctionDef)
    }
    assert not {name for name in methods if not name.startswith("__")} & private


def test_reward_trainer_keeps_the_signature_columns_where_they_are_added_to():
    """A subclass's columns must outlive TRL's, and TRL must fill in its own first."""

    class Columns(trl_compat.RewardSeams):
        needed_columns = ("ours",)

        def __init__(self) -> None:
            self._signature_columns = None

    columns = Columns()
    columns._set_signature_columns_if_needed()
    assert {"ours", "chosen_ids", "margin"} <= set(columns._signature_columns)
