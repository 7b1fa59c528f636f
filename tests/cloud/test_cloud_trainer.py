"""The trainer: its loss against a slow second implementation, what it logs, evaluates, saves and goes on with."""

import math
import shutil
import signal

import pytest
import torch
import trl
from cloud_runs import preference_dataset, short_config
from peft import LoraConfig
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from trl_score.callbacks import SIGTERM_EXIT_CODE
from trl_score.checkpoints import WHOLE_FILE, mark_whole
from trl_score.cloud.cloud_trainer import CLoudRewardTrainer
from trl_score.cloud.modeling import CLoudRewardModel, load_reward_model
from trl_score.log_keys import CLOUD_LOG_KEYS

SIDES = ("chosen", "rejected")
NORMALIZATIONS = ("token_mean", "sequence_mean", "sum")
CRITIQUE_KEYS = {
    f"cloud/{name}" for name in ("critique_loss", "critique_weight", "critique_accuracy", "supervised_tokens")
}
TRAINING_KEYS = {"cloud/skipped_steps", "cloud/rows_dropped", "cloud/rows_shortened"}


@pytest.fixture
def make_trainer(local_model, tmp_path):
    """Builds a trainer on a small model of a kind, by default with data whose rows differ in length."""

    def make(kind="qwen2", *, data=None, model=None, **options):
        names = ("eval_dataset", "peft_config", "compute_metrics", "processing_class", "quantization_config")
        arguments = {name: options.pop(name) for name in names if name in options}
        data = preference_dataset() if data is None else data
        args = short_config(tmp_path / "run", **options)
        return CLoudRewardTrainer(model or str(local_model(kind)), args, train_dataset=data, **arguments)

    return make


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def training_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def rewards_of(model, batch):
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).rewards


def naive_loss(model, batch, *, normalization="token_mean", weight=1.25, margin=None, center=None):
    """
    The joint loss by the book: one row at a time, unpadded, from the full logits of the causal model.
    """
    base, head = model.reward_base_model, model.reward_head
    rewards, sums, counts = [], [], []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(mask.sum())
        outputs = base(input_ids=ids[None, :length], output_hidden_states=True)
        last = outputs.hidden_states[-1][0, -1]
        rewards.append(head.out_proj(torch.tanh(head.dense(last)))[0])
        log_probs = outputs.logits[0].log_softmax(dim=-1)
        positions = [t for t in range(1, length) if labels[t] != -100]
        sums.append(sum((-log_probs[t - 1, labels[t]] for t in positions), log_probs.new_zeros(())))
        counts.append(len(positions))
    by_response = {}
    for row, response in enumerate(batch.get("response_of_row", torch.arange(len(rewards))).tolist()):
        by_response.setdefault(response, []).append(rewards[row])
    means = [sum(values) / len(values) for _, values in sorted(by_response.items())]
    num_pairs = len(means) // 2
    pairs = list(zip(means[:num_pairs], means[num_pairs:], strict=True))
    margin = [0.0] * num_pairs if margin is None else margin
    loss = sum(-logsigmoid(c - r - m) for (c, r), m in zip(pairs, margin, strict=True)) / num_pairs
    if center is not None:
        loss = loss + center * sum((c + r) ** 2 for c, r in pairs) / num_pairs
    critique = {
        "token_mean": sum(sums) / sum(counts),
        "sequence_mean": sum(s / n for s, n in zip(sums, counts, strict=True)) / len(counts),
        "sum": sum(sums) / (len(sums) / 2),
    }[normalization]
    return loss + weight * critique


# The loss


