"""What GRPOTrainer takes and SCoReTrainer must go on taking, and SCoRe's own options, each in a run of a few steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from local_models import FAMILIES
from peft import LoraConfig
from score_runs import (
    EngineTrainer,
    addition_dataset,
    evaluation_logs,
    is_finite,
    odd_length,
    seeded_engine,
    short_config,
    text_of,
    training_logs,
    weights_of,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    MixtralConfig,
    MixtralForCausalLM,
    TrainerCallback,
)

from trl_score.checkpoints import WHOLE_FILE, mark_whole
from trl_score.records import GeneratedTurn
from trl_score.score.score_trainer import SCoReTrainer


def short_trainer(local_model: Any, folder: Path, kind: str = "qwen2", **options: Any) -> SCoReTrainer:
    """A trainer; `options` that SCoReTrainer names go there, all others into the configuration."""
    own = ("model", "reward_funcs", "train_dataset", "eval_dataset", "callbacks", "peft_config", "trainer_class")
    given = {name: options.pop(name) for name in own if name in options}
    trainer_class = given.pop("trainer_class", SCoReTrainer)
    defaults = {"model": str(local_model(kind)), "reward_funcs": odd_length, "train_dataset": addition_dataset(kind)}
    return trainer_class(args=short_config(folder, **options), **{**defaults, **given})


def run(trainer: SCoReTrainer) -> list[dict[str, Any]]:
    trainer.train()
    logs = training_logs(trainer)
    assert logs and all(is_finite(entry) for entry in logs)
    return logs


def untimed_values(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key.startswith("score/") and "seconds" not in key}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


# Models and references


def reference_logps(trainer: SCoReTrainer) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A batch of the trainer's own, and the reference's log-probabilities in it."""
    trainer.model.train()
    rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(4)]
    batch = trainer._generate_and_score_completions(rows)
    return batch, batch["ref_per_token_logps"]


