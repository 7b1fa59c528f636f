"""
Runs that are killed and gone on with. One process imports everything once, then forks each run, so that a run costs its
own seconds only.

    python resume_worker.py          reads jobs from stdin, one JSON object a line, and answers each with one line
    torchrun ... resume_worker.py JOB          is one process of a job

A job: `folder` (the run's), `model` (a folder), `options` (of SCoReConfig), `lora`, `world_size`, `resume` (from the
last whole checkpoint, if there is one), and `kill`: `null`, or `{"at": NAME, "step": S}` for the moment at which
process 0 (or `"rank"`) comes to a place of that name (see `RunToKill`) at step S for the first time (or the
`"count"`-th), or `{"event": N}` for the N-th call or return of a function in its main thread (0: they are counted
only). With `"signal": "SIGTERM"` it gets that in place of SIGKILL.

`trouble`: what goes wrong on process 1 (of several) from step 1 on: `"nan"` (its loss), `"stuck"` (its reward
function, at row 1 of turn 2), `"stuck ahead"` (of turn 1, in the background), `"stuck in C"` (in compiled code that
keeps Python's lock), `"error"` (that function's own), `"model"` (a reward model, which runs beside it),
`"forward"` (the policy's), `"collator"`, or `"killed"` (a SIGKILL). The last three write `failed-RANK.txt` first, with
the time.

A run writes into its folder `trace-RANK.jsonl` (one line per rollout batch and per micro-batch, flushed at once), and
at its end `end.pt`: weights and logs.
"""

import json
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch  # noqa: E402
from peft import LoraConfig  # noqa: E402
from score_runs import addition_dataset, odd_length, short_config, text_of  # noqa: E402
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback  # noqa: E402

from trl_score.records import Completion, Prompt, Rollout  # noqa: E402
from trl_score.score.score_trainer import SCoReTrainer  # noqa: E402

# Windows of 4 optimizer steps (8 micro-batches), stages and epochs that end inside of a run, logs and evaluations that
# do not fall together with checkpoints.
OPTIONS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "num_iterations": 2,
    "max_steps": 10,
    "stage_1_steps": 3,
    "logging_steps": 3,
    "save_strategy": "steps",
    "save_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "eval_do_sample": True,
    "num_generations_eval": 2,
    "per_device_eval_batch_size": 4,
    "beta_2_target_kl": 1e-3,
    "log_completions": True,
    "num_completions_to_print": 0,
}
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM")


TROUBLE = {"now": ""}


def stay_stuck() -> None:
    if TROUBLE["now"] == "stuck in C":
        re.fullmatch("(a+)+b", "a" * 64)
    time.sleep(600)


def reward(
    completions: list[Completion], turn: int, log_extra: Any, log_metric: Any, **columns: Any
) -> list[float | None]:
    """A reward that cannot score every fourth length, and logs."""
    if turn == 2 and TROUBLE["now"] == "error":
        raise OSError("the judge is away")
    stuck_in = {"stuck": 2, "stuck ahead": 1, "stuck in C": 2}.get(TROUBLE["now"])
    for row, _completion in enumerate(completions):
        if turn == stuck_in and row == 1:
            stay_stuck()
    texts = [text_of(completion) for completion in completions]
    log_extra("characters", [len(text) for text in texts])
    log_metric("characters", sum(map(len, texts)) / len(texts))
    return [None if len(text) % 4 == 0 else value for text, value in zip(texts, odd_length(completions), strict=True)]


def fail(folder: Path, what: str) -> None:
    """Fails, if that is the trouble, in a way that other processes cannot be told of."""
    if TROUBLE["now"] != what:
        return
    (folder / f"failed-{os.environ['RANK']}.txt").write_text(str(time.time()))
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError(f"the {what} went wrong")


def reward_model(path: str) -> torch.nn.Module:
    """A reward model that fails in turn 2 where it is told to."""
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    model.config.pad_token_id = AutoTokenizer.from_pretrained(path).pad_token_id
    calls: Counter[str] = Counter()

    def before(*arguments: Any) -> None:
        calls[TROUBLE["now"]] += 1
        if calls["model"] == 2:
            raise RuntimeError("no memory for the reward model")

    model.register_forward_pre_hook(before)
    return model