@pytest.mark.parametrize("kind", ["llama_pad_eos", "gemma", "plain"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_loss_and_gradients_are_those_of_full_logits(make_trainer, kind, normalization):
    data = preference_dataset(4).map(lambda row, index: {"margin": 0.3 * index}, with_indices=True)
    options = {"critique_normalization": normalization, "center_rewards_coefficient": 0.1, "critique_weight": 0.75}
    trainer = make_trainer(kind, data=data, model=None, **options)
    model = trainer.model.double()
    batch = first_batch(trainer)
    assert batch["margin"].max() > 0.5
    trainer.compute_loss(model, batch).backward()
    found = gradients(model)
    expected = naive_loss(
        model, batch, normalization=normalization, weight=0.75, margin=batch["margin"].double(), center=0.1
    )
    torch.testing.assert_close(trainer.compute_loss(model, batch), expected, rtol=1e-9, atol=1e-9)
    expected.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)  # norms compute in fp32


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_mean_of_k_rewards_stands_in_the_loss(make_trainer, normalization):
    data = preference_dataset(4, num_critiques=3)
    # Not all responses have as many critiques.
    data = data.map(lambda row, i: {"chosen_critique": row["chosen_critique"][: 1 + i % 3]}, with_indices=True)
    trainer = make_trainer(data=data, critiques_per_response="mean", critique_normalization=normalization)
    model, batch = trainer.model.double(), first_batch(trainer)
    assert len(batch["input_ids"]) > 8
    expected = naive_loss(model, batch, normalization=normalization)
    torch.testing.assert_close(trainer.compute_loss(model, batch), expected, rtol=1e-9, atol=1e-9)


def test_weight_zero_is_the_loss_of_trl(make_trainer):
    """TRL's own `compute_loss`, on rewards from the same pooled states: value and gradients."""

    class AsSequenceClassifier(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, use_cache, margin):
            rewards = self.model(input_ids=input_ids, attention_mask=attention_mask).rewards
            return type("Outputs", (), {"logits": rewards.unsqueeze(-1)})

    data = preference_dataset(4).map(lambda row, index: {"margin": 0.3 * index}, with_indices=True)
    trainer = make_trainer(data=data, critique_weight=0.0, center_rewards_coefficient=0.01)
    batch = first_batch(trainer)
    ours = trainer.compute_loss(trainer.model, batch)
    ours.backward()
    found = gradients(trainer.model)
    of_trl = {name: batch[name] for name in ("input_ids", "attention_mask", "margin")}
    theirs = trl.RewardTrainer.compute_loss(trainer, AsSequenceClassifier(trainer.model), of_trl)
    torch.testing.assert_close(ours, theirs)
    theirs.backward()
    for name, gradient in gradients(trainer.model).items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_classic_loss_is_the_loss_of_trl_on_the_same_rewards(make_trainer):
    trainer = make_trainer(stage="classic")
    batch = first_batch(trainer)
    assert "labels" not in batch
    chosen, rejected = rewards_of(trainer.model, batch).chunk(2)
    expected = -logsigmoid(chosen - rejected).mean()
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected)


def test_sft_learns_from_critiques_alone(make_trainer):
    trainer = make_trainer(stage="sft")
    model, batch = trainer.model.double(), first_batch(trainer)
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    chosen, rejected = outputs["rewards"].detach().unbind(dim=1)
    expected = naive_loss(model, batch, weight=1.0).detach() + logsigmoid(chosen - rejected).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    loss.backward()
    assert model.reward_head.dense.weight.grad.abs().max() == 0  # there, for DDP, and nothing
    assert model.get_output_embeddings().weight.grad.abs().max() > 0