@torch.no_grad()
def logps_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The plain way: logits of the whole row, log-softmax, the token's entry. Shape (B, T)."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, :-1].float()
    logps = logits.log_softmax(dim=-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return logps[:, -batch["completion_ids"].size(1) :]


def assert_reference_is(trainer: SCoReTrainer, model: Any) -> None:
    batch, ref_logps = reference_logps(trainer)
    is_answer = batch["turn_of_token"] > 0
    torch.testing.assert_close(ref_logps[is_answer], logps_of(model, batch)[is_answer], rtol=1e-3, atol=1e-3)


def other_model(path: Path) -> Any:
    """The model at `path` with other weights, as after training in memory."""
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    return model


def test_reference_of_a_path_is_the_model_there(local_model, tmp_path):
    trainer = short_trainer(local_model, tmp_path, learning_rate=1e-2)
    run(trainer)
    assert_reference_is(trainer, AutoModelForCausalLM.from_pretrained(local_model("qwen2")).eval())


def test_reference_of_a_model_in_memory_is_that_model(local_model, tmp_path):
    model = other_model(local_model("qwen2"))
    expected = other_model(local_model("qwen2")).eval()
    trainer = short_trainer(local_model, tmp_path, model=model, learning_rate=1e-2)
    run(trainer)
    assert_reference_is(trainer, expected)


def test_named_reference(local_model, tmp_path):
    path = local_model("qwen2")
    trainer = short_trainer(
        local_model, tmp_path, model=other_model(path), ref_model_name_or_path=str(path), learning_rate=1e-2
    )
    logs = run(trainer)
    assert_reference_is(trainer, AutoModelForCausalLM.from_pretrained(path).eval())
    assert logs[0]["score/kl_t1"] != 0  # the policy did not start from the reference


def test_no_reference_without_kl(local_model, tmp_path):
    trainer = short_trainer(local_model, tmp_path, beta_1=0.0, beta_2=0.0)
    logs = run(trainer)
    assert trainer.ref_model is None
    assert "score/kl_t1" not in logs[0]


def test_new_adapter(local_model, tmp_path):
    trainer = short_trainer(local_model, tmp_path, peft_config=LORA, learning_rate=1e-2, max_steps=3)
    before = weights_of(trainer.model)
    run(trainer)
    changed = moved(before, weights_of(trainer.model))
    assert changed == {name for name in before if "lora" in name}
    assert trainer.ref_model is None
    assert_reference_is(trainer, AutoModelForCausalLM.from_pretrained(local_model("qwen2")).eval())


def test_mixture_of_experts_trains_its_router(local_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    config = MixtralConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        output_router_logits=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    def loss_with(coefficient: float) -> float:
        torch.manual_seed(0)
        config.router_aux_loss_coef = coefficient
        trainer = SCoReTrainer(
            model=MixtralForCausalLM(config),
            reward_funcs=odd_length,
            processing_class=tokenizer,
            args=short_config(tmp_path, max_steps=1, router_aux_loss_coef=coefficient),
            train_dataset=addition_dataset(),
        )
        return run(trainer)[0]["loss"]

    # The load-balancing loss of 4 experts of which 2 are chosen is 2 where they are balanced, and more elsewhere.
    assert 2.0 <= loss_with(1.0) - loss_with(0.0) < 2.6


# Rewards


def test_reward_weights_and_several_functions(local_model, tmp_path):
    def ones(completions: list[Any], **kwargs: Any) -> list[float]:
        return [1.0] * len(completions)

    def turn_number(completions: list[Any], turn: int, **kwargs: Any) -> list[float]:
        return [float(turn)] * len(completions)

    logs = run(
        short_trainer(local_model, tmp_path, reward_funcs=[ones, turn_number], reward_weights=[2.0, 0.5], max_steps=1)
    )
    # 2 * 1 + 0.5 * turn
    assert logs[0]["score/reward_t1"] == pytest.approx(2.5)
    assert logs[0]["score/reward_t2"] == pytest.approx(3.0)
    assert logs[0]["rewards/turn_number/mean"] == 2.0


def test_rewards_see_one_turn_and_the_columns(local_model, tmp_path):
    calls: list[dict[str, Any]] = []

    def reward(prompts: Any, completions: Any, completion_ids: Any, solution: Any, **kwargs: Any) -> list[float]:
        calls.append({"prompts": prompts, "completions": completions, "ids": completion_ids, "solution": solution})
        assert "turn" not in kwargs and "completions_t1" not in kwargs
        return [0.0] * len(completions)

    def with_turn_1(completions: Any, completions_t1: Any, turn: int, **kwargs: Any) -> list[float]:
        seen.append((turn, completions_t1, completions))
        return [0.0] * len(completions)

    seen: list[Any] = []
    trainer = short_trainer(local_model, tmp_path, reward_funcs=[reward, with_turn_1], max_steps=1)
    run(trainer)
    assert len(calls) == 2
    for call, rollouts in zip(
        calls, ([r.turn_1 for r in trainer._rollouts], [r.turn_2 for r in trainer._rollouts]), strict=True
    ):
        assert call["ids"] == [turn.token_ids for turn in rollouts]
        texts = [trainer.tokenizer.decode(ids, skip_special_tokens=True) for ids in call["ids"]]
        assert call["completions"] == [[{"role": "assistant", "content": text}] for text in texts]
        for prompt, solution in zip(call["prompts"], call["solution"], strict=True):
            first = int(prompt[0]["content"].split()[2])
            assert solution == str(2 * first + 1)
    by_turn = {turn: (t1, completions) for turn, t1, completions in seen}
    assert by_turn[2][0] == by_turn[1][1] == calls[0]["completions"]


def test_turn_1_is_scored_in_the_background(local_model, tmp_path):
    threads: dict[int, str] = {}

    def reward(completions: list[Any], turn: int, **kwargs: Any) -> list[float]:
        threads[turn] = threading.current_thread().name
        return odd_length(completions)

    run(short_trainer(local_model, tmp_path, reward_funcs=reward, max_steps=1))
    assert threads[1].startswith("score-turn-1")
    assert threads[2] == "MainThread"


def test_reward_that_works_in_the_main_thread_only(local_model, tmp_path, caplog):
    calls: list[tuple[int, list[list[int]]]] = []

    def with_alarm(completions: list[Any], completion_ids: list[Any], turn: int, **kwargs: Any) -> list[float]:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # raises in any other thread
        calls.append((turn, completion_ids))
        return odd_length(completions)

    trainer = short_trainer(local_model, tmp_path, reward_funcs=with_alarm, max_steps=1)
    run(trainer)
    rollouts = trainer._rollouts
    assert calls == [
        (1, [rollout.turn_1.token_ids for rollout in rollouts]),
        (2, [rollout.turn_2.token_ids for rollout in rollouts]),
    ]
    assert "works in the main thread only" in caplog.text


def test_async_reward_functions(local_model, tmp_path):
    async def odd(completions: list[Any], **kwargs: Any) -> list[float]:
        return odd_length(completions)

    async def twice_odd(completions: list[Any], **kwargs: Any) -> list[float]:
        return [2 * reward for reward in odd_length(completions)]

    logs = run(short_trainer(local_model, tmp_path, reward_funcs=[odd, twice_odd, odd_length], max_steps=2))
    for entry in logs:
        assert entry["rewards/twice_odd/mean"] == pytest.approx(2 * entry["rewards/odd/mean"])
        assert entry["rewards/odd_length/mean"] == pytest.approx(entry["rewards/odd/mean"])
        assert entry["score/reward_t1"] == pytest.approx(4 * entry["score/accuracy_t1"])


@pytest.mark.parametrize("kind", ["qwen2", "plain"])
@pytest.mark.parametrize("as_path", [True, False])
def test_reward_model(as_path, kind, local_model, tmp_path):
    path = tmp_path / "reward_model"
    model = AutoModelForSequenceClassification.from_pretrained(local_model(kind), num_labels=1)
    model.config.pad_token_id = AutoTokenizer.from_pretrained(local_model(kind)).pad_token_id
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(local_model(kind)).save_pretrained(path)
    trainer = short_trainer(
        local_model, tmp_path, kind=kind, reward_funcs=[str(path) if as_path else model, odd_length], max_steps=1
    )
    run(trainer)
    # The reward model read [prompt, turn 1], then [prompt, turn 2].
    tokenizer = AutoTokenizer.from_pretrained(path)
    for turn in (0, 1):
        completions, rewards = trainer._completions[turn], trainer._rewards_per_func[turn][:, 0]
        for prompt, completion, reward in zip(trainer._prompts, completions, rewards, strict=True):
            if kind == "plain":
                text = prompt + completion
            else:
                text = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
            with torch.no_grad():
                expected = model.eval()(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0]
            assert reward.item() == pytest.approx(expected.item(), abs=1e-3)


def test_log_extra_and_log_metric_have_a_column_for_each_turn(local_model, tmp_path):
    def reward(completions: list[Any], log_extra: Any, log_metric: Any, **kwargs: Any) -> list[float]:
        log_extra("first_letter", [text_of(completion)[:1] for completion in completions])
        log_metric("characters", float(sum(len(text_of(completion)) for completion in completions)))
        return odd_length(completions)

    dataset = addition_dataset(num_rows=12)
    trainer = short_trainer(
        local_model,
        tmp_path,
        reward_funcs=reward,
        log_completions=True,
        num_completions_to_print=1,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=12,
        eval_dataset=dataset,
    )
    logs = run(trainer)
    assert all("characters_t1" in entry and "characters_t2" in entry for entry in logs)
    # 12 rows are evaluated at once, more than the 8 of a training batch.
    for name, num_rows in (("completions_00002", 8), ("eval_completions_00002", 8)):
        table = pd.read_parquet(tmp_path / "completions" / f"{name}.parquet")
        assert len(table) == num_rows
        for turn in ("t1", "t2"):
            first = [messages[0]["content"][:1] for messages in table[f"completion_{turn}"]]
            assert list(table[f"first_letter_{turn}"]) == first


def test_tables_of_training_and_evaluation_stay_apart(local_model, tmp_path):
    train, evaluation = addition_dataset(), addition_dataset(num_rows=20).select(range(16, 20))
    trainer = short_trainer(
        local_model,
        tmp_path,
        train_dataset=train,
        eval_dataset=evaluation,
        log_completions=True,
        num_completions_to_print=1,
        max_steps=1,
        eval_strategy="steps",
        eval_steps=1,
    )
    run(trainer)
    folder = tmp_path / "completions"
    table, eval_table = (pd.read_parquet(folder / f"{p}completions_00001.parquet") for p in ("", "eval_"))
    questions, eval_questions = ({p[0]["content"] for p in t["prompt"]} for t in (table, eval_table))
    assert len(table) == 8 and questions <= {p[0]["content"] for p in train["prompt"]}
    assert len(eval_table) == 4 and eval_questions == {p[0]["content"] for p in evaluation["prompt"]}


def test_table_is_printed_once_for_each_batch(local_model, tmp_path, capsys):
    run(short_trainer(local_model, tmp_path, log_completions=True, num_completions_to_print=1, max_steps=2))
    printed = capsys.readouterr().out
    assert [printed.count(f"Step {step}:") for step in (1, 2)] == [1, 1]


# Batches, data, callbacks


def test_batch_used_more_than_once_is_clipped_per_turn(local_model, tmp_path):
    trainer = short_trainer(
        local_model, tmp_path, num_iterations=2, max_steps=4, learning_rate=1e-2, stage="2", epsilon=0.05
    )
    before = weights_of(trainer.model)
    logs = run(trainer)
    # Fresh rollouts at steps 1 and 3 (nothing clipped), the same again at steps 2 and 4, after a large step.
    for entry, is_fresh in zip(logs, (True, False, True, False), strict=True):
        for turn in (1, 2):
            assert (entry[f"score/clip_ratio_t{turn}"] == 0) == is_fresh
        assert ("score/accuracy_t1" in entry) == is_fresh
    assert moved(before, weights_of(trainer.model))


def test_rollouts_for_several_steps(local_model, tmp_path):
    batches: list[int] = []

    def reward(completions: list[Any], turn: int, **kwargs: Any) -> list[float]:
        if turn == 2:
            batches.append(len(completions))
        return odd_length(completions)

    trainer = short_trainer(
        local_model,
        tmp_path,
        reward_funcs=reward,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        max_steps=4,
    )
    run(trainer)
    assert batches == [16, 16]  # 4 steps of 8 rollouts, generated 16 at a time


@pytest.mark.parametrize("kind", ["qwen2", "plain"])
def test_iterable_datasets(kind, local_model, tmp_path):
    trainer = short_trainer(
        local_model,
        tmp_path,
        kind=kind,
        train_dataset=addition_dataset(kind).to_iterable_dataset(),
        eval_dataset=addition_dataset(kind, 5).to_iterable_dataset(),
        eval_strategy="steps",
        eval_steps=1,
    )
    run(trainer)
    assert len(evaluation_logs(trainer)) == 2


def test_evaluation_on_a_dict_of_datasets(local_model, tmp_path):
    datasets = {"small": addition_dataset(num_rows=2), "large": addition_dataset(num_rows=5)}
    trainer = short_trainer(
        local_model, tmp_path, stage="1", eval_dataset=datasets, eval_strategy="steps", eval_steps=2
    )
    run(trainer)
    for name in datasets:
        logs = [entry for entry in trainer.state.log_history if f"eval_{name}_loss" in entry]
        assert len(logs) == 1
        assert {f"eval_{name}_score/accuracy_t1", f"eval_{name}_score/delta_t1_t2"} <= set(logs[0])


def test_callbacks_are_called(local_model, tmp_path):
    class Counter(TrainerCallback):
        num_steps = 0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.num_steps += 1

    counter = Counter()
    run(short_trainer(local_model, tmp_path, callbacks=[counter], max_steps=2))
    assert counter.num_steps == 2


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"bf16": True},
        {"importance_sampling_level": "sequence", "num_iterations": 2},
        {"max_completion_length_t1": 3, "max_completion_length_t2": 7},
        {"correction_prompt": [{"role": "user", "content": "Sure? Look again."}]},
        {"temperature": 0.7, "top_k": 10, "top_p": 0.9},
        {"pad_to_multiple_of": 8},
        {"baseline": "group_mean"},
        {"baseline": "none"},
        {"turn_discount": 0.5},
    ],
    ids="-".join,
)
def test_option_trains(options, local_model, tmp_path):
    trainer = short_trainer(local_model, tmp_path, **options)
    before = weights_of(trainer.model)
    run(trainer)
    assert moved(before, weights_of(trainer.model)) == set(before)
    budgets = trainer.args.turn_budgets
    assert max(len(rollout.turn_1.token_ids) for rollout in trainer._rollouts) <= budgets[0]
    assert max(len(rollout.turn_2.token_ids) for rollout in trainer._rollouts) <= budgets[1]


