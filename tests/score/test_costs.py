"""The costs of a step, by hand on a small shape, and against what PyTorch counts in real models and a real step."""

import pytest
import torch
from datasets import Dataset
from score_runs import odd_length, short_config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MixtralConfig, Qwen2Config

from trl_score import trl_compat
from trl_score.score.costs import (
    TILE_WORDS,
    ModelSize,
    RolloutSize,
    activation_bytes,
    forward_flops,
    generation_flops,
    kv_cache_bytes,
    log_prob_flops,
    logit_bytes,
    state_bytes,
    step_flops,
    step_traffic,
)
from trl_score.score.score_trainer import SCoReTrainer

# 100 weights in 2 layers, 5 wide (MLP 7, queries 6, keys 3), 11 words.
SMALL = ModelSize(200, 100, 2, 5, 7, 6, 3, 11)


def qwen2_config(**options):
    shape = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen2Config(vocab_size=512, num_hidden_layers=3, **{**shape, **options})


# By hand


def test_a_forward_by_hand():
    # 2 * 100 * 4 weights, 4 * 2 * 6 * 4 * (3 + 4) pairs, 2 * 11 * 5 * 2 logits
    assert forward_flops(SMALL, 4, num_cached=3, num_logits=2) == 800 + 1344 + 220


def test_generation_by_hand():
    # Turn 1: 3 prompt tokens, then 1 with 3 before it. Turn 2: 3 + 2 + 1 tokens, then 1 with 6 and 1 with 7 before it.
    turn_1 = forward_flops(SMALL, 3) + forward_flops(SMALL, 1, num_cached=3)
    turn_2 = forward_flops(SMALL, 6) + forward_flops(SMALL, 1, num_cached=6) + forward_flops(SMALL, 1, num_cached=7)
    assert generation_flops(SMALL, RolloutSize(3, 2, 1, 3)) == turn_1 + turn_2


def test_a_turn_that_is_given_is_not_generated():
    only_turn_2 = RolloutSize(3, 0, 1, 1)
    assert generation_flops(SMALL, only_turn_2) == forward_flops(SMALL, 4)


def test_a_row_has_logits_of_all_tokens_after_the_prompt():
    rollout = RolloutSize(3, 2, 1, 3)
    assert (rollout.num_tokens, rollout.num_completion_tokens) == (9, 6)
    assert log_prob_flops(SMALL, rollout) == 2 * 100 * 9 + 4 * 2 * 6 * 9 * 9 + 2 * 11 * 5 * 7


@pytest.mark.parametrize(
    ("options", "num_rows"),
    [({}, 4), ({"is_lora": True}, 3), ({"num_forwards": 2}, 5), ({"num_forwards": 0, "is_lora": True}, 2)],
)
def test_a_step_is_generation_and_so_many_forwards(options, num_rows):
    rollout = RolloutSize(3, 2, 1, 3)
    of_rows = step_flops(SMALL, rollout, **options) - generation_flops(SMALL, rollout)
    assert of_rows == num_rows * log_prob_flops(SMALL, rollout) + 2 * 11 * 5 * 7  # and the logits once more


def test_checkpointing_adds_a_forward_without_logits():
    rollout = RolloutSize(3, 2, 1, 3)
    more = step_flops(SMALL, rollout, gradient_checkpointing=True) - step_flops(SMALL, rollout)
    assert more == forward_flops(SMALL, 9, num_logits=0) == 1800 + 3888


def test_memory_of_a_row_by_hand():
    assert kv_cache_bytes(SMALL, 10, bytes_per_value=4) == 2 * 2 * 3 * 10 * 4
    # A tile, and with a head that is trained its gradient in fp32.
    assert logit_bytes(SMALL, 10, is_head_trained=False) == 10 * 11 * 2
    assert logit_bytes(SMALL, 10, bytes_per_value=4) == 10 * 11 * 4 + 4 * 11 * 5
    # fp32: 4 * (8 * 5 + 4 * 7 + 2 * 3) a layer; bf16: 2 * the same + 4 * 5
    assert activation_bytes(SMALL, 10, bytes_per_value=4) == 10 * 2 * 296
    assert activation_bytes(SMALL, 10, bytes_per_value=2) == 10 * 2 * 168
    # the inputs of two layers, and one layer
    assert activation_bytes(SMALL, 10, bytes_per_value=4, gradient_checkpointing=True) == 10 * (2 * 20 + 296)