@pytest.mark.parametrize("stage", ["joint", "sft"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_batch_without_supervised_tokens_is_finite(make_trainer, stage, normalization):
    trainer = make_trainer(stage=stage, critique_normalization=normalization)
    batch = first_batch(trainer)
    batch["labels"].fill_(-100)
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    chosen, rejected = outputs["rewards"].unbind(dim=1)
    expected = -logsigmoid(chosen - rejected).mean() if stage == "joint" else torch.tensor(0.0)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    found = gradients(trainer.model)
    assert set(found) == {name for name, _ in trainer.model.named_parameters()}  # DDP waits for all
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_one_forward_and_logits_at_supervised_positions_only(make_trainer):
    trainer = make_trainer()
    batch, seen = first_batch(trainer), {"backbone": 0, "lm_head": []}
    trainer.model.backbone.register_forward_hook(lambda *_: seen.__setitem__("backbone", seen["backbone"] + 1))
    lm_head = trainer.model.get_output_embeddings()
    lm_head.register_forward_hook(lambda module, inputs, output: seen["lm_head"].append(output.shape[:-1].numel()))
    trainer.compute_loss(trainer.model, batch)
    assert seen["backbone"] == 1
    assert sum(seen["lm_head"]) == (batch["labels"] != -100).sum()


def test_micro_batches_count_the_same(make_trainer):
    """Gradient accumulation: the mean over micro-batches of each one's token mean, whatever tokens each holds."""
    trainer = make_trainer(per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1, optim="sgd")
    trainer.args.max_grad_norm = 0.0
    model = trainer.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batches = list(trainer.get_train_dataloader())[:2]
    (sum(trainer.compute_loss(model, batch) for batch in batches) / 2).backward()
    expected = gradients(model)
    counts = [(batch["labels"] != -100).sum() for batch in batches]
    assert counts[0] != counts[1]
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        step = before[name] - parameter.detach()
        torch.testing.assert_close(step, 1e-3 * expected[name], rtol=1e-3, atol=1e-7, msg=name)


def test_one_critique_in_a_list_is_as_one_in_a_text(make_trainer):
    runs = []
    for num_critiques, critiques_per_response in ((None, "one"), (1, "one"), (1, "mean")):
        data = preference_dataset(num_critiques=num_critiques)
        trainer = make_trainer(data=data, critiques_per_response=critiques_per_response, max_steps=3)
        trainer.train()
        runs.append((training_logs(trainer), trainer.model.state_dict()))
    for logs, weights in runs[1:]:
        assert [entry["loss"] for entry in logs] == pytest.approx([entry["loss"] for entry in runs[0][0]], rel=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, runs[0][1][name])


def test_joint_training_learns(make_trainer):
    trainer = make_trainer(max_steps=30)
    trainer.train()
    logs = training_logs(trainer)
    assert logs[-1]["cloud/critique_loss"] < 0.5 * logs[0]["cloud/critique_loss"]
    assert logs[-1]["cloud/reward_loss"] < 0.8 * logs[0]["cloud/reward_loss"]
    assert logs[-1]["cloud/accuracy"] == 1.0


# Precision


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_bf16_training_is_near_fp32_and_keeps_fp32_weights_and_rewards(make_trainer, gradient_checkpointing):
    runs = {}
    for bf16 in (False, True):
        options = {"bf16": bf16, "gradient_checkpointing": gradient_checkpointing, "max_steps": 1}
        trainer = make_trainer(eval_dataset=preference_dataset(4), **options)
        batch, seen = first_batch(trainer), []
        lm_head = trainer.model.get_output_embeddings()
        lm_head.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.dtype))
        trainer.train()
        assert seen[0] is (torch.bfloat16 if bf16 else torch.float32)
        assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            rewards = rewards_of(trainer.model, batch)
        assert rewards.dtype is torch.float32
        assert trainer.predict(preference_dataset(4)).predictions.dtype == "float32"
        runs[bf16] = training_logs(trainer)[0]
    for key in ("loss", "cloud/reward_loss", "cloud/critique_loss"):
        assert runs[True][key] != runs[False][key]
        assert runs[True][key] == pytest.approx(runs[False][key], rel=2e-2)


def test_training_goes_on_from_a_bf16_checkpoint(make_trainer, tmp_path):
    """All in bf16, as `dtype` asks for; loaded again as it was saved, and in fp32 where nothing is asked for."""
    start = make_trainer()
    start.model.to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    start.processing_class.save_pretrained(tmp_path / "bf16")
    in_fp32 = make_trainer(model=str(tmp_path / "bf16"))
    assert {parameter.dtype for parameter in in_fp32.model.parameters()} == {torch.float32}
    trainer = make_trainer(model=str(tmp_path / "bf16"), model_init_kwargs={"dtype": "bfloat16"}, learning_rate=1e-2)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.bfloat16}
    trainer.train()
    batch = first_batch(trainer)
    trainer.save_model()
    loaded = CLoudRewardModel.from_pretrained(tmp_path / "run")
    assert loaded.dtype is torch.bfloat16
    rewards = rewards_of(trainer.model.eval(), batch)
    assert torch.equal(rewards_of(loaded, batch), rewards)
    assert rewards.dtype is torch.float32 and len(set(rewards.tolist())) == len(rewards)
    assert not torch.equal(rewards.bfloat16().float(), rewards)  # not rounded on the way