def test_truncated_turns_are_masked_one_by_one(local_model, tmp_path):
    """Turn 1 of even rollouts is cut off, turn 2 of those whose index is divisible by 3."""
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    end_of_turn = tokenizer.convert_tokens_to_ids(FAMILIES["qwen2"].end_of_turn)
    calls: list[int] = []

    def engine(prompt_ids: list[int], index: int, max_new_tokens: int) -> GeneratedTurn:
        divisor = 2 if len(calls) < 8 else 3  # the first 8 calls are the first turns
        calls.append(index)
        is_cut = index % divisor == 0
        return GeneratedTurn([50 + index, 60, 61 if is_cut else end_of_turn], truncated=is_cut)

    trainer = short_trainer(
        local_model,
        tmp_path,
        trainer_class=EngineTrainer,
        mask_truncated_completions=True,
        max_steps=1,
        max_completion_length=3,
    )
    trainer.engine = engine
    batches: list[Any] = []
    finish = trainer.finish_batch
    trainer.finish_batch = lambda batch: batches.append(finish(batch)) or batches[-1]
    logs = run(trainer)
    turns = batches[0]["turn_of_token"]
    assert [(row == 1).sum().item() for row in turns] == [0 if index % 2 == 0 else 3 for index in range(8)]
    assert [(row == 2).sum().item() for row in turns] == [0 if index % 3 == 0 else 3 for index in range(8)]
    assert batches[0]["completion_mask"].sum() > 8 * 6  # only the loss leaves them out, the model sees them
    assert batches[0]["num_items_in_batch"] == 4 * 3 + 5 * 3
    assert logs[0]["score/truncated_t1"] == 0.5
    assert logs[0]["score/truncated_t2"] == 0.375


