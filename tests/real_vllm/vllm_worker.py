"""
What `test_real_vllm.py` launches in the environment of `make test-vllm`: one short run whose turns come from the real
vLLM. Each process writes what was asked of vLLM, what was made of it and what was logged into FOLDER/run_RANK.json.

    python vllm_worker.py RUN MODEL FOLDER [SERVER_URL]
"""

import faulthandler
import functools
import json
import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import safetensors.torch  # noqa: E402
import torch  # noqa: E402
import trl.generation.vllm_client  # noqa: E402
import trl.generation.vllm_generation  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from score_runs import odd_length, short_config  # noqa: E402

from trl_score.score.score_trainer import SCoReTrainer  # noqa: E402

BUDGETS = (16, 12)
SECONDS_TO_STALL = 600
# Longer than one block of vLLM's cache on a CPU (128 tokens), so that turn 2 can find turn 1's prompt there.
LONG_QUESTION = "Ann has seven boxes with {row} pencils each, and gives four pencils away. How many are left? " * 5

RUNS: dict[str, dict[str, Any]] = {
    # Rows with budgets of their own and first turns from the dataset; greedy evaluation.
    "colocate": {"offline_turn_1_column": "draft", "vllm_importance_sampling_mode": "token_truncate"},
    # Two processes; the ends of groups lie on both. Sampled evaluation.
    "colocate_two": {"num_generations": 8, "eval_do_sample": True},
    # Adapters are merged for vLLM; batches used twice, so the first weights are not those of the second step.
    "colocate_lora": {"num_iterations": 2, "max_steps": 4, "learning_rate": 1e-2},
    # The training temperature is not 1: vLLM's log-probabilities must be those at it.
    "server": {"vllm_mode": "server", "temperature": 0.7, "offline_turn_1_column": "draft"},
    # As above with adapters, through the file.
    "server_lora": {"vllm_mode": "server", "num_iterations": 2, "max_steps": 4, "learning_rate": 1e-2},
    # Each process has a prompt of its own, and now one of them has its first turn from the dataset, now the other.
    "server_two": {"vllm_mode": "server", "offline_turn_1_column": "draft"},
}


def dataset(num_rows: int = 16) -> Dataset:
    """Long prompts; every third row has a budget of its own for turn 2."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": LONG_QUESTION.format(row=row)}],
                "draft": f"There are {row} left.",
                "max_completion_length_t2": 5 if row % 3 == 0 else None,
            }
            for row in range(num_rows)
        ]
    )


def keep_fp32() -> None:
    """vLLM's own choice for an fp32 model is bfloat16; equal numbers need equal precision."""
    trl.generation.vllm_generation.LLM = functools.partial(
        trl.generation.vllm_generation.LLM, dtype="float32", enforce_eager=True
    )


def bring_weights_by_file(folder: Path) -> None:
    """TRL brings weights to a server by NCCL, which a CPU has not: here they go through a file."""
    client = trl.generation.vllm_client.VLLMClient

    def update_named_params(self: Any, metadata: Any, named_params: Any) -> None:
        weights = {name: tensor.contiguous().clone() for name, tensor in named_params}
        safetensors.torch.save_file(weights, folder / "model.safetensors")
        kwargs = {"weights_path": str(folder)}
        self._post(f"{self.base_url}/collective_rpc", json={"method": "reload_weights", "kwargs": kwargs})

    client.init_communicator = lambda self, device: None
    client.update_named_params = update_named_params