# Rows and columns


@pytest.mark.parametrize("remove_unused_columns", [True, False])
def test_columns_of_critiques_are_kept(make_trainer, remove_unused_columns):
    data = preference_dataset().map(lambda row, index: {"margin": 0.1, "source": "a"}, with_indices=True)
    trainer = make_trainer(data=data, remove_unused_columns=remove_unused_columns)
    batch = first_batch(trainer)
    assert batch.keys() == {"input_ids", "attention_mask", "labels", "margin"}
    assert (batch["labels"] != -100).any(dim=1).all()


def test_rows_too_long_are_logged(make_trainer):
    data = preference_dataset(8)
    data = data.map(lambda row, i: {"chosen_critique": "Right. " * (1 if i else 60)}, with_indices=True)
    trainer = make_trainer(data=data, max_length=180)
    trainer.train()
    assert [(e["cloud/rows_dropped"], e["cloud/rows_shortened"]) for e in training_logs(trainer)] == [(0, 1)] * 2
    trainer = make_trainer(data=data, max_length=180, overlong="drop")
    trainer.train()
    assert [(e["cloud/rows_dropped"], e["cloud/rows_shortened"]) for e in training_logs(trainer)] == [(1, 0)] * 2


def test_epochs_draw_all_critiques_and_evaluation_the_first(make_trainer):
    data = preference_dataset(4).map(
        lambda row, i: {f"{side}_critique": [f"{side} {i} {number}" for number in "ab"] for side in SIDES},
        with_indices=True,
    )
    trainer = make_trainer(data=data, eval_dataset=data, max_steps=-1, num_train_epochs=2)
    seen = []
    collate = trainer.data_collator

    class Watch(type(collate)):
        def __call__(self, examples):
            batch = super().__call__(examples)
            seen.append({tuple(row[row != -100].tolist()) for row in batch["labels"]})
            return batch

    collate.__class__ = Watch
    trainer.train()
    assert len(seen) == 2 and not seen[0] & seen[1]  # the other critique of every response
    trainer.evaluate()
    first = {
        (*trainer.template.critique_ids(row[f"{side}_critique"][0]), trainer.template.closing_id)
        for row in data
        for side in SIDES
    }
    assert seen[2] == first


def test_streams_train(make_trainer):
    data = preference_dataset()
    trainer = make_trainer(data=data.to_iterable_dataset())
    trainer.train()
    assert math.isfinite(training_logs(trainer)[-1]["loss"])


# Logs


@pytest.mark.parametrize("stage", ["joint", "sft", "classic"])
def test_logged_keys_are_those_of_the_table(make_trainer, stage):
    data = preference_dataset()
    trainer = make_trainer(stage=stage, eval_dataset=data)
    trainer.train()
    trainer.evaluate()
    expected = {
        "joint": set(CLOUD_LOG_KEYS),
        "sft": CRITIQUE_KEYS | TRAINING_KEYS,
        "classic": set(CLOUD_LOG_KEYS) - CRITIQUE_KEYS,
    }[stage]
    for entry in training_logs(trainer):
        assert {key for key in entry if "/" in key} == expected
    evaluation = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert {key for key in evaluation if "/" in key} == {f"eval_{key}" for key in expected - TRAINING_KEYS}


