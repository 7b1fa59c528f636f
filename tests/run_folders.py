"""Folders as a training leaves them, written by hand: no model in them, and nothing but what the tests look at."""

import json
from pathlib import Path
from typing import Any

CORRECTION = "Look again.\n\n```\nand keep the form\n```"
WEIGHTS = b"8 bytes of weights"

RECORD: dict[str, Any] = {
    "trainer": "SCoReTrainer",
    "method": "SCoRe",
    "stage": "both",
    "base_model": "ann/base",
    "base_commit": "0123456789abcdef0123",
    "dataset": "ann/sums",
    "num_rows": 8192,
    "reward_funcs": ["MathReward", "length|cost"],
    "reward_weights": [1.0, 0.1],
    "step": 60,
    "max_steps": 60,
    "num_processes": 2,
    "arguments": {"learning_rate": 5e-6, "lr_scheduler_type": "linear", "top_p": None, "stage": "both"},
    "earlier": [{"method": "SCoRe", "stage": "1", "dataset": "ann/sums", "step": 30}],
    "merged_from": None,
    "deviations": ["Groups of 8.", "The KL is the k1 estimate."],
    "paper": {"title": "A title", "id": "2409.12917", "citation": "@misc{a,\n    title = {A title},\n}"},
    "tags": ["score", "trl"],
    "links": ["[<img src=x alt=tracker>](https://example.org/run)"],
    "repo_id": "ann/corrector",
    "versions": {"trl_score": "0.1.0"},
}

LEFT_BEHIND = (
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "adaptive_beta_2.json",
    "pytorch_model.bin",
    "notes.txt",
    "secrets.json",
    ".env",
    "modeling_own.py",
    "checkpoint-30/adapter_model.safetensors",
    "ref/adapter_model.safetensors",
    "completions/completions_00001.parquet",
    "runs/events.out.tfevents.1",
)
"""Files of a run's folder that nobody else needs."""


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def adapter_run(folder: Path, base: str = "ann/base", **record: Any) -> Path:
    """Writes the folder of a SCoRe run that trained an adapter, with everything beside it that a run may leave."""
    for name in LEFT_BEHIND:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"{}")
    adapter = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["layers.0.v_proj", "layers.1.v_proj"]}
    write_json(folder / "adapter_config.json", {**adapter, "base_model_name_or_path": base})
    write_json(folder / "score_config.json", {"correction_prompt": CORRECTION, "max_completion_length": [256, 128]})
    write_json(folder / "training_config.json", {**RECORD, **record})
    write_json(folder / "tokenizer_config.json", {"name_or_path": str(folder.parent / "base"), "eos_token": "/s"})
    write_json(folder / "tokenizer.json", {"model": {"vocab": {str(folder.parent): 1}}})
    write_json(folder / "generation_config.json", {"eos_token_id": 2})
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    write_json(folder / "trainer_state.json", {"log_history": log_history(), "best_model_checkpoint": str(folder)})
    return folder


PUBLISHED = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "generation_config.json",
    "score_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_config.json",
]
"""What of `adapter_run` is published, beside card and figures."""


def log_history() -> list[dict[str, float]]:
    """A log with what the training curves are drawn from, and an evaluation."""
    keys = ("accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i")
    values = (0.5, 0.625, 0.125, 0.25, 0.125)
    logged = {f"score/{key}": value for key, value in zip(keys, values, strict=True)}
    steps = [{"step": step, "score/stage": 1 if step < 3 else 2, **logged} for step in range(1, 5)]
    return [*steps, {"step": 4, **{f"eval_{key}": value for key, value in logged.items()}}]


def summary() -> dict[str, Any]:
    """The numbers of a final evaluation, of the base and after Stage II."""

    def metrics(start: float) -> dict[str, dict[str, float]]:
        names = ("accuracy_t1", "accuracy_t2", "delta_t1_t2", "delta_i_to_c", "delta_c_to_i", "answers_changed")
        values = {name: start + 0.01 * index for index, name in enumerate(names)}
        return {name: {"value": value, "low": value - 0.005, "high": value + 0.005} for name, value in values.items()}

    base, stage_2 = ({"greedy": metrics(start), "sampled": metrics(start + 0.2)} for start in (0.0, 0.3))
    return {"base": base, "stage2": stage_2, "num_problems": 1500, "seed": 0}