def cache_hits(server_url: str) -> float:
    """Tokens that a server has found in its prefix cache since it started."""
    with urllib.request.urlopen(f"{server_url}/metrics", timeout=60) as reply:
        counts = re.findall(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", reply.read().decode(), re.MULTILINE)
    return sum(map(float, counts))


def watch(trainer: SCoReTrainer, calls: list[dict[str, Any]], server_url: str | None) -> None:
    """Writes down each call of TRL's vLLM object, and how many tokens were found in the cache."""
    backend = trainer.vllm_generation
    generate, cached = backend.generate, []
    sync, steps = backend.sync_weights, []

    def watched_generate(prompts: Any, **kwargs: Any) -> Any:
        cached.clear()
        hits = cache_hits(server_url) if server_url else 0.0
        answer = generate(prompts, **kwargs)
        if server_url:
            cached.append(cache_hits(server_url) - hits)
        calls.append(
            {
                "mode": trainer.mode,
                "prompts": prompts,
                "budget": backend.max_completion_length,
                "stop_token_ids": backend.generation_kwargs["stop_token_ids"],
                "cached": list(cached),
                "syncs": len(steps),
            }
        )
        return answer

    def watched_sync() -> None:
        sync()
        steps.append(trainer.state.global_step)

    backend.generate, backend.sync_weights = watched_generate, watched_sync
    if backend.mode == "colocate":
        llm_generate = backend.llm.generate

        def watched_llm(*args: Any, **kwargs: Any) -> Any:
            outputs = llm_generate(*args, **kwargs)
            cached.extend(output.num_cached_tokens for output in outputs)
            return outputs

        backend.llm.generate = watched_llm


def rollouts_of(trainer: SCoReTrainer, kept: list[list[dict[str, Any]]]) -> None:
    """Writes down the rollouts that are made of vLLM's answers."""
    roll_out = trainer.roll_out

    def watched(prompts: Any, inputs: Any) -> Any:
        rollouts = roll_out(prompts, inputs)
        kept.append(
            [
                {
                    "prompt": rollout.prompt_ids,
                    "turn_1": rollout.turn_1.token_ids,
                    "between": rollout.correction_ids,
                    "turn_2": rollout.turn_2.token_ids,
                    "truncated": [rollout.turn_1.truncated, rollout.turn_2.truncated],
                    "offline": rollout.is_turn_1_offline,
                    "budget_t2": row["max_completion_length_t2"] or BUDGETS[1],
                }
                for rollout, row in zip(rollouts, inputs, strict=True)
            ]
        )
        return rollouts

    trainer.roll_out = watched


def gaps_of(trainer: SCoReTrainer, kept: list[dict[str, Any]]) -> None:
    """Writes down of each turn of each training batch how far vLLM's log-probabilities are off, and the weights."""
    finish_batch = trainer.finish_batch

    def watched(batch: Any) -> Any:
        batch = finish_batch(batch)
        gaps = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).abs()
        if trainer.mode == "train":
            for turn in (1, 2):
                of_turn = batch["turn_of_token"] == turn
                found = {"gaps": gaps[of_turn], "weights": batch["importance_sampling_ratio"][of_turn]}
                kept.append({"turn": turn, **{name: values.tolist() for name, values in found.items()}})
        return batch

    trainer.finish_batch = watched


def main(name: str, model: str, folder: Path, server_url: str | None) -> None:
    """Trains and evaluates."""
    # TRL waits for a server without end, and a process that waits for another says nothing: each tells where it stands.
    faulthandler.dump_traceback_later(SECONDS_TO_STALL, exit=True)
    torch.manual_seed(0)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    options = {"max_steps": 3, **RUNS[name]}
    if options.get("vllm_mode") == "server":
        options["vllm_server_base_url"] = server_url
        bring_weights_by_file(folder)
    keep_fp32()
    trainer = SCoReTrainer(
        model=model,
        reward_funcs=odd_length,
        args=short_config(
            folder / "out",
            use_vllm=True,
            per_device_train_batch_size=8 // world_size,
            max_completion_length_t1=BUDGETS[0],
            max_completion_length_t2=BUDGETS[1],
            vllm_max_model_length=512,
            # So large that weights which are not brought to vLLM show at once.
            **{"learning_rate": 2e-3, "stage": "2", **options},
        ),
        train_dataset=dataset(),
        eval_dataset=dataset(3),
        peft_config=LoraConfig(r=4, target_modules="all-linear") if name.endswith("lora") else None,
    )
    calls: list[dict[str, Any]] = []
    rollouts: list[list[dict[str, Any]]] = []
    watch(trainer, calls, server_url)
    rollouts_of(trainer, rollouts)
    turns: list[dict[str, Any]] = []
    gaps_of(trainer, turns)
    trainer.train()
    trainer.evaluate()
    written = {
        "logs": trainer.state.log_history,
        "calls": calls,
        "rollouts": rollouts,
        "turns": turns,
        "stop_ids": trainer.eos_token_ids,
    }
    (folder / f"run_{rank}.json").write_text(json.dumps(written))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
