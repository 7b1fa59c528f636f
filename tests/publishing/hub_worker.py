"""
Trains, pushes and loads small models, for test_hub_journey.py, in a process that takes a `HubServer` for the Hub.

    python hub_worker.py train OUTPUT_FOLDER    four models from `ann/base`: adapters and full models of both trainers
    python hub_worker.py load OUTPUT_FOLDER     loads each from the Hub, uses it as its card says, trains one further

What it finds goes into train.json and load.json.
"""

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import cloud_runs  # noqa: E402
import score_runs  # noqa: E402
from huggingface_hub import ModelCard, snapshot_download  # noqa: E402
from peft import AutoPeftModelForCausalLM, LoraConfig  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import ModelConfig  # noqa: E402

from trl_score import CLoudRewardTrainer, SCoReTrainer, load_reward_model  # noqa: E402
from trl_score.pipeline import SelfCorrectionPipeline  # noqa: E402
from trl_score.publishing.merge import merge_adapter  # noqa: E402
from trl_score.publishing.push import PushError  # noqa: E402

BASE = "ann/base"
NAMES = ("score-adapter", "score-full", "cloud-adapter", "cloud-full")
PROBE = torch.tensor([[60, 70, 80, 90, 100, 110, 120]])


def lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"])


def outputs(model: Any) -> list[float]:
    """The logits of a language model at the last position of a probe, or the reward of a reward model."""
    with torch.no_grad():
        found = model.eval()(input_ids=PROBE)
    return (found.rewards if "rewards" in found else found.logits[0, -1]).flatten().tolist()


def score_trainer(
    folder: Path, model: Any = BASE, peft_config: LoraConfig | None = None, **options: Any
) -> SCoReTrainer:
    return SCoReTrainer(
        model,
        score_runs.odd_length,
        score_runs.short_config(folder, stage="both", **options),
        score_runs.addition_dataset(),
        processing_class=AutoTokenizer.from_pretrained(BASE),
        peft_config=peft_config,
    )


def cloud_trainer(folder: Path, peft_config: LoraConfig | None = None, **options: Any) -> CLoudRewardTrainer:
    data = cloud_runs.preference_dataset()
    args = cloud_runs.short_config(folder, max_critique_length=16, **options)
    return CLoudRewardTrainer(BASE, args, train_dataset=data, eval_dataset=data, peft_config=peft_config)


def train(folder: Path) -> dict[str, Any]:
    places = {name: folder / name for name in NAMES}
    # Each is pushed in another of the ways that Transformers has.
    checkpoints = {"save_strategy": "steps", "save_steps": 1, "hub_strategy": "checkpoint", "hub_always_push": True}
    hub = {"push_to_hub": True, "hub_private_repo": True}
    trainers = {
        "score-adapter": score_trainer(
            places["score-adapter"], peft_config=lora(), hub_model_id="ann/score-adapter", **checkpoints, **hub
        ),
        "score-full": score_trainer(places["score-full"], hub_model_id="ann/score-full", **hub),
        "cloud-adapter": cloud_trainer(places["cloud-adapter"], lora()),
        "cloud-full": cloud_trainer(places["cloud-full"]),
    }
    for trainer in trainers.values():
        trainer.train()
        if trainer is trainers["cloud-full"]:
            trainer.evaluate()
        trainer.save_state()
    trainers["score-adapter"].push_to_hub(dataset_name="ann/sums")
    trainers["score-full"].save_model()
    trainers["cloud-adapter"].push_to_hub("Mine", private=True, tags="own")
    failure = ""
    try:
        trainers["cloud-full"].push_to_hub(token="wrong", private=True)
    except PushError as error:
        failure = str(error)
    return {"outputs": {name: outputs(trainer.model) for name, trainer in trainers.items()}, "failure": failure}


def load(folder: Path) -> dict[str, Any]:
    models = {
        "score-adapter": AutoPeftModelForCausalLM.from_pretrained("ann/score-adapter"),
        "score-full": AutoModelForCausalLM.from_pretrained("ann/score-full"),
        "cloud-adapter": load_reward_model("ann/cloud-adapter"),
        "cloud-full": load_reward_model("ann/cloud-full"),
    }
    pipe = SelfCorrectionPipeline("ann/score-adapter")
    merged = merge_adapter("ann/score-adapter", folder / "merged").folder
    return {
        "outputs": {name: outputs(model) for name, model in models.items()},
        "pipeline": {"budgets": pipe.trained_budgets, "outputs": outputs(pipe.model), "turns": pipe("1 + 1?").turns},
        "printed": {name: run_usage(name) for name in ("score-adapter", "cloud-adapter")},
        "merged": outputs(AutoModelForCausalLM.from_pretrained(merged)),
        "resumed": resume(folder),
        "example": run_example(folder),
        "kl": {str(reference): kl_of_further_training(folder, reference) for reference in (None, "base")},
    }


def run_usage(name: str) -> str:
    """Runs the Python of a card, and gives what it prints."""
    code = re.search(r"```python\n(.*?)```", ModelCard.load(f"ann/{name}").text, re.DOTALL)
    assert code is not None
    # These models' context is short.
    text = code[1].replace(f'from_pretrained("ann/{name}")', f'from_pretrained("ann/{name}", max_new_tokens=8)')
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(text, name, "exec"), {})
    return printed.getvalue()


def resume(folder: Path) -> list[int]:
    """Goes on from the checkpoint on the Hub, and gives the steps that were logged."""
    checkpoint = Path(snapshot_download("ann/score-adapter", allow_patterns="last-checkpoint/*")) / "last-checkpoint"
    trainer = score_trainer(folder / "resumed", peft_config=lora(), max_steps=3)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return [entry["step"] for entry in score_runs.training_logs(trainer)]


def run_example(folder: Path) -> list[str]:
    """Trains the pushed adapter with examples/train_score.py, and gives the adapters of the result."""
    sys.path.insert(0, str(TESTS.parent / "examples"))
    import train_score

    rows = folder / "sums.jsonl"
    score_runs.addition_dataset().to_json(rows)
    script_args = train_score.SCoReScriptArguments(dataset_name=str(rows), reward_funcs=["score_runs.odd_length"])
    args = score_runs.short_config(folder / "example", stage="2", max_steps=1)
    train_score.main(script_args, args, ModelConfig(model_name_or_path="ann/score-adapter", dtype="float32"))
    return sorted(path.parent.name for path in (folder / "example").rglob("adapter_model.safetensors"))


def kl_of_further_training(folder: Path, reference: str | None) -> list[float]:
    """Trains the pushed adapter for one step, and gives the KL of both turns at its start."""
    model = AutoPeftModelForCausalLM.from_pretrained("ann/score-adapter", is_trainable=True)
    trainer = score_trainer(folder / f"next-{reference}", model, max_steps=1, ref_model_name_or_path=reference)
    trainer.tell_adapter("ann/score-adapter")
    trainer.train()
    trainer.save_model()
    [entry] = score_runs.training_logs(trainer)
    return [entry["score/kl_t1"], entry["score/kl_t2"]]


if __name__ == "__main__":
    output = Path(sys.argv[2])
    found = train(output) if sys.argv[1] == "train" else load(output)
    (output / f"{sys.argv[1]}.json").write_text(json.dumps(found))