class RunToKill(SCoReTrainer):
    """
    A trainer that writes down what it does, and dies at a place of a name: `micro_batch` and `after_micro_batch`,
    `generation` (between the turns), `evaluation` (a batch of it), `after_step`, and while it saves `after_model`,
    `after_optimizer`, `after_random_state` (all is written, but not marked as whole) and `after_checkpoint`.
    """

    kill: dict[str, Any]
    trouble: str
    trace: Any
    seen: Counter[tuple[str, int]]

    def come_to(self, place: str) -> None:
        moment = (place, self.state.global_step)
        self.seen[moment] += 1
        expected = (self.kill.get("at"), self.kill.get("step")), self.kill.get("count", 1), self.kill.get("rank", 0)
        if expected == (moment, self.seen[moment], self.accelerator.process_index):
            os.kill(os.getpid(), signal.Signals[self.kill.get("signal", "SIGKILL")])

    def write(self, **entry: Any) -> None:
        self.trace.write(json.dumps(entry) + "\n")
        self.trace.flush()

    def roll_out(self, prompts: list[Prompt], inputs: list[dict[str, Any]]) -> list[Rollout]:
        rollouts = super().roll_out(prompts, inputs)
        ids = [[rollout.prompt_ids, rollout.completion_ids] for rollout in rollouts]
        self.write(mode=self.mode, step=self.state.global_step, rollouts=sha256(str(ids).encode()).hexdigest())
        return rollouts

    def _start_scoring_turn_1(self, *args: Any) -> None:
        super()._start_scoring_turn_1(*args)
        self.come_to("generation")

    def log_probs(self, model: Any, batch: Any, **kwargs: Any) -> Any:
        fail(Path(self.args.output_dir), "forward")
        outputs = super().log_probs(model, batch, **kwargs)
        if TROUBLE["now"] == "nan" and outputs.per_token_logps.requires_grad:
            return outputs._replace(per_token_logps=outputs.per_token_logps * float("nan"))
        return outputs

    def turn_loss(self, model: Any, batch: Any) -> torch.Tensor:
        loss = super().turn_loss(model, batch)
        advantages = sha256(batch["advantages"].numpy().tobytes()).hexdigest()
        self.write(mode=self.mode, step=self.state.global_step, loss=loss.item().hex(), advantages=advantages)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step >= 1 and self.accelerator.process_index == 1:
            TROUBLE["now"] = self.trouble
            fail(Path(self.args.output_dir), "killed")
        self.come_to("micro_batch")
        loss = super().training_step(*args, **kwargs)
        self.come_to("after_micro_batch")
        return loss

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        self.come_to("evaluation")
        return super().prediction_step(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        self.come_to("after_model")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self.come_to("after_optimizer")

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.come_to("after_random_state")


class Places(TrainerCallback):
    """Places that only callbacks come to."""

    def __init__(self, trainer: RunToKill) -> None:
        self.trainer = trainer

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.come_to("after_step")

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.come_to("after_checkpoint")


class CountEvents:
    """Counts the calls and returns of a thread, of Python's functions and of compiled ones, and dies at one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.number = 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        self.number += 1
        if self.number == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def run(job: dict[str, Any]) -> None:
    folder, rank = Path(job["folder"]), int(os.environ.get("RANK", "0"))
    (folder / f"process-{rank}.txt").write_text(str(os.getpid()))
    torch.set_num_threads(1)
    world_size = job.get("world_size", 1)
    options = {**OPTIONS, **job.get("options", {})}
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        options[name] //= world_size
    dataset = addition_dataset(num_rows=8)
    trainer = RunToKill(
        model=job["model"],
        reward_funcs=[reward, reward_model(job["model"])] if job.get("trouble") == "model" else reward,
        args=short_config(folder, **options),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(3)),
        peft_config=LORA if job.get("lora") else None,
    )
    trainer.kill, trainer.seen = job.get("kill") or {}, Counter()
    trainer.trouble = job.get("trouble", "")
    collate = trainer.data_collator

    def collate_or_fail(rows: list[Any]) -> Any:
        fail(folder, "collator")
        return collate(rows)

    trainer.data_collator = collate_or_fail
    trainer.trace = (folder / f"trace-{rank}.jsonl").open("a")
    trainer.add_callback(Places(trainer))
    events = CountEvents(trainer.kill.get("event", 0))
    if "event" in trainer.kill and rank == 0:
        sys.setprofile(events)
    resume = bool(job.get("resume")) and any(folder.glob("checkpoint-*/whole.json"))
    trainer.train(resume_from_checkpoint=resume or None)
    sys.setprofile(None)
    if trainer.accelerator.is_main_process:
        weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
        end = {"logs": trainer.state.log_history, "weights": weights, "num_events": events.number}
        torch.save(end, folder / "end.pt")
    trainer.accelerator.end_training()


def fork_process(job: dict[str, Any], rank: int, port: int) -> int:
    process = os.fork()
    if process:
        return process
    with (Path(job["folder"]) / f"output-{rank}.txt").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        code = 1
        try:
            if job.get("world_size", 1) > 1:
                os.environ |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(job["world_size"]),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
            run(job)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 -- a forked copy must not go on
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)


def do(job: dict[str, Any]) -> list[int]:
    """Runs a job; of several processes the others are killed when one was."""
    Path(job["folder"]).mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [fork_process(job, rank, port) for rank in range(job.get("world_size", 1))]
    codes: dict[int, int] = {}
    while len(codes) < len(processes):
        process, status = os.wait()
        codes[process] = os.waitstatus_to_exitcode(status)
        if codes[process] == -signal.SIGKILL:
            for other in set(processes) - set(codes):
                os.kill(other, signal.SIGKILL)
    return [codes[process] for process in processes]


if __name__ == "__main__" and len(sys.argv) > 1:
    run(json.loads(sys.argv[1]))
elif __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(do(json.loads(line))) + "\n")
        sys.stdout.flush()
