"""Self-Refine: three turns generated, two scored, the critique kept beside them."""

from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_score.baselines.self_refine import CRITIQUE_PROMPT, REFINE_PROMPT, evaluate_self_refine
from trl_score.evaluation import evaluate_self_correction
from trl_score.score.prompts import audit_template, tokenize_prompts

BUDGETS = (9, 7, 5)


def even_length(completions: list[Any], number: list[int], **kwargs: Any) -> list[float]:
    assert len(number) == len(completions)
    return [float(len(completion[0]["content"]) % 2 == 0) for completion in completions]


@pytest.fixture(scope="module")
def local(local_model: Any) -> tuple[Any, Any, Dataset]:
    folder = local_model("qwen2")
    prompts = [[{"role": "user", "content": f"What is {number} + 5?"}] for number in range(6)]
    dataset = Dataset.from_dict({"prompt": prompts, "number": list(range(6))})
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), dataset


def test_critique_and_refined_answer_follow_token_for_token(local):
    model, tokenizer, dataset = local
    seen: list[list[list[int]]] = []

    def reward(completions: list[Any], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        seen.append(completion_ids)
        return even_length(completions, **kwargs)

    evaluation = evaluate_self_refine(model, tokenizer, dataset, reward, max_completion_length=BUDGETS, batch_size=1)
    assert len(seen) == 2 * len(dataset), "an answer and a refined answer of each problem, and no critique"
    # Turn by turn by hand, for one problem: what is asked after each turn, and the greedy continuation of it all.
    context = tokenize_prompts([dataset[2]["prompt"]], tokenizer)[0]
    answers = []
    for budget, request in zip(BUDGETS, (CRITIQUE_PROMPT, REFINE_PROMPT, None), strict=True):
        ids = torch_generate(model, tokenizer, context, budget)
        answers.append(ids)
        context = [*context, *ids]
        if request is not None:
            context += audit_template(request, tokenizer).after(ids)
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    assert evaluation.records[2].turns == (texts[0], texts[2])
    assert evaluation.critiques[2] == texts[1]
    assert (seen[4], seen[5]) == ([answers[0]], [answers[2]])
    record = evaluation.record_dicts()[2]
    assert (record["critique"], record["turns"]) == (texts[1], (texts[0], texts[2]))


def torch_generate(model: Any, tokenizer: Any, context: list[int], budget: int) -> list[int]:
    import torch

    output = model.generate(
        torch.tensor([context]), attention_mask=torch.ones(1, len(context)), max_new_tokens=budget, do_sample=False
    )
    return output[0, len(context) :].tolist()


def test_metrics_are_those_of_the_first_and_the_third_turn(local):
    model, tokenizer, dataset = local
    evaluation = evaluate_self_refine(model, tokenizer, dataset, even_length, max_completion_length=BUDGETS)
    for turn in (0, 1):
        right = [len(record.turns[turn]) % 2 == 0 for record in evaluation.records]
        assert evaluation.metrics[f"accuracy_t{turn + 1}"].value == sum(right) / len(right)


def test_turn_1_is_that_of_a_plain_evaluation(local):
    model, tokenizer, dataset = local
    refined = evaluate_self_refine(model, tokenizer, dataset, even_length, max_completion_length=BUDGETS)
    plain = evaluate_self_correction(model, tokenizer, dataset, even_length, max_completion_length=BUDGETS[:2])
    assert [record.turns[0] for record in refined.records] == [record.turns[0] for record in plain.records]


def test_sampling_depends_on_the_seed_alone(local):
    model, tokenizer, dataset = local

    def sampled(seed: int) -> list[Any]:
        options = {"max_completion_length": BUDGETS, "do_sample": True, "seed": seed, "batch_size": 4}
        evaluation = evaluate_self_refine(model, tokenizer, dataset, even_length, **options)
        return [
            (record.turns, critique) for record, critique in zip(evaluation.records, evaluation.critiques, strict=True)
        ]

    first = sampled(1)
    assert first == sampled(1)
    assert first != sampled(2)


def test_an_empty_dataset_is_refused(local):
    model, tokenizer, dataset = local
    with pytest.raises(ValueError, match=r"rows with a `prompt`, got 0 rows"):
        evaluate_self_refine(model, tokenizer, dataset.select([]), even_length, max_completion_length=BUDGETS)