@pytest.mark.parametrize(
    ("engine", "weights", "reference", "gradients", "optimizer"),
    [
        ("ddp", 400, 400, 400, 800),
        ("zero1", 400, 400, 400, 300),
        ("zero2", 400, 400, 100, 300),
        ("zero3", 100, 100, 100, 300),
        ("fsdp2", 100, 100, 100, 200),
    ],
)
def test_state_of_100_weights_in_fp32_on_four_processes(engine, weights, reference, gradients, optimizer):
    state = state_bytes(100, 100, engine=engine, num_processes=4, bytes_per_weight=4)
    assert (state.weights, state.reference, state.gradients, state.optimizer) == (
        weights,
        reference,
        gradients,
        optimizer,
    )
    assert state.total == weights + reference + gradients + optimizer


@pytest.mark.parametrize(("engine", "gradients"), [("fsdp2", 400), ("zero3", 100)])
def test_fsdp2_keeps_whole_gradients_until_the_last_micro_batch(engine, gradients):
    assert state_bytes(100, 100, engine=engine, num_processes=4, num_micro_batches=2).gradients == gradients


def test_an_adapter_needs_gradients_and_optimizer_for_itself_alone():
    state = state_bytes(110, 10, has_reference_copy=False)  # 100 frozen in bf16, 10 in fp32
    assert (state.weights, state.reference, state.gradients, state.optimizer) == (240, 0, 40, 80)


@pytest.mark.parametrize(
    ("engine", "generation", "forwards", "update", "gradients", "after_step"),
    [
        ("ddp", 0, 0, 0, 200, 0),
        ("zero1", 0, 0, 0, 200, 200),
        ("zero2", 0, 0, 0, 600, 200),
        ("zero3", 200, 1200, 1200, 600, 0),
        ("fsdp2", 200, 1200, 1200, 200, 0),
    ],
)
def test_traffic_of_100_weights_and_three_micro_batches(engine, generation, forwards, update, gradients, after_step):
    traffic = step_traffic(100, 100, engine=engine, num_micro_batches=3, num_forwards=2)
    parts = (traffic.generation, traffic.forwards, traffic.update, traffic.gradients, traffic.after_step)
    assert parts == (generation, forwards, update, gradients, after_step)
    assert traffic.total == sum(parts)


# Against what PyTorch counts


def test_size_is_read_from_a_configuration():
    config = qwen2_config()
    model = AutoModelForCausalLM.from_config(config)
    size = ModelSize.of(config)
    layer = model.model.layers[0]
    linear = [m.weight for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    assert size.num_parameters == model.num_parameters()
    assert size.num_layer_parameters == 3 * sum(weight.numel() for weight in linear)
    assert (size.query_size, size.kv_size) == (layer.self_attn.q_proj.out_features, layer.self_attn.k_proj.out_features)


def test_experts_are_refused():
    with pytest.raises(ValueError, match="Expected a dense decoder, got 'mixtral', which has experts"):
        ModelSize.of(MixtralConfig(hidden_size=32, num_hidden_layers=1, vocab_size=32))


class LengthsTrainer(SCoReTrainer):
    """A trainer that keeps its rollouts' lengths."""

    def roll_out(self, *args):
        rollouts = super().roll_out(*args)
        first = rollouts[0]
        turns = (len(first.turn_1.token_ids), len(first.correction_ids), len(first.turn_2.token_ids))
        self.rollout_size = RolloutSize(len(first.prompt_ids), *turns)
        return rollouts


def flops_of_addmm_(self_shape, left_shape, right_shape, **kwargs):
    """PyTorch's counter does not know the one that adds in place, by which TRL's LM head makes its gradients."""
    return 2 * left_shape[0] * left_shape[1] * right_shape[1]


@pytest.mark.parametrize(
    ("num_micro_batches", "num_forwards", "gradient_checkpointing"), [(1, 1, False), (1, 1, True), (2, 2, False)]
)
def test_operations_of_a_real_step(local_model, tmp_path, num_micro_batches, num_forwards, gradient_checkpointing):
    args = short_config(
        tmp_path,
        stage="2",
        max_steps=1,
        per_device_train_batch_size=8 // num_micro_batches,
        gradient_accumulation_steps=num_micro_batches,
        max_completion_length=24,
        generation_kwargs={"min_new_tokens": 24},
        gradient_checkpointing=gradient_checkpointing,
        model_init_kwargs={"attn_implementation": "eager"},  # of which the counter sees the attention
    )
    prompts = [[{"role": "user", "content": f"What is {row} + {row}?"}] for row in range(1, 9)]  # of one length
    trainer = LengthsTrainer(
        str(local_model("qwen2")), odd_length, args, train_dataset=Dataset.from_dict({"prompt": prompts})
    )
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: flops_of_addmm_}) as counter:
        trainer.train()
    size = ModelSize.of(AutoConfig.from_pretrained(local_model("qwen2")))
    options = {"num_forwards": num_forwards, "gradient_checkpointing": gradient_checkpointing}
    predicted = step_flops(size, trainer.rollout_size, **options)
    assert counter.get_total_flops() / 8 == pytest.approx(predicted, rel=0.04)


