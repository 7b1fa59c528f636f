"""Two turns really happen, and every token of them stands where it should."""

import logging

import pytest
import torch
from local_models import CHAT_KINDS, FAMILIES, KINDS
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from trl_score.records import GeneratedTurn
from trl_score.score.engines import TransformersEngine
from trl_score.score.prompts import Correction, audit_template, text_correction, tokenize_prompts
from trl_score.score.rollout import roll_out_turns, roll_out_two_turns

BUDGETS = (24, 16)
CORRECTION = Correction(closing_ids=[9], request_ids=[70, 71])

# Of unequal lengths, so that a batch of them is padded.
QUESTIONS = [
    "What is 17 + 25?",
    "Solve 3x = 27.",
    "Ann has three boxes with seven pencils each, and gives four pencils away. How many are left?",
    "Yes",
    "What is 96 - 38?",
    "Is the first step right?",
    "Write a function that returns the larger of two numbers.",
    "A train leaves at 8.",
]


class ScriptedEngine:
    """Gives prepared turns, and notes what it was asked."""

    def __init__(self, *turns_of_calls):
        self.turns_of_calls = list(turns_of_calls)
        self.prompts = []
        self.budgets = []

    def __call__(self, prompt_ids, max_new_tokens):
        self.prompts.append([list(ids) for ids in prompt_ids])
        self.budgets.append(list(max_new_tokens))
        return self.turns_of_calls.pop(0)


class LocalFamily:
    """A small model of one family with all that a rollout needs."""

    def __init__(self, kind, folder):
        self.family = FAMILIES[kind]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        is_chat = self.tokenizer.chat_template is not None
        read_correction = audit_template if is_chat else text_correction
        self.correction = read_correction("Check it.", self.tokenizer)
        self.stop_ids = self.tokenizer.convert_tokens_to_ids(list(self.family.stop_tokens))
        prompts = [[{"role": "user", "content": text}] for text in QUESTIONS] if is_chat else QUESTIONS
        self.prompt_ids = tokenize_prompts(prompts, self.tokenizer)

    def engine(self, **kwargs):
        options = {"stop_ids": self.stop_ids, "pad_token_id": self.tokenizer.pad_token_id, "do_sample": False}
        return TransformersEngine(self.model, **{**options, **kwargs})

    def roll_out(self, prompt_ids=None, budgets=BUDGETS, *, offline_turns_1=None, **kwargs):
        prompt_ids = self.prompt_ids if prompt_ids is None else prompt_ids
        engine = self.engine(**kwargs)
        return roll_out_two_turns(
            prompt_ids, self.correction, engine, budgets, offline_turns_1=offline_turns_1
        ).rollouts

    def greedy_alone(self, ids, budget):
        """One prompt, token by token, without cache, padding or `generate`."""
        written = []
        while len(written) < budget and not (written and written[-1] in self.stop_ids):
            with torch.no_grad():
                logits = self.model(torch.tensor([[*ids, *written]])).logits
            written.append(int(logits[0, -1].argmax()))
        return written


@pytest.fixture(scope="module")
def families(local_model):
    """Gives the small model of a kind, loaded once for this file."""
    loaded = {}

    def family_of(kind):
        if kind not in loaded:
            loaded[kind] = LocalFamily(kind, local_model(kind))
        return loaded[kind]

    return family_of


# The join, with an engine whose answers are known


def test_the_engine_is_asked_twice_and_the_second_time_with_turn_1_and_the_correction():
    engine = ScriptedEngine(
        [GeneratedTurn([3, 9], False), GeneratedTurn([4, 5, 6], True)],
        [GeneratedTurn([7, 9], False), GeneratedTurn([8, 9], False)],
    )
    rollouts = roll_out_two_turns([[1], [1, 2]], CORRECTION, engine, (3, 2)).rollouts
    assert engine.prompts == [
        [[1], [1, 2]],
        [[1, 3, 9, 70, 71], [1, 2, 4, 5, 6, 9, 70, 71]],  # the second one was cut off, so it is closed with 9
    ]
    assert engine.budgets == [[3, 3], [2, 2]]
    assert [rollout.prompt_ids for rollout in rollouts] == [[1], [1, 2]]
    assert [rollout.completion_ids for rollout in rollouts] == [[3, 9, 70, 71, 7, 9], [4, 5, 6, 9, 70, 71, 8, 9]]
    assert [rollout.turn_of_token for rollout in rollouts] == [[1, 1, 0, 0, 2, 2], [1, 1, 1, 0, 0, 0, 2, 2]]
    assert [rollout.turn_1.truncated for rollout in rollouts] == [False, True]


