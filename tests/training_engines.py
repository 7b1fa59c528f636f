"""
What `test_training_engines.py` starts: short trainings of both trainers, under each engine, on two processes.

    python training_engines.py MODEL FOLDER      reads engines' names from stdin, and answers each with one line

One process imports everything once, then forks each engine's processes, so that an engine costs its trainings only.
They get the environment that `accelerate launch --config_file ds_configs/...` would give them. The answer is a list of
their exit codes; what they printed is in FOLDER/ENGINE/output-RANK.txt. A case writes into FOLDER/ENGINE/CASE its logs
(`run-RANK.pt`), SCoRe's completions tables, and the saved model.
"""

import json
import os
import signal
import socket
import sys
import traceback
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["DS_ACCELERATOR"] = "cpu"
TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import cloud_runs  # noqa: E402
import deepspeed  # noqa: E402
import score_runs  # noqa: E402
import torch  # noqa: E402
from accelerate.commands import launch  # noqa: E402
from accelerate.state import PartialState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env  # noqa: E402
from deepspeed.comm.torch import TorchBackend  # noqa: E402
from local_models import FAMILIES  # noqa: E402
from peft import LoraConfig  # noqa: E402
from score_runs import EngineTrainer, addition_dataset, odd_length, seeded_engine  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

from trl_score.cloud.cloud_trainer import CLoudRewardTrainer  # noqa: E402
from trl_score.records import GeneratedTurn, Prompt, Rollout  # noqa: E402
from trl_score.score.rollout import GenerateTurn  # noqa: E402
from trl_score.score.score_trainer import SCoReTrainer  # noqa: E402

CONFIGS = TESTS.parent / "ds_configs"
CONFIG_FILES: dict[str, str] = {
    "ddp": "accelerate_multi_gpu.yaml",
    "zero1": "accelerate_zero1_cpu.yaml",
    "zero2": "accelerate_zero2_cpu.yaml",
    "zero3": "accelerate_zero3_cpu.yaml",
    "fsdp2": "accelerate_fsdp2.yaml",
}
ENGINES = tuple(CONFIG_FILES)
CASES = tuple("-".join(parts) for parts in product(("score", "cloud"), ("full", "lora"), ("fp32", "bf16")))
FURTHER_CASES = {
    "zero2": ("score-full-fp32-nan_loss",),
    "zero3": ("score-full-fp32-checkpointed", "score-lora-fp32-checkpointed", "score-full-fp32-ungathered"),
    "fsdp2": (
        *("score-full-fp32-checkpointed", "score-lora-fp32-checkpointed"),
        *("score-full-fp32-nan_loss", "score-full-fp32-nan_gradient"),
    ),
}
CASES_OF = {engine: (*CASES, *FURTHER_CASES.get(engine, ())) for engine in ENGINES}
VARIANTS: dict[str, dict[str, Any]] = {
    "checkpointed": {"gradient_checkpointing": True},
    "ungathered": {"ds3_gather_for_generation": False},
    "nan_loss": {},
    "nan_gradient": {},
}
"""What a case's name may end with, and the options that it stands for."""

WITHOUT_EFFECT = ("checkpointed", "ungathered")
"""Variants that must give what the case without them gives."""

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
ROWS_PER_STEP = {"score": 8, "cloud": 4}  # over all processes
EVAL_ROWS = 4
# An epsilon far above what rounding leaves of a gradient that is 0: Adam would make a whole step of it.
ADAM = {"optim": "adamw_torch", "learning_rate": 3e-3, "adam_epsilon": 1e-4, "max_steps": 3}
WITHOUT_THRESHOLDS = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_max_live_parameters": 0,
}
SECONDS_OF_AN_ENGINE = 400  # after that it hangs
NAN_STEP = 1
GATHERED: Counter[str] = Counter()


def reference_of(case: str) -> str:
    """The case that one process trains, with which this one is compared."""
    return "-".join(part for part in case.split("-") if part not in WITHOUT_EFFECT)


