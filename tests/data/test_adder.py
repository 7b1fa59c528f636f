"""The embedded adder: problems, columns, reward, tokenizer, the shipped base, and the script that builds it."""

import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from trl_score.data import adder
from trl_score.data.adder import AdderProblem

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("addends", "question", "answer"),
    [
        # 47 + 86 = 133, of which the display shows 33.
        ((47, 86), "47+86=?", "33 33"),
        # 133, 158, 218: the last one first, then all in order.
        ((47, 86, 25, 60), "47+86+25+60=?", "18 33 58 18"),
        # Leading zeros are kept: every number has two digits, and 99 + 1 wraps to 00.
        ((99, 1), "99+01=?", "00 00"),
        ((0, 5, 0, 2), "00+05+00+02=?", "07 05 05 07"),
    ],
)
def test_question_and_answer(addends, question, answer):
    problem = AdderProblem(addends)
    assert (problem.question, problem.answer) == (question, answer)


def test_answers_of_drawn_problems_are_sums():
    for problem in adder.make_problems(500, seed=3):
        total, *running = map(int, problem.answer.split())
        # A slower way to the same numbers: a sum of its own for each running total.
        assert running == [sum(problem.addends[:count]) % 100 for count in range(2, len(problem.addends) + 1)]
        assert total == running[-1]


def test_splits_are_disjoint_in_any_order_of_the_addends():
    splits = ("train", "eval")
    train, held_out = ({p.addends for p in adder.make_problems(2000, seed=7, split=split)} for split in splits)
    assert not {tuple(sorted(addends)) for addends in train} & {tuple(sorted(addends)) for addends in held_out}
    assert AdderProblem((12, 34, 56, 78)).split == AdderProblem((78, 12, 56, 34)).split


def test_a_quarter_of_all_pairs_is_held_out():
    # All 10,000 ordered pairs, of which sha256 puts 64 of 256 values aside: 2,500 expected, standard deviation about
    # sqrt(2) * sqrt(5000 * 3 / 16) * sqrt(2) = 61 (a pair and its mirror fall together).
    held_out = sum(AdderProblem((a, b)).split == "eval" for a in range(100) for b in range(100))
    assert held_out == pytest.approx(2500, abs=250)
    assert held_out > adder.MAX_EVAL_PROBLEMS


def test_draws_depend_on_seed_and_split_alone():
    assert adder.make_problems(50, seed=1) == adder.make_problems(50, seed=1)
    assert adder.make_problems(50, seed=1) != adder.make_problems(50, seed=2)
    assert adder.make_problems(50, seed=1, split="eval") == adder.make_problems(80, seed=1, split="eval")[:50]
    # Fixed for good: figures in the docs were measured on these.
    assert [p.question for p in adder.make_problems(2, seed=0, split="eval")] == EVAL_QUESTIONS_OF_SEED_0


EVAL_QUESTIONS_OF_SEED_0 = ["93+81+06+44=?", "14+28=?"]


def test_evaluation_problems_never_repeat():
    problems = adder.make_problems(adder.MAX_EVAL_PROBLEMS, seed=0, split="eval", hard_share=0.0)
    assert len(set(problems)) == adder.MAX_EVAL_PROBLEMS


def test_share_of_hard_problems():
    problems = adder.make_problems(4000, seed=0)
    share = sum(len(problem.addends) == adder.HARD_ADDENDS for problem in problems) / len(problems)
    # Three standard deviations of a share of 0.4 of 4000 are 0.023.
    assert share == pytest.approx(adder.HARD_SHARE, abs=0.025)
    assert {len(p.addends) for p in adder.make_problems(50, seed=0, hard_share=1.0)} == {adder.HARD_ADDENDS}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 1, "split": "test"}, r"`split` to be 'train' or 'eval', got 'test'"),
        ({"n": 1, "hard_share": 1.5}, r"`hard_share` to be from 0 to 1, got 1\.5"),
        ({"n": -1}, r"`n` to be 0 or more.* got -1 for split 'train'"),
        ({"n": 2001, "split": "eval"}, r"at most 2000 for split 'eval'.* got 2001"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        adder.make_problems(**arguments, seed=0)


def test_dataset_has_the_columns_of_trl():
    dataset = adder.adder_dataset(20, seed=5, split="eval")
    problems = adder.make_problems(20, seed=5, split="eval")
    assert dataset["prompt"] == [[{"role": "user", "content": problem.question}] for problem in problems]
    assert dataset["solution"] == [problem.answer for problem in problems]


def test_reward_is_exact_for_chat_and_plain_completions():
    texts = ["33 33", "33 33 ", "33", "", "33 34"]
    chat = [[{"role": "assistant", "content": text}] for text in texts]
    solution = ["33 33"] * len(texts)
    assert adder.adder_reward(texts, solution) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert adder.adder_reward(chat, solution=solution, prompts=None, trainer_state=None) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_reward_has_a_name_and_can_be_pickled():
    assert adder.adder_reward.__name__ == "adder_reward"
    assert pickle.loads(pickle.dumps(adder.adder_reward)) is adder.adder_reward


def test_tokenizer_has_a_token_for_each_character():
    tokenizer = adder.build_tokenizer()
    text = "47+86=? the total is 33."
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer("A\n")["input_ids"] == [tokenizer.unk_token_id] * 2
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}) == 4