def test_empty_first_turn_is_its_end_token():
    engine = ScriptedEngine([GeneratedTurn([9], False)], [GeneratedTurn([9], False)])
    (rollout,) = roll_out_two_turns([[1, 2]], CORRECTION, engine, (3, 3)).rollouts
    assert engine.prompts[1] == [[1, 2, 9, 70, 71]]
    assert rollout.turn_of_token == [1, 0, 0, 2]


def test_turn_1_is_handed_out_before_turn_2_is_generated():
    first = [GeneratedTurn([3, 9], False)]
    engine = ScriptedEngine(first, [GeneratedTurn([4, 9], False)])
    seen = []

    def on_turn_1(turns):
        seen.append((turns, len(engine.prompts)))

    roll_out_two_turns([[1]], CORRECTION, engine, (3, 3), on_turn_1=on_turn_1)
    assert seen == [(first, 1)]  # once, when the engine had been asked once


def test_seconds_are_those_of_each_turn(monkeypatch):
    # The clock before and after turn 1, and before and after turn 2; what happens in between belongs to neither.
    clock = iter([10.0, 12.0, 20.0, 25.0])
    monkeypatch.setattr("trl_score.score.rollout.time.perf_counter", lambda: next(clock))
    engine = ScriptedEngine([GeneratedTurn([3, 9], False)], [GeneratedTurn([4, 9], False)])
    timed = roll_out_two_turns([[1]], CORRECTION, engine, (3, 3))
    assert (timed.seconds_t1, timed.seconds_t2) == (2.0, 5.0)


# Budgets and corrections of each prompt, and more than two turns


def test_each_prompt_has_its_own_budgets_and_correction():
    other = Correction(closing_ids=[9], request_ids=[80])
    engine = ScriptedEngine(
        [GeneratedTurn([3, 9], False), GeneratedTurn([4], True)],
        [GeneratedTurn([7, 9], False), GeneratedTurn([8, 9], False)],
    )
    rollouts = roll_out_two_turns([[1], [2]], [CORRECTION, other], engine, ([3, 1], 2)).rollouts
    assert engine.budgets == [[3, 1], [2, 2]]
    assert [rollout.correction_ids for rollout in rollouts] == [[70, 71], [9, 80]]


def test_every_turn_continues_all_that_stands_before_it():
    other = Correction(closing_ids=[9], request_ids=[80])
    engine = ScriptedEngine([GeneratedTurn([3, 9], False)], [GeneratedTurn([4], True)], [GeneratedTurn([5, 9], False)])
    seen = []
    timed = roll_out_turns(
        [[1]], [CORRECTION, other], engine, (3, 1, 2), on_turn=lambda number, turns: seen.append((number, turns))
    )
    assert engine.prompts == [[[1]], [[1, 3, 9, 70, 71]], [[1, 3, 9, 70, 71, 4, 9, 80]]]
    assert timed.correction_ids == [[[70, 71]], [[9, 80]]]
    assert seen == list(enumerate(timed.turns, start=1))
    assert len(timed.seconds) == 3


def test_turns_without_a_budget_and_budgets_without_a_prompt_are_refused():
    with pytest.raises(ValueError, match="got 2 budgets for 3 turns"):
        roll_out_turns([[1]], [CORRECTION, CORRECTION], ScriptedEngine([]), (2, 2))
    with pytest.raises(ValueError, match="got 3 for 2"):
        roll_out_turns([[1], [2]], [CORRECTION], ScriptedEngine([]), ([2, 2, 2], 2))


@pytest.mark.parametrize("kind", KINDS)
def test_budgets_of_each_prompt_end_its_turns_as_if_it_were_alone(families, kind):
    family = families(kind)
    budgets = ([3, 24, 1, 7, 12, 2, 5, 9], [4, 1, 16, 3, 2, 8, 6, 5])
    together = family.roll_out(budgets=budgets)
    alone = [
        family.roll_out([prompt], (budget_t1, budget_t2))[0]
        for prompt, budget_t1, budget_t2 in zip(family.prompt_ids, *budgets, strict=True)
    ]
    assert together == alone


def test_a_batch_ends_with_the_last_row_that_has_budget_left(families):
    family = families("llama")
    steps = []
    family.model.register_forward_hook(lambda *_: steps.append(1))
    turns = family.engine(sampling_kwargs={"suppress_tokens": family.stop_ids})(family.prompt_ids[:3], [2, 5, 3])
    assert [len(turn.token_ids) for turn in turns] == [2, 5, 3]
    assert len(steps) == 5