class MatrixTrainer(EngineTrainer):
    """
    A trainer whose `generate` is the engine's own and greedy, and whose turns are the test's.

    What it learns from is so the same however many processes there are and however they round, and what `generate`
    wrote can be compared where they do not round.
    """

    nan: str
    written: list[list[list[int]]]
    gathered: list[float]

    def roll_out(self, prompts: list[Prompt], inputs: list[dict[str, Any]]) -> list[Rollout]:
        before = GATHERED["elements"]
        rollouts = super().roll_out(prompts, inputs)
        num_elements = sum(parameter.ds_numel for parameter in self.model.parameters()) if self._dist.is_zero3 else 1
        self.gathered.append((GATHERED["elements"] - before) / num_elements)
        return rollouts

    @contextmanager
    def generation_engine(self, *, do_sample: bool) -> Iterator[GenerateTurn]:
        with (
            SCoReTrainer.generation_engine(self, do_sample=False) as generate,
            super().generation_engine(do_sample=do_sample) as seeded,
        ):

            def write(prompt_ids: Sequence[list[int]], max_new_tokens: Sequence[int]) -> list[GeneratedTurn]:
                self.written.append([turn.token_ids for turn in generate(prompt_ids, max_new_tokens)])
                return seeded(prompt_ids, max_new_tokens)

            yield write

    def is_nan_now(self, kind: str) -> bool:
        """Whether something of this process becomes NaN: on the last one, so that others do not see it."""
        is_last = self.accelerator.process_index == self.accelerator.num_processes - 1
        return is_last and self.nan == kind and self.state.global_step == NAN_STEP

    def turn_loss(self, model: Any, batch: Any) -> torch.Tensor:
        if self.is_nan_now("nan_loss"):  # in what the loss is multiplied by, so that the advantages are none
            batch["importance_sampling_ratio"] = torch.full(batch["completion_ids"].shape, torch.nan)
        return super().turn_loss(model, batch)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.is_nan_now("nan_gradient"):
            gradient = next(p.grad for p in self.model.parameters() if p.grad is not None)
            own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            own.view(-1)[-1] = float("nan")
        return loss


def options_of(case: str, world_size: int) -> dict[str, Any]:
    """The options that the parts of a case's name stand for."""
    kind, _, precision, *variants = case.split("-")
    options = {
        "per_device_train_batch_size": ROWS_PER_STEP[kind] // world_size,
        "per_device_eval_batch_size": EVAL_ROWS // world_size,
        "bf16": precision == "bf16",
        **ADAM,
    }
    for variant in variants:
        options |= VARIANTS[variant]
    return options


def build_score(case: str, model: Path, folder: Path, world_size: int, peft_config: LoraConfig | None) -> Any:
    """Builds the trainer of a case of SCoRe: Stage I in the first step, Stage II in the others."""
    stages = {"stage": "both", "stage_1_steps": 1, "log_completions": True, "num_completions_to_print": 0}
    args = score_runs.short_config(folder, **stages, **options_of(case, world_size))
    share_out_all(args)
    data, held_out = addition_dataset(), addition_dataset(num_rows=EVAL_ROWS)
    trainer = MatrixTrainer(str(model), odd_length, args, data, held_out, peft_config=peft_config)
    trainer.engine = seeded_engine(trainer.tokenizer.convert_tokens_to_ids(FAMILIES["qwen2"].end_of_turn))
    trainer.nan = case.split("-")[-1]
    trainer.written, trainer.gathered = [], []
    return trainer


def build_cloud(case: str, model: Path, folder: Path, world_size: int, peft_config: LoraConfig | None) -> Any:
    """Builds the trainer of a case of CLoud. With a sum over tokens the mean of two processes' losses is one's loss."""
    args = cloud_runs.short_config(
        folder, critique_normalization="sum", critique_weight=0.01, **options_of(case, world_size)
    )
    share_out_all(args)
    data = cloud_runs.preference_dataset(16)
    return CLoudRewardTrainer(str(model), args, None, data, data.select(range(EVAL_ROWS)), peft_config=peft_config)


BUILDERS: dict[str, Callable[..., Any]] = {"score": build_score, "cloud": build_cloud}