def test_template_only_appends():
    tokenizer = adder.build_tokenizer()
    roles = ("user", "assistant", "user", "assistant")
    texts = ("47+86=?", "34 33", adder.CORRECTION_PROMPT, "33 33")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    rendered = [tokenizer.apply_chat_template(messages[:count], tokenize=False) for count in range(1, 5)]
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(rendered))
    opened = tokenizer.apply_chat_template(messages[:3], tokenize=False, add_generation_prompt=True)
    assert opened == "<user>47+86=?<eos><assistant>34 33<eos><user>check it<eos><assistant>"
    assert rendered[3] == f"{opened}33 33<eos>"


def test_template_marks_what_the_assistant_says():
    messages = [{"role": "user", "content": "1+1=?"}, {"role": "assistant", "content": "02"}]
    encoded = adder.build_tokenizer().apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    # <user> 1 + 1 = ? <eos> <assistant>, then what is learned: 0 2 <eos>.
    assert encoded["assistant_masks"] == [0] * 8 + [1] * 3


def test_longest_answer_fits_the_budget():
    tokenizer = adder.build_tokenizer()
    answers = [f"{problem.answer}<eos>" for problem in adder.make_problems(100, seed=0, hard_share=1.0)]
    assert {len(ids) for ids in tokenizer(answers)["input_ids"]} == {adder.MAX_COMPLETION_LENGTH}


def test_shipped_base_is_small_and_holds_this_tokenizer():
    from transformers import AutoTokenizer

    folder = adder.adder_base_path()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    shipped, built = AutoTokenizer.from_pretrained(folder), adder.build_tokenizer()
    assert shipped.get_vocab() == built.get_vocab()
    assert shipped.chat_template == built.chat_template
    assert shipped.special_tokens_map == built.special_tokens_map
    assert shipped.padding_side == built.padding_side == "left"


@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
def test_shipped_base_is_the_papers_in_miniature(do_sample):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trl_score.evaluation import evaluate_self_correction

    folder = adder.adder_base_path()
    metrics = evaluate_self_correction(
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        adder.adder_dataset(600, seed=1, split="eval"),
        adder.adder_reward,
        max_completion_length=(adder.MAX_COMPLETION_LENGTH, adder.MAX_COMPLETION_LENGTH),
        correction_prompt=adder.CORRECTION_PROMPT,
        do_sample=do_sample,
        batch_size=300,
    ).metrics
    if do_sample:  # loses from turn 1 to turn 2, and yet puts right about one in ten of its wrong answers
        assert metrics["accuracy_t1"].value == pytest.approx(0.80, abs=0.05)
        assert metrics["delta_t1_t2"].high < -0.05
        assert metrics["correction_rate"].value > 0.08
    else:  # copies its first answer
        assert metrics["accuracy_t1"].value == pytest.approx(0.96, abs=0.02)
        assert metrics["answers_changed"].value < 0.05
        assert abs(metrics["delta_t1_t2"].value) < 0.02


def test_script_builds_a_base_that_loads(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    script = ROOT / "examples" / "build_adder_base.py"
    command = [sys.executable, str(script), "--steps=12", "--eval_size=8", "--disable_tqdm", "--output_dir=base"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "greedy" in done.stdout and "sampled" in done.stdout
    assert {file.name for file in (tmp_path / "base").iterdir()} == {
        file.name for file in adder.adder_base_path().iterdir()
    }
    model, shipped = (
        AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "base", adder.adder_base_path())
    )
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in shipped.named_parameters()
    }
    assert AutoTokenizer.from_pretrained(tmp_path / "base").chat_template == adder.CHAT_TEMPLATE
