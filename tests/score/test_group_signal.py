"""Groups that are paid alike: found by hand, and left out of an update that stays what it was."""

import pytest
import torch
from score_runs import EngineTrainer, addition_dataset, seeded_engine, short_config, text_of, training_logs, weights_of
from transformers import AutoTokenizer

from trl_score.score.group_signal import has_signal, only_with_signal
from trl_score.score.score_config import SCoReConfig

NAN = float("nan")


@pytest.mark.parametrize(
    ("returns_t1", "returns_t2", "expected"),
    [
        ([0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1], [False, True]),  # turn 1 of the second group differs
        ([1, 1, 1, 2, 2, 2], [0, 0.5, 0, 3, 3, 3], [True, False]),  # turn 2 of the first one
        ([NAN, 1, 1, NAN, NAN, NAN], [NAN, 0, 1, NAN, 1, NAN], [True, False]),  # what was not scored is not compared
    ],
)
def test_a_group_has_a_signal_where_a_turn_is_paid_differently(returns_t1, returns_t2, expected):
    found = has_signal(torch.tensor(returns_t1).float(), torch.tensor(returns_t2).float(), group_size=3)
    assert found.tolist() == [expected[0]] * 3 + [expected[1]] * 3


def test_rows_are_left_out_and_the_rest_stays():
    batch = {"turn_of_token": torch.ones(4, 3), "max_tokens": torch.arange(4), "num_items_in_batch": torch.tensor(7)}
    kept, share = only_with_signal({**batch, "engine": "x"}, torch.tensor([True, False, False, True]))
    assert (kept["max_tokens"].tolist(), kept["turn_of_token"].shape) == ([0, 3], (2, 3))
    assert (kept["num_items_in_batch"], kept["engine"], share) == (7, "x", 0.5)


def test_where_nothing_has_a_signal_one_row_is_left_that_teaches_nothing():
    batch = {"turn_of_token": torch.ones(2, 3), "max_tokens": torch.arange(2)}
    kept, share = only_with_signal(batch, torch.tensor([False, False]))
    assert (kept["turn_of_token"].tolist(), kept["max_tokens"].tolist(), share) == ([[0, 0, 0]], [0], 0.0)


def paid_by_prompt(prompts, completions, **kwargs):
    """A reward that differs within the groups of odd questions only."""
    return [
        float(len(text_of(completion)) % 2) if int(prompt[0]["content"].split()[2]) % 2 else 1.0
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def paid_alike(completions, **kwargs):
    return [1.0] * len(completions)


def train(local_model, folder, reward, **options):
    defaults = {"max_steps": 2, "per_device_train_batch_size": 8, "beta_1": 0.0, "beta_2": 0.0, "warmup_steps": 0}
    folder_of_model = local_model("qwen2")
    tokenizer = AutoTokenizer.from_pretrained(folder_of_model)
    trainer = EngineTrainer(
        str(folder_of_model),
        reward,
        short_config(folder, **{**defaults, **options}),
        addition_dataset(),
        processing_class=tokenizer,
    )
    trainer.engine = seeded_engine(tokenizer.eos_token_id)
    start = weights_of(trainer.model)
    trainer.train()
    return trainer, start


@pytest.mark.parametrize("loss_type", ["rloo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("steps_per_generation", [1, 2])
def test_without_kl_the_update_is_the_same(local_model, tmp_path, loss_type, steps_per_generation):
    options = {
        "stage": "2",
        "loss_type": loss_type,
        "steps_per_generation": steps_per_generation,
        "per_device_train_batch_size": 8 // steps_per_generation,
        "gradient_accumulation_steps": steps_per_generation,
        "optim": "sgd",  # by which a wrong scale of the loss shows
        "max_grad_norm": 1e9,
    }
    plain, start = train(local_model, tmp_path / "plain", paid_by_prompt, **options)
    short, _ = train(local_model, tmp_path / "short", paid_by_prompt, skip_without_signal=True, **options)
    shares = [entry["score/without_signal"] for entry in training_logs(short)]
    assert any(0 < share < 1 for share in shares)
    for name, weight in weights_of(short.model).items():
        moved = (weights_of(plain.model)[name] - start[name]).abs().max()
        torch.testing.assert_close(weight, weights_of(plain.model)[name], rtol=0, atol=float(moved) * 1e-2 + 1e-9)


def test_a_batch_without_any_signal_changes_nothing(local_model, tmp_path):
    trainer, start = train(local_model, tmp_path, paid_alike, stage="2", skip_without_signal=True)
    assert [entry["score/without_signal"] for entry in training_logs(trainer)] == [1.0, 1.0]
    for name, weight in weights_of(trainer.model).items():
        torch.testing.assert_close(weight, start[name], rtol=0, atol=0)


def test_in_stage_1_turn_1_is_not_paid(local_model, tmp_path):
    def paid_in_turn_1(completions, turn, **kwargs):
        return [float(len(text_of(text)) % 2) if turn == 1 else 1.0 for text in completions]

    shares = {
        stage: training_logs(train(local_model, tmp_path / stage, paid_in_turn_1, stage=stage, max_steps=1)[0])[0]
        for stage in "12"
    }
    assert shares["1"]["score/without_signal"] == 1.0
    assert shares["2"]["score/without_signal"] < 1.0


def test_it_needs_a_baseline(tmp_path):
    with pytest.raises(ValueError, match=r"`baseline='none'` has none\. Choose another baseline"):
        SCoReConfig(str(tmp_path), skip_without_signal=True, baseline="none", use_cpu=True)