# Offline first turns


def test_offline_turns_take_their_places_and_are_not_learned_from():
    engine = ScriptedEngine(
        [GeneratedTurn([3, 9], False)],
        [GeneratedTurn([7, 9], False), GeneratedTurn([8, 9], False), GeneratedTurn([6, 9], False)],
    )
    rollouts = roll_out_two_turns(
        [[1], [2], [5]], CORRECTION, engine, (4, 4), offline_turns_1=[[40, 41], None, [42, 9]]
    ).rollouts
    assert engine.prompts[0] == [[2]]  # only the one that has no first turn is generated
    assert engine.prompts[1] == [[1, 40, 41, 9, 70, 71], [2, 3, 9, 70, 71], [5, 42, 9, 70, 71]]
    assert [rollout.is_turn_1_offline for rollout in rollouts] == [True, False, True]
    assert [rollout.turn_of_token for rollout in rollouts] == [
        [0, 0, 0, 0, 0, 2, 2],
        [1, 1, 0, 0, 2, 2],
        [0, 0, 0, 0, 2, 2],
    ]


def test_with_offline_turns_only_the_engine_still_takes_part_in_turn_1():
    # Generating is a collective operation where weights are sharded: other processes may have prompts of their own.
    engine = ScriptedEngine([GeneratedTurn([8, 9], False)], [GeneratedTurn([7, 9], False)])
    rollouts = roll_out_two_turns([[1]], CORRECTION, engine, (4, 4), offline_turns_1=[[40]]).rollouts
    assert engine.prompts == [[[1]], [[1, 40, 9, 70, 71]]]
    assert rollouts[0].turn_1 == GeneratedTurn([40], truncated=False)  # what was generated for turn 1 is dropped


def test_offline_turn_longer_than_its_budget_is_cut_and_counted():
    engine = ScriptedEngine([GeneratedTurn([8, 9], False)], [GeneratedTurn([7, 9], False)] * 2)
    rollouts = roll_out_two_turns(
        [[1], [1]], CORRECTION, engine, (2, 4), offline_turns_1=[[40, 41, 42], [40, 41]]
    ).rollouts
    assert [rollout.turn_1 for rollout in rollouts] == [
        GeneratedTurn([40, 41], truncated=True),
        GeneratedTurn([40, 41], truncated=False),
    ]


def test_one_entry_per_prompt_is_needed():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        roll_out_two_turns([[1], [2]], CORRECTION, ScriptedEngine([]), (2, 2), offline_turns_1=[[40]])


# Decoding settings


def test_models_own_generation_config_does_not_change_greedy_decoding(families):
    family = families("qwen2")
    expected = family.roll_out(family.prompt_ids[:2])
    original = family.model.generation_config
    family.model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_p=0.3, top_k=3, eos_token_id=family.stop_ids
    )
    try:
        assert family.roll_out(family.prompt_ids[:2]) == expected
    finally:
        family.model.generation_config = original


def test_models_own_generation_config_does_not_change_the_sampling_temperature(families):
    # At temperature 0.01 all samples of one prompt would be the same.
    family = families("qwen2")
    original = family.model.generation_config
    family.model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.01, top_p=0.01, top_k=1, eos_token_id=family.stop_ids
    )
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    try:
        torch.manual_seed(0)
        turns = family.engine(do_sample=True, sampling_kwargs=sampling)([family.prompt_ids[0]] * 16, [8] * 16)
    finally:
        family.model.generation_config = original
    assert len({tuple(turn.token_ids) for turn in turns}) > 8


def test_sampling_depends_on_the_seed_alone(families):
    family = families("llama")
    sampled = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        sampled.append(family.roll_out(do_sample=True, sampling_kwargs={"temperature": 1.0}))
    assert sampled[0] == sampled[1]
    assert sampled[0] != sampled[2]


# Real small models of each family


@pytest.mark.parametrize("kind", KINDS)
def test_both_turns_are_what_the_model_writes_after_exactly_these_tokens(families, kind):
    family = families(kind)
    for prompt, rollout in zip(family.prompt_ids, family.roll_out(), strict=True):
        turn_1 = family.greedy_alone(prompt, BUDGETS[0])
        assert rollout.turn_1.token_ids == turn_1
        before_turn_2 = [*prompt, *turn_1, *family.correction.after(turn_1)]
        assert [*rollout.prompt_ids, *rollout.turn_1.token_ids, *rollout.correction_ids] == before_turn_2
        assert rollout.turn_2.token_ids == family.greedy_alone(before_turn_2, BUDGETS[1])