def test_turns_left_out_for_truncation_are_in_no_baseline(local_model, tmp_path):
    # Group of 4, Stage II, no KL: r1 = 1, 0, 0, 1 by length; rollout 0 is truncated, so the others are compared with
    # each other only: advantages 0 (left out), 0 - 1/2, 0 - 1/2, 1 - 0.
    words = {0: 3, 1: 2, 2: 2, 3: 3}

    def engine(prompt_ids: list[int], index: int, max_new_tokens: int) -> GeneratedTurn:
        return GeneratedTurn([100] * words[index % 4], truncated=index == 0)

    def by_length(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        return [float(len(ids) == 3) for ids in completion_ids]

    trainer = short_trainer(
        local_model,
        tmp_path,
        trainer_class=EngineTrainer,
        reward_funcs=by_length,
        mask_truncated_completions=True,
        stage="2",
        beta_1=0.0,
        per_device_train_batch_size=4,
        max_steps=1,
    )
    trainer.engine = engine
    batches: list[Any] = []
    finish = trainer.finish_batch
    trainer.finish_batch = lambda batch: batches.append(finish(batch)) or batches[-1]
    run(trainer)
    assert trainer.ref_model is None  # Stage II without beta_1 needs no reference
    assert batches[0]["advantages"][:, 0].tolist() == [0.0, -0.5, -0.5, 1.0]


@pytest.mark.parametrize("is_ahead", [True, False])
def test_turn_1_is_scored_in_a_thread_unless_told_not_to(is_ahead, local_model, tmp_path):
    threads: dict[int, set[str]] = {1: set(), 2: set()}

    def note_thread(completions: list[Any], turn: int, **kwargs: Any) -> list[float]:
        threads[turn].add(threading.current_thread().name.partition("_")[0])
        return [float(index % 2) for index in range(len(completions))]

    run(short_trainer(local_model, tmp_path, reward_funcs=note_thread, score_turn_1_ahead=is_ahead))
    assert threads == {1: {"score-turn-1" if is_ahead else "MainThread"}, 2: {"MainThread"}}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_offline_first_turns(share, local_model, tmp_path):
    dataset = addition_dataset().map(lambda row: {"draft": f"I say {row['solution']}."})
    trainer = short_trainer(
        local_model,
        tmp_path,
        train_dataset=dataset,
        offline_turn_1_column="draft",
        offline_turn_1_share=share,
        max_completion_length=30,
        stage="2",
    )
    logs = run(trainer)
    assert logs[0]["score/offline_turn_1"] == share
    texts = [text_of(completion) for completion in trainer._completions[0]]
    drafts = {f"I say {solution}." for solution in dataset["solution"]}
    assert all((text in drafts) == (share == 1.0) for text in texts)
    for rollout in trainer._rollouts:
        assert rollout.is_turn_1_offline == (share == 1.0)
        # An offline turn 1 has no end token of its own, so the correction closes it.
        if share == 1.0:
            correction = trainer._row_settings.own.correction
            assert rollout.correction_ids == [*correction.closing_ids, *correction.request_ids]


def test_offline_first_turns_are_not_used_in_evaluation(local_model, tmp_path):
    dataset = addition_dataset().map(lambda row: {"draft": "I say 1."})
    trainer = short_trainer(
        local_model,
        tmp_path,
        train_dataset=dataset,
        eval_dataset=dataset,
        offline_turn_1_column="draft",
        offline_turn_1_share=1.0,
    )
    assert trainer.evaluate()["eval_score/offline_turn_1"] == 0


# Adaptive beta_2


def test_adaptive_beta_2_rises_and_survives_resuming(local_model, tmp_path):
    options = {
        "stage": "1",
        "beta_2": 0.1,
        "beta_2_target_kl": 1e-4,
        "learning_rate": 1e-2,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    trainer = short_trainer(local_model, tmp_path, **options)
    values = [entry["score/beta_2"] for entry in run(trainer)]
    # Nothing is known at step 1, KL 0 at step 2; from then on the KL is far beyond the target: 20% more each time.
    assert values == pytest.approx([0.1, 0.1, 0.12, 0.144])

    resumed = short_trainer(local_model, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert training_logs(resumed)[-1]["step"] == 4
    assert training_logs(resumed)[-1]["score/beta_2"] == pytest.approx(0.144)


def test_adaptive_beta_2_never_falls_below_beta_2(local_model, tmp_path):
    logs = run(short_trainer(local_model, tmp_path, stage="1", beta_2=0.1, beta_2_target_kl=1e4, max_steps=3))
    assert [entry["score/beta_2"] for entry in logs] == [0.1, 0.1, 0.1]


def test_resuming_goes_on_in_the_right_stage(local_model, tmp_path):
    options = {"max_steps": 4, "stage_1_steps": 2, "save_strategy": "steps", "save_steps": 1}
    whole = short_trainer(local_model, tmp_path, **options)
    run(whole)
    weights = weights_of(whole.model)
    for name in ("checkpoint-3", "checkpoint-4"):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    resumed = short_trainer(local_model, tmp_path, **options)
    resumed.train(resume_from_checkpoint=True)  # finds checkpoint-2, the boundary
    logs = training_logs(resumed)
    assert [(entry["step"], entry["score/stage"]) for entry in logs] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    # Same data, same random state: the resumed run is the same run.
    for name, weight in weights_of(resumed.model).items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-6)


def test_checkpoint_that_is_not_whole_is_passed_over_and_refused_by_name(local_model, tmp_path, caplog):
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    run(short_trainer(local_model, tmp_path, **options))
    (tmp_path / "checkpoint-3" / WHOLE_FILE).unlink()
    (tmp_path / "checkpoint-2" / "optimizer.pt").write_bytes(b"")
    resumed = short_trainer(local_model, tmp_path, **options)
    for name, missing in (("3", "it has no whole.json"), ("2", r"optimizer\.pt has 0 bytes of \d+")):
        with pytest.raises(ValueError, match=rf"Expected a whole checkpoint .*checkpoint-{name}': {missing}"):
            resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{name}"))
    resumed.train(resume_from_checkpoint="true")  # as a command line says it
    (message,) = [message for message in caplog.messages if "Passed over" in message]
    assert message.startswith("Resuming from checkpoint-1. Passed over: checkpoint-3 (it has no")
    assert [entry["step"] for entry in training_logs(resumed)] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"Expected a whole checkpoint in .* got no checkpoint"):
        short_trainer(local_model, tmp_path / "new", **options).train(resume_from_checkpoint=True)


def test_checkpoint_without_our_state_goes_on_with_a_warning(local_model, tmp_path, caplog):
    # As one of another number of processes, or of a trainer before there was such a state.
    options = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 1,
        "steps_per_generation": 2,
        "per_device_train_batch_size": 4,
    }
    run(short_trainer(local_model, tmp_path, **options))
    checkpoint = tmp_path / "checkpoint-3"  # the middle of a window
    (checkpoint / "resume_state_0.pt").unlink()
    mark_whole(checkpoint)
    resumed = short_trainer(local_model, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert any("has no state of 1 processes to go on from (found: none)" in message for message in caplog.messages)
    assert [entry["step"] for entry in training_logs(resumed)] == [1, 2, 3, 4]
    assert resumed._step == 4


# Evaluation


def test_evaluation_is_greedy_and_repeatable(local_model, tmp_path):
    trainer = short_trainer(local_model, tmp_path, eval_dataset=addition_dataset(num_rows=5))
    texts = []
    for _ in range(2):
        trainer.evaluate()
        texts.append([[text_of(c) for c in completions] for completions in trainer._completions])
    assert texts[0] == texts[1]
    # Against plain `generate`, one prompt at a time.
    model = AutoModelForCausalLM.from_pretrained(local_model("qwen2"))
    for rollout in trainer._rollouts:
        output = model.generate(
            torch.tensor([rollout.prompt_ids]),
            max_new_tokens=6,
            do_sample=False,
            attention_mask=torch.ones(1, len(rollout.prompt_ids), dtype=torch.long),
        )
        assert output[0, len(rollout.prompt_ids) :].tolist() == rollout.turn_1.token_ids


def test_evaluation_samples_if_asked_to(local_model, tmp_path):
    scored: list[float] = []

    def reward(completions: list[Any], turn: int, **kwargs: Any) -> list[float]:
        rewards = odd_length(completions)
        scored.extend(rewards if turn == 1 else [])
        return rewards

    # 10 prompts with 4 samples each, 8 at a time.
    trainer = short_trainer(
        local_model, tmp_path, reward_funcs=reward, eval_dataset=addition_dataset(num_rows=10), eval_do_sample=True
    )
    accuracy = trainer.evaluate()["eval_score/accuracy_t1"]
    assert len(scored) == 40
    assert accuracy == pytest.approx(sum(scored) / 40)
    first = [text_of(completion) for completion in trainer._completions[0]]
    trainer.evaluate()
    assert [text_of(completion) for completion in trainer._completions[0]] != first


def test_evaluation_counts_every_row_once(local_model, tmp_path):
    def solution(completions: list[Any], solution: list[str], **kwargs: Any) -> list[float]:
        return [float(value) for value in solution]

    # 11 rows in batches of 4: the mean of 1, 3, ..., 21 is 11, whatever the last batch's size.
    trainer = short_trainer(
        local_model,
        tmp_path,
        reward_funcs=solution,
        eval_dataset=addition_dataset(num_rows=11),
        per_device_eval_batch_size=4,
    )
    assert trainer.evaluate()["eval_score/reward_t2"] == pytest.approx(11.0)


def test_evaluation_leaves_training_as_it_was(local_model, tmp_path):
    runs = []
    for name, options in (("without", {}), ("with", {"eval_strategy": "steps", "eval_steps": 1})):
        trainer = short_trainer(
            local_model,
            tmp_path / name,
            trainer_class=EngineTrainer,
            eval_dataset=addition_dataset(num_rows=3),
            max_steps=3,
            log_completions=True,
            num_completions_to_print=0,
            **options,
        )
        end_of_turn = trainer.tokenizer.convert_tokens_to_ids(FAMILIES["qwen2"].end_of_turn)
        trainer.engine = seeded_engine(end_of_turn)
        runs.append([untimed_values(entry) for entry in run(trainer)])
    # Equal up to rounding: TRL shuffles the rows of a batch, and draws from the global random state to do so.
    for without, with_evaluation in zip(*runs, strict=True):
        assert with_evaluation == pytest.approx(without, rel=1e-3, abs=1e-4)


# Continuous batching


@contextmanager
def engine_of(trainer: SCoReTrainer) -> Iterator[Any]:
    trainer.model.eval()
    with trainer.generation_engine(do_sample=False) as engine:
        yield engine


def test_continuous_batching_gives_the_same_greedy_turns(local_model, tmp_path):
    config = {"num_blocks": 64, "max_batch_tokens": 256}
    batching = short_trainer(
        local_model,
        tmp_path,
        use_transformers_continuous_batching=True,
        transformers_continuous_batching_config=config,
        max_steps=1,
    )
    plain = short_trainer(local_model, tmp_path)
    prompts = [
        plain.tokenizer.encode(text)
        for text in ("What is 17 + 25?", "Solve x", "def larger(", "The area of a square is 25, so")
    ]
    with engine_of(batching) as engine, engine_of(plain) as plain_engine:
        turns = plain_engine(prompts, [6, 3, 6, 5])
        assert engine(prompts, [6, 3, 6, 5]) == turns
    assert turns != turns[::-1]  # so that their order shows
    run(batching)
