"""
One of the processes of `test_two_process_traces.py`: samples traces, fine-tunes an adapter on them, says what it saw.

    python -m torch.distributed.run --nproc_per_node 2 two_process_trace_worker.py MODEL FOLDER
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from accelerate import PartialState  # noqa: E402
from peft import LoraConfig  # noqa: E402
from score_runs import addition_dataset, odd_length, short_config  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from trl_score.baselines.budget import Budget  # noqa: E402
from trl_score.baselines.fine_tuning import FineTuning, fine_tune_on_traces  # noqa: E402
from trl_score.baselines.traces import sample_traces  # noqa: E402


def main(model: str, folder: Path) -> None:
    args = short_config(folder / "out", max_completion_length=16, learning_rate=0.1)
    scored: list[int] = []

    def reward(completions, problem, **kwargs):
        scored.extend(problem)
        return odd_length(completions)

    dataset = addition_dataset()
    dataset = dataset.add_column("problem", list(range(len(dataset))))
    policy, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    # An odd number, so that one process has a trace more than the other.
    traces = sample_traces(policy, tokenizer, dataset, [1, 1, 2, 2, 3, 3, 4], reward, args, seed=0)
    seen = {"traces": [asdict(trace) for trace in traces], "scored": list(scored)}
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tuning = FineTuning("D+_SFT", args, dataset, reward, peft_config=lora)
    spent = fine_tune_on_traces(model, [Budget(updates=2, prompts=4, group_size=4)], tuning)
    seen["spent"] = asdict(spent)
    (folder / f"seen_{PartialState().process_index}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