def test_logged_values_are_right(make_trainer):
    data = preference_dataset(7)
    trainer = make_trainer(data=data, eval_dataset=data, per_device_eval_batch_size=4)
    metrics = trainer.evaluate()
    dataset, collate = trainer.eval_dataset, trainer.data_collator
    batches = [collate([dataset[i] for i in part]) for part in (range(4), range(4, 7))]
    pairs, correct, tokens = [], 0, 0
    critique_losses = []
    with torch.no_grad():
        for batch in batches:
            outputs = trainer.model(**batch)
            pairs += zip(*(half.tolist() for half in outputs.rewards.chunk(2)), strict=True)
            correct, tokens = correct + outputs.num_correct.sum(), tokens + outputs.num_supervised.sum()
            critique_losses.append(outputs.critique_nll.sum() / outputs.num_supervised.sum())
    margins = [chosen - rejected for chosen, rejected in pairs]
    rewards = [reward for pair in pairs for reward in pair]
    expected = {
        "accuracy": sum(margin > 0 for margin in margins) / 7,
        "margin": sum(margins) / 7,
        "reward_mean": sum(rewards) / 14,
        "reward_min": min(rewards),
        "reward_max": max(rewards),
        "reward_loss": sum(math.log1p(math.exp(-margin)) for margin in margins) / 7,
        "critique_loss": float(4 * critique_losses[0] + 3 * critique_losses[1]) / 7,
        "critique_accuracy": float(correct / tokens),
        "supervised_tokens": float(tokens / 2),
    }
    for name, value in expected.items():
        assert metrics[f"eval_cloud/{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    config = trainer.model.config
    variance = sum((reward - expected["reward_mean"]) ** 2 for reward in rewards) / 14
    assert config.reward_mean == pytest.approx(expected["reward_mean"], rel=1e-5)
    assert config.reward_std == pytest.approx(variance**0.5, rel=1e-5)


def test_loss_is_the_sum_of_its_logged_parts_and_the_weight_moves(make_trainer):
    options = {"critique_weight": 1.0, "final_critique_weight": 0.0, "critique_weight_schedule": "linear"}
    trainer = make_trainer(max_steps=3, **options)
    trainer.train()
    logs = training_logs(trainer)
    assert [entry["cloud/critique_weight"] for entry in logs] == [1.0, 0.5, 0.0]
    for entry, weight in zip(logs, (1.0, 0.5, 0.0), strict=True):
        assert entry["loss"] == pytest.approx(entry["cloud/reward_loss"] + weight * entry["cloud/critique_loss"])


# Evaluation


def test_evaluation_gives_rewards_and_nothing_else(make_trainer):
    data, seen = preference_dataset(6), []

    def compute_metrics(prediction):
        seen.append(prediction)
        return {"right": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}

    trainer = make_trainer(eval_dataset=data, compute_metrics=compute_metrics)
    metrics = trainer.evaluate()
    assert seen[0].predictions.shape == (6, 2) and seen[0].label_ids.tolist() == [0] * 6
    assert metrics["eval_right"] == metrics["eval_cloud/accuracy"]
    # Each row's reward is its own, whatever the batch.
    row = trainer.data_collator([trainer.eval_dataset[5]])
    assert seen[0].predictions[5].tolist() == pytest.approx(rewards_of(trainer.model, row).tolist(), abs=1e-5)


def test_other_data_can_be_evaluated_and_predicted(make_trainer):
    data = preference_dataset(10)
    trainer = make_trainer(eval_dataset={"near": data, "far": data.select(range(4))})
    metrics = trainer.evaluate()
    assert {"eval_near_cloud/accuracy", "eval_far_cloud/accuracy"} <= set(metrics)
    fresh = trainer.evaluate(preference_dataset(4))
    assert fresh["eval_cloud/margin"] == pytest.approx(metrics["eval_far_cloud/margin"], rel=1e-5)
    assert trainer.predict(preference_dataset(3)).predictions.shape == (3, 2)
    assert "test_cloud/accuracy" not in str(trainer.state.log_history)


# Models


def test_model_may_come_in_four_forms(make_trainer, local_model, tmp_path):
    path = str(local_model("qwen2"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    by_name = make_trainer()
    causal = make_trainer(model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32))
    batch = first_batch(by_name)
    expected = rewards_of(by_name.model.eval(), batch)
    torch.testing.assert_close(rewards_of(causal.model.eval(), batch), expected)  # the head of the same seed
    by_name.save_model(str(tmp_path / "saved"))
    of_folder = make_trainer(model=str(tmp_path / "saved"))
    loaded = CLoudRewardModel.from_pretrained(tmp_path / "saved")
    in_memory = make_trainer(model=loaded, processing_class=tokenizer)
    assert in_memory.model is loaded
    for trainer in (of_folder, in_memory):
        assert torch.equal(rewards_of(trainer.model.eval(), batch), expected)


def test_head_depends_on_the_seed_alone(make_trainer):
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(heads))
        heads.append(make_trainer(seed=seed).model.reward_head.dense.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("disable_dropout", [True, False])
def test_dropout_of_the_head(make_trainer, local_model, disable_dropout):
    model = CLoudRewardModel.from_causal_lm(local_model("qwen2"), head_dropout=0.5)
    trainer = make_trainer(model=model, disable_dropout=disable_dropout)
    batch = first_batch(trainer)
    trainer.model.train()
    same = torch.equal(rewards_of(trainer.model, batch), rewards_of(trainer.model, batch))
    assert same is disable_dropout


def test_gradient_checkpointing_changes_nothing(make_trainer):
    runs = []
    for gradient_checkpointing in (False, True):
        trainer = make_trainer(gradient_checkpointing=gradient_checkpointing)
        trainer.train()
        assert trainer.model.is_gradient_checkpointing is gradient_checkpointing
        runs.append(trainer.model.state_dict())
    for name, weight in runs[0].items():
        torch.testing.assert_close(weight, runs[1][name], msg=name)


@pytest.mark.parametrize("is_tied", [False, True])
def test_classic_model_trains_no_lm_head_of_its_own(make_trainer, local_model, is_tied):
    base = AutoModelForCausalLM.from_pretrained(local_model("qwen2"), dtype=torch.float32)
    if is_tied:
        base.config.tie_word_embeddings = True
        base.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    trainer = make_trainer(model=base, stage="classic", processing_class=tokenizer)
    assert trainer.model.get_output_embeddings().weight.requires_grad is is_tied
    trainer.compute_loss(trainer.model, first_batch(trainer)).backward()
    assert all(p.grad is not None for p in trainer.model.parameters() if p.requires_grad)


# Saving


def test_saved_model_gives_the_same_rewards(make_trainer, tmp_path):
    trainer = make_trainer("gemma", critique_prompt="Critique: ", eval_dataset=preference_dataset(4))
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    loaded = CLoudRewardModel.from_pretrained(tmp_path / "run")
    batch = first_batch(trainer)
    assert torch.equal(rewards_of(loaded, batch), rewards_of(trainer.model.eval(), batch))
    assert loaded.config.critique_prompt == "Critique: "
    assert loaded.config.reward_mean == trainer.model.config.reward_mean != 0.0
    assert AutoTokenizer.from_pretrained(tmp_path / "run").chat_template is not None


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "task_type": "SEQ_CLS"},
        {"target_modules": "all-linear", "modules_to_save": ["reward_head"], "task_type": "CAUSAL_LM"},
        # As a script for TRL's RewardTrainer has them.
        {"modules_to_save": ["score"], "task_type": "SEQ_CLS"},
        {"target_modules": "all-linear"},
    ],
)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_adapter_saves_its_head(make_trainer, tmp_path, settings, gradient_checkpointing):
    peft_config = LoraConfig(r=2, **settings)
    trainer = make_trainer(
        peft_config=peft_config, critique_prompt="Critique: ", gradient_checkpointing=gradient_checkpointing
    )
    assert peft_config.modules_to_save == settings.get("modules_to_save")  # the caller's is left alone
    assert "score" not in trainer.model.peft_config["default"].modules_to_save
    head = trainer.accelerator.unwrap_model(trainer.model).get_base_model().reward_head
    before = {name: p.detach().clone() for name, p in head.named_parameters() if p.requires_grad}
    assert {name.split(".")[-2] for name in before} == {"dense", "out_proj"}
    assert not any("lora" in name for name in before)
    trainer.train()
    assert all(not torch.equal(p, before[name]) for name, p in head.named_parameters() if p.requires_grad)
    trainer.save_model()
    batch = first_batch(trainer)
    torch.manual_seed(99)  # the head under the adapter's is drawn anew, and must not matter
    loaded = load_reward_model(tmp_path / "run")
    assert torch.equal(rewards_of(loaded.eval(), batch), rewards_of(trainer.model.eval(), batch))
    assert loaded.config.critique_prompt == "Critique: "