@pytest.mark.parametrize("kind", KINDS)
def test_turn_of_token_is_zero_on_exactly_the_correction(families, kind):
    family = families(kind)
    for rollout in family.roll_out():
        tokens = list(zip(rollout.completion_ids, rollout.turn_of_token, strict=True))
        assert [token for token, turn in tokens if turn == 0] == rollout.correction_ids
        assert [token for token, turn in tokens if turn == 1] == rollout.turn_1.token_ids
        assert [token for token, turn in tokens if turn == 2] == rollout.turn_2.token_ids
        assert "Check it." in family.tokenizer.decode(rollout.correction_ids)


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_completion_reads_as_the_dialogue_it_is(families, kind):
    family = families(kind)
    end_of_turn = family.tokenizer.convert_tokens_to_ids(family.family.end_of_turn)
    for rollout in family.roll_out():
        up_to_turn_2 = [*rollout.turn_1.token_ids, *rollout.correction_ids]
        assert up_to_turn_2.count(end_of_turn) == 2  # turn 1's and the correction prompt's, whoever wrote the first
        assert rollout.turn_1.token_ids[:-1].count(end_of_turn) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_turns_are_closed_and_counted(families, kind):
    family = families(kind)
    rollouts = family.roll_out(budgets=(3, 2))
    closing = family.correction.closing_ids
    truncated = [rollout for rollout in rollouts if rollout.turn_1.truncated]
    assert truncated
    for rollout in rollouts:
        ended = rollout.turn_1.token_ids[-1] in family.stop_ids
        assert rollout.turn_1.truncated is not ended
        assert len(rollout.turn_1.token_ids) == 3 or ended
        assert len(rollout.turn_2.token_ids) <= 2
    for rollout in truncated:
        assert rollout.correction_ids == [*closing, *family.correction.request_ids]


def model_that_ends_at_once(family):
    """All that is no stop token is forbidden, so the first token ends the turn."""
    return family.engine(sampling_kwargs={"suppress_tokens": [id_ for id_ in range(512) if id_ not in family.stop_ids]})


@pytest.mark.parametrize("kind", KINDS)
def test_model_that_ends_at_once_gives_two_empty_turns(families, kind):
    family = families(kind)
    engine = model_that_ends_at_once(family)
    rollouts = roll_out_two_turns(family.prompt_ids[:3], family.correction, engine, BUDGETS).rollouts
    for rollout in rollouts:
        for turn in (rollout.turn_1, rollout.turn_2):
            assert len(turn.token_ids) == 1
            assert not turn.truncated
            assert family.tokenizer.decode(turn.token_ids, skip_special_tokens=True) == ""
        assert rollout.correction_ids == family.correction.after(rollout.turn_1.token_ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_greedy_results_depend_on_neither_batch_size_nor_padding(families, kind, batch_size):
    family = families(kind)
    assert family.roll_out(batch_size=batch_size) == family.roll_out()


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_results_do_not_depend_on_the_order_of_the_batch(families, kind):
    family = families(kind)
    backwards = family.roll_out(family.prompt_ids[::-1])
    assert backwards[::-1] == family.roll_out()


@pytest.mark.parametrize("kind", KINDS)
def test_offline_turns_are_answered_by_the_model_as_if_it_had_written_them(families, kind):
    family = families(kind)
    online = family.roll_out()
    offline = family.roll_out(offline_turns_1=[rollout.turn_1.token_ids for rollout in online])
    assert [rollout.turn_2 for rollout in offline] == [rollout.turn_2 for rollout in online]
    assert {turn for rollout in offline for turn in rollout.turn_of_token} == {0, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_generation_says_nothing(families, kind, caplog, monkeypatch):
    family = families(kind)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        family.roll_out(family.prompt_ids[:2])
        family.roll_out(family.prompt_ids[:2], do_sample=True, sampling_kwargs={"temperature": 1.0, "top_k": 0})
    assert caplog.messages == []


def test_generation_leaves_the_model_as_it_was(families):
    family = families("llama")
    config = family.model.generation_config.to_dict()
    rollouts = family.roll_out(family.prompt_ids[:2])
    assert family.model.generation_config.to_dict() == config
    assert all(parameter.grad is None for parameter in family.model.parameters())
    assert all(isinstance(token, int) for rollout in rollouts for token in rollout.completion_ids)
