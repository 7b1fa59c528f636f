"""
Engines: what vLLM is asked for and what is made of its answer, by a stand-in with the interface of TRL's object;
cutting and decoding settings. The real vLLM is in tests/real_vllm.
"""

import copy

import pytest

from trl_score.records import GeneratedTurn
from trl_score.score.engines import VLLMEngine, cut_at_stop, decoding_kwargs

# Cutting at a stop token


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([4, 5, 2, 0, 0], GeneratedTurn([4, 5, 2], False)),
        ([4, 3, 5, 2], GeneratedTurn([4, 3], False)),  # any stop token, the first that comes
        ([2, 2, 2], GeneratedTurn([2], False)),  # the pad token may be a stop token too
        ([4, 5, 6], GeneratedTurn([4, 5, 6], True)),
        ([4, 5, 6, 2], GeneratedTurn([4, 5, 6, 2], False)),  # ended by itself in its last token
    ],
)
def test_cut_at_the_first_stop_token(ids, expected):
    assert cut_at_stop(ids, frozenset({2, 3})) == expected


# Decoding settings


def test_sampling_keeps_its_settings():
    assert decoding_kwargs(True, {"temperature": 0.7, "top_k": 0}) == {
        "temperature": 0.7,
        "top_k": 0,
        "do_sample": True,
    }


def test_greedy_decoding_neutralises_what_shapes_the_distribution_and_keeps_the_rest():
    kwargs = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "do_sample": True}
    greedy = decoding_kwargs(False, kwargs)
    assert greedy["do_sample"] is False
    assert (greedy["temperature"], greedy["top_p"], greedy["repetition_penalty"]) == (1.0, 1.0, 1.1)
    assert "min_p" not in greedy


# vLLM


class VLLMStandIn:
    """
    Has the attributes that `VLLMGeneration.generate` reads, and answers each prompt with its last id and upwards until
    a stop token; the log-probability of an id is minus the id.
    """

    def __init__(self):
        self.temperature, self.top_p, self.top_k, self.min_p = 1.0, 0.9, 7, 0.05
        self.max_completion_length = 99
        self.generation_kwargs = {"min_p": 0.1, "frequency_penalty": 0.5}
        self.calls = []

    def generate(self, prompts, images, num_generations):
        settings = copy.deepcopy({name: value for name, value in vars(self).items() if name != "calls"})
        self.calls.append((prompts, num_generations, settings))
        assert images is None and num_generations == 1
        rows = [self.count_up(prompt[-1]) for prompt in prompts]
        # As from vLLM: for each token a list of one, and ids in a tuple.
        return prompts, [tuple(row) for row in rows], [[[-float(token)] for token in row] for row in rows], None

    def count_up(self, token):
        row = []
        while len(row) < self.max_completion_length and not (
            row and row[-1] in self.generation_kwargs["stop_token_ids"]
        ):
            token += 1
            row.append(token)
        return row


def test_vllm_is_asked_once_for_the_largest_budget_and_each_row_keeps_its_own():
    backend = VLLMStandIn()
    engine = VLLMEngine(backend, stop_ids=[9, 20], do_sample=True)
    turns = engine([[1, 3], [6], [14]], [2, 4, 5])
    assert turns == [
        GeneratedTurn([4, 5], truncated=True, logprobs=[-4.0, -5.0]),
        GeneratedTurn([7, 8, 9], truncated=False, logprobs=[-7.0, -8.0, -9.0]),
        GeneratedTurn([15, 16, 17, 18, 19], truncated=True, logprobs=[-15.0, -16.0, -17.0, -18.0, -19.0]),
    ]
    ((prompts, _, settings),) = backend.calls
    assert prompts == [[1, 3], [6], [14]]
    assert settings["max_completion_length"] == 5
    assert settings["generation_kwargs"] == {"min_p": 0.1, "frequency_penalty": 0.5, "stop_token_ids": [9, 20]}
    assert (settings["temperature"], settings["top_p"], settings["top_k"]) == (1.0, 0.9, 7)


def test_settings_of_a_call_are_put_back_also_after_an_error():
    backend = VLLMStandIn()
    before = copy.deepcopy(vars(backend))
    engine = VLLMEngine(backend, stop_ids=[9], do_sample=False)
    engine([[1]], [3])
    backend.calls.clear()
    assert vars(backend) == before
    with pytest.raises(IndexError):
        engine([[]], [3])
    backend.calls.clear()
    assert vars(backend) == before


def test_greedy_turns_are_asked_for_at_temperature_zero_without_what_shapes_the_distribution():
    backend = VLLMStandIn()
    VLLMEngine(backend, stop_ids=[9], do_sample=False)([[1]], [3])
    settings = backend.calls[0][2]
    assert [settings[name] for name in ("temperature", "top_p", "top_k", "min_p")] == [0.0, 1.0, 0, 0.0]
    assert settings["generation_kwargs"] == {"frequency_penalty": 0.5, "stop_token_ids": [9]}


@pytest.mark.parametrize(
    ("do_sample", "temperature", "logprobs"),
    [
        (True, 1.0, [-5.0, -6.0]),
        (True, 0.7, [-5.0, -6.0]),  # vLLM's are then at 0.7, as the trainer's are
        (False, 1.0, [-5.0, -6.0]),
        (False, 0.7, [None, None]),  # vLLM's are at 1 when greedy, the trainer's at 0.7
    ],
)
def test_greedy_log_probs_count_only_where_they_are_those_of_the_training_temperature(do_sample, temperature, logprobs):
    backend = VLLMStandIn()
    backend.temperature = temperature
    (turn,) = VLLMEngine(backend, stop_ids=[9], do_sample=do_sample)([[4]], [2])
    assert turn.logprobs == logprobs


def test_processes_that_generate_together_bring_as_many_prompts_and_one_budget():
    asked = []

    def largest(num_prompts, budget):
        asked.append((num_prompts, budget))
        return 4, 6

    backend = VLLMStandIn()
    turns = VLLMEngine(backend, stop_ids=[99], do_sample=True, largest=largest)([[1, 3], [6]], [2, 3])
    assert asked == [(2, 3)]
    prompts, _, settings = backend.calls[0]
    assert len(prompts) == 4 and prompts[:2] == [[1, 3], [6]]
    assert settings["max_completion_length"] == 6
    assert [turn.token_ids for turn in turns] == [[4, 5], [7, 8, 9]]


def test_an_engine_that_gives_too_few_log_probs_is_an_error():
    with pytest.raises(ValueError, match=r"one log-probability per token, got 1 for 2"):
        cut_at_stop([4, 5], frozenset({2}), logprobs=[-1.0])