def test_an_adapter_in_memory_goes_on(make_trainer, tmp_path):
    make_trainer(peft_config=LoraConfig(r=2, target_modules=["q_proj"])).save_model(str(tmp_path / "first"))
    model = load_reward_model(tmp_path / "first")
    model.set_adapter("default")
    trainer = make_trainer(model=model)
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora" in name for name in weights) and any("reward_head" in name for name in weights)
    trainer.train()
    assert all(not torch.equal(p, weights[name]) for name, p in model.named_parameters() if "lora_B" in name)


def test_training_goes_on_from_a_checkpoint(make_trainer, tmp_path):
    """Two epochs of two steps with another critique in each, once in one go and once resumed in the first epoch."""
    options = {"data": preference_dataset(8, num_critiques=2), "save_strategy": "steps", "save_steps": 1}
    options |= {"max_steps": 4, "lr_scheduler_type": "linear"}
    whole = make_trainer(**options)
    whole.train()
    resumed = make_trainer(**options)
    for step in (2, 3, 4):
        (tmp_path / "run" / f"checkpoint-{step}" / WHOLE_FILE).unlink()  # as if killed before it was written
    resumed.train(resume_from_checkpoint=True)
    for expected, found in zip(training_logs(whole)[1:], training_logs(resumed)[1:], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    for name, weight in resumed.model.state_dict().items():
        torch.testing.assert_close(weight, whole.model.state_dict()[name], msg=name)


def test_run_resumed_in_the_midst_of_a_logging_window_has_the_same_logs(make_trainer, tmp_path):
    """All numbers are the same bit for bit, those of evaluations in the window too."""
    options = {"eval_dataset": preference_dataset(6), "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 3}
    options |= {"save_strategy": "steps", "save_steps": 1, "max_steps": 6, "gradient_accumulation_steps": 2}
    whole = make_trainer(**options)
    whole.train()
    shutil.copytree(tmp_path / "run", tmp_path / "whole")

    def logs_of(trainer):
        times = ("runtime", "per_second", "train_loss", "total_flos")
        logs = [
            {k: v for k, v in entry.items() if not any(t in k for t in times)} for entry in trainer.state.log_history
        ]
        return [entry for entry in logs if "step" in entry and len(entry) > 2]

    expected = logs_of(whole)
    assert [entry["step"] for entry in expected if "loss" in entry] == [3, 6]
    for step in (2, 5):
        resumed = make_trainer(**options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert logs_of(resumed) == expected, step


def test_checkpoint_without_our_state_goes_on_with_a_warning(make_trainer, tmp_path, caplog):
    """As one of another number of processes, or of a trainer before there was such a state."""
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "logging_steps": 3}
    make_trainer(**options).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / "resume_state_0.pt").unlink()
    mark_whole(checkpoint)
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert any(
        "has no state of 1 processes to go on from (found: none). The next log counts from here." in message
        for message in caplog.messages
    )
    assert [entry["step"] for entry in training_logs(resumed)] == [3]


class SigtermInStep(TrainerCallback):
    """Sends this process a SIGTERM while its second step is made."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            signal.raise_signal(signal.SIGTERM)


def test_sigterm_saves_and_ends_and_training_goes_on(make_trainer):
    options = {"max_steps": 4, "lr_scheduler_type": "linear"}
    whole = make_trainer(**options)
    whole.train()
    ended = make_trainer(**options)
    ended.add_callback(SigtermInStep())
    with pytest.raises(SystemExit) as stop:
        ended.train()
    assert stop.value.code == SIGTERM_EXIT_CODE
    assert ended.state.global_step == 2
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=True)
    assert training_logs(resumed)[1]["step"] == 2 and training_logs(resumed)[-1]["step"] == 4
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, whole.model.state_dict()[name]), name


def test_model_card_names_the_method(make_trainer, tmp_path):
    make_trainer().create_model_card(model_name="mine")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Critique-out-Loud Reward Models" in card and "2408.11791" in card and "cloud" in card