def bytes_kept(config, dtype, num_tokens, checkpointing):
    """Bytes of distinct tensors, other than weights, that a forward keeps for its backward."""
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.ones(1, num_tokens, dtype=torch.long), use_cache=False, logits_to_keep=1)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("config_class", [Qwen2Config, LlamaConfig])
def test_activations_that_a_layer_keeps(config_class, dtype, checkpointing):
    shape = {"hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 3, "num_key_value_heads": 1}
    few, many = (config_class(vocab_size=64, num_hidden_layers=num, **shape) for num in (2, 5))
    counted = [bytes_kept(config, dtype, 40, checkpointing) for config in (few, many)]
    predicted = [
        activation_bytes(ModelSize.of(config), 40, bytes_per_value=dtype.itemsize, gradient_checkpointing=checkpointing)
        for config in (few, many)
    ]
    assert counted[1] - counted[0] == pytest.approx(predicted[1] - predicted[0], rel=0.01)


class NewTensors(TorchDispatchMode):
    """Keeps the number of elements of each tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.sizes |= {tensor.numel() for tensor in tree_leaves(made) if torch.is_tensor(tensor)}
        return made


def test_no_more_logits_than_a_tile_are_there(local_model, tmp_path, monkeypatch):
    assert vars(trl_compat.trl_utils)["_CHUNKED_LOGPROB_CHUNK_SIZE"] == TILE_WORDS
    monkeypatch.setattr(trl_compat, "CPU_HEAD_COLUMNS", TILE_WORDS)  # as on a GPU
    num_words, num_rows, num_tokens = TILE_WORDS + 5000, 2, 40
    tokenizer = AutoTokenizer.from_pretrained(local_model("qwen2"))
    model = AutoModelForCausalLM.from_pretrained(local_model("qwen2"))
    model.resize_token_embeddings(num_words, mean_resizing=False)
    data = Dataset.from_dict({"prompt": ["a"] * 8})
    trainer = SCoReTrainer(model, odd_length, short_config(tmp_path), data, processing_class=tokenizer)
    ids = torch.ones(num_rows, num_tokens, dtype=torch.long)
    batch = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": ids}
    with NewTensors() as new:
        trainer.log_probs(trainer.model, batch).per_token_logps.sum().backward()
    size = ModelSize.of(trainer.model.config)
    tile = logit_bytes(size, num_rows * num_tokens, bytes_per_value=4, is_head_trained=False) // 4
    head = num_words * size.hidden_size
    assert tile == num_rows * num_tokens * TILE_WORDS
    assert tile in new.sizes and head in new.sizes
    assert max(new.sizes) == max(tile, head) < num_rows * num_tokens * num_words


def test_key_value_cache_of_a_real_model():
    config = qwen2_config()
    model = AutoModelForCausalLM.from_config(config)
    cache = model(torch.ones(1, 30, dtype=torch.long), use_cache=True).past_key_values
    counted = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert counted == kv_cache_bytes(ModelSize.of(config), 30, bytes_per_value=4)