def share_out_all(args: Any) -> None:
    """
    Has the engine do to a small model what it does to a large one, on CPUs.

    ZeRO-3 keeps small weights whole, and others that it will soon need again. accelerate looks for FSDP only where
    there are GPUs or their like.
    """
    if args.deepspeed_plugin is not None:
        args.deepspeed_plugin.deepspeed_config["zero_optimization"] |= WITHOUT_THRESHOLDS
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def run(case: str, model: Path, folder: Path, world_size: int) -> None:
    """Trains and evaluates one case, saves the model, and writes what came of it."""
    kind, weights = case.split("-")[:2]
    trainer = BUILDERS[kind](case, model, folder, world_size, LORA if weights == "lora" else None)
    if trainer.accelerator.num_processes != world_size:
        raise RuntimeError(f"expected {world_size} processes, got {trainer.accelerator.num_processes}")
    if world_size == 1:
        trainer.save_model(str(folder / "start"))
    result: dict[str, Any] = {"error": None}
    try:
        trainer.train()
        trainer.evaluate()
    except FloatingPointError as error:
        result["error"] = str(error)
    trainer.save_model(str(folder / "saved"))
    result["logs"] = trainer.state.log_history
    if kind == "score":
        result |= {"written": trainer.written, "gathered": trainer.gathered}
    torch.save(result, folder / f"run-{trainer.args.process_index}.pt")
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()


def launch_environment(engine: str) -> dict[str, str]:
    """What `accelerate launch` puts into the environment for the engine's file."""
    started: list[Namespace] = []
    vars(launch).update(deepspeed_launcher=started.append, multi_gpu_launcher=started.append)
    # A case says itself in which precision it trains.
    options = ["--main_process_port", "0", "--mixed_precision", "no"]
    command = [*options, "--config_file", str(CONFIGS / CONFIG_FILES[engine]), "SCRIPT"]
    launch.launch_command(launch.launch_command_parser().parse_args(command))
    (arguments,) = started
    whole = prepare_deepspeed_cmd_env(arguments)[1] if arguments.use_deepspeed else prepare_multi_gpu_env(arguments)
    return {name: value for name, value in whole.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


def process_environments(engine: str) -> list[dict[str, str]]:
    """The environment of each of an engine's processes, as its launcher would set it."""
    if engine == "one":
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= launch_environment(engine)
    return [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]


def count_gathered_elements() -> None:
    """Counts in `GATHERED` the elements that DeepSpeed's processes send each other to make weights whole."""
    gather = TorchBackend.all_gather_into_tensor

    def counting(self: Any, output_tensor: torch.Tensor, input_tensor: torch.Tensor, **kwargs: Any) -> Any:
        GATHERED["elements"] += output_tensor.numel()
        return gather(self, output_tensor, input_tensor, **kwargs)

    TorchBackend.all_gather_into_tensor = counting


def run_cases(engine: str, model: Path, folder: Path, world_size: int) -> None:
    """Runs an engine's cases in this process. One process runs what the others' cases are compared with."""
    # Shared memory in place of gloo, which DeepSpeed would compile for two minutes, and wait for a lock to do so.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    signal.alarm(SECONDS_OF_AN_ENGINE)
    torch.set_num_threads(1)
    count_gathered_elements()
    references = dict.fromkeys(reference_of(case) for cases in CASES_OF.values() for case in cases)
    for case in references if engine == "one" else CASES_OF[engine]:
        run(case, model, folder / case, world_size)


def fork_process(engine: str, model: Path, folder: Path, environments: list[dict[str, str]], rank: int) -> int:
    """Starts one of an engine's processes, and gives its number."""
    process = os.fork()
    if process:
        return process
    with (folder / f"output-{rank}.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        code = 1
        try:
            os.environ |= environments[rank]
            run_cases(engine, model, folder, len(environments))
            code = 0
        except BaseException:  # noqa: BLE001 -- a forked copy must not go on
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)


def run_engine(engine: str, model: Path, folder: Path) -> list[int]:
    """Runs an engine, and gives its processes' exit codes; when one has failed the others are ended."""
    folder.mkdir(parents=True)
    environments = process_environments(engine)
    processes = [fork_process(engine, model, folder, environments, rank) for rank in range(len(environments))]
    codes: dict[int, int] = {}
    while len(codes) < len(processes):
        process, status = os.wait()
        codes[process] = os.waitstatus_to_exitcode(status)
        if codes[process] != 0:
            for other in set(processes) - set(codes):
                os.kill(other, signal.SIGKILL)
    return [codes[process] for process in processes]


if __name__ == "__main__":
    for line in sys.stdin:
        name = line.strip()
        sys.stdout.write(json.dumps(run_engine(name, Path(sys.argv[1]), Path(sys.argv[2]) / name)) + "\n")
        sys.stdout.flush()
