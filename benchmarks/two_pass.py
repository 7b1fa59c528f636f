"""
SCoRe as public implementations run it, as plainly as it can be written: the other side of score_vs_two_pass.py.

Written from what they do, none of their code: each turn is generated from text that is encoded anew, the reference is a
second copy of the model, and each turn has a forward of its own through it, and a forward and a backward of its own
through the policy, by full logits. It has no logs, no checks and no checkpoints, and the KL needs no further forward.
"""

import time
from typing import Any

import torch
from models import last_word_is_even, make_prompts, make_tokenizer
from peft import LoraConfig, get_peft_model
from trainers import CORRECTION_PROMPT, Workload
from transformers import AutoModelForCausalLM

Messages = list[dict[str, str]]


class TwoPassSCoRe:
    """
    Stage II of SCoRe in two passes.

    Args:
        load ([`Workload`]):
            What a step does.
        folder (`str`):
            Where the model lies.
        device (`str`):
            Where it runs.
        lora ([`~peft.LoraConfig`], *optional*):
            An adapter to train in the model's place.
    """

    def __init__(self, load: Workload, folder: str, device: str, lora: LoraConfig | None = None) -> None:
        self.load, self.device = load, device
        self.tokenizer = make_tokenizer(load.size.vocabulary)
        self.tokenizer.padding_side = "left"
        policy, self.reference = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device) for _ in range(2)
        )
        self.policy: Any = policy if lora is None else get_peft_model(policy, lora)
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        prompts = make_prompts(load.prompts, load.prompt_tokens)["prompt"]
        self.prompts = [prompt for prompt in prompts for _ in range(load.group)]
        self.alpha, self.beta = 10.0, 0.01

    def step(self) -> tuple[float, float]:
        """Trains for one step, and gives the seconds of all of it and of what follows generation, in wall time."""
        start = self._now()
        answers_1 = self.write(self.prompts)
        asked_again = [
            [*prompt, {"role": "assistant", "content": answer}, {"role": "user", "content": CORRECTION_PROMPT}]
            for prompt, answer in zip(self.prompts, answers_1, strict=True)
        ]
        answers_2 = self.write(asked_again)
        rewards_1, rewards_2 = (self.rewards(answers) for answers in (answers_1, answers_2))
        generated = self._now()
        self.optimizer.zero_grad()
        self.learn(self.prompts, answers_1, rewards_1)
        self.learn(asked_again, answers_2, rewards_2 + self.alpha * (rewards_2 - rewards_1))
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        end = self._now()
        return end - start, end - generated

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def encode(self, texts: list[str]) -> Any:
        """Ids of texts and their mask, padded on the left."""
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        return batch.to(self.device)

    def texts_of(self, conversations: list[Messages]) -> list[str]:
        """Each conversation as the template writes it, up to where the model answers."""
        return self.tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)

    @torch.no_grad()
    def write(self, conversations: list[Messages]) -> list[str]:
        """Answers of the policy, as text."""
        inputs = self.encode(self.texts_of(conversations))
        num_tokens = self.load.turn_tokens
        with self._autocast():
            output = self.policy.generate(
                **inputs, do_sample=True, top_k=0, max_new_tokens=num_tokens, min_new_tokens=num_tokens
            )
        return self.tokenizer.batch_decode(output[:, inputs["input_ids"].size(1) :], skip_special_tokens=True)

    def rewards(self, answers: list[str]) -> torch.Tensor:
        """Rewards of answers, shape (rollouts,)."""
        completions = [[{"role": "assistant", "content": answer}] for answer in answers]
        return torch.tensor(last_word_is_even(completions), device=self.device)

    def learn(self, conversations: list[Messages], answers: list[str], rewards: torch.Tensor) -> None:
        """The gradient of one turn: REINFORCE with a leave-one-out baseline, the KL in the reward."""
        prompts = self.texts_of(conversations)
        whole = self.encode([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)])
        length = self.load.turn_tokens
        with torch.no_grad():
            reference = self.log_probs(self.reference, whole, length)
        logps = self.log_probs(self.policy, whole, length)
        returns = rewards - self.beta * (logps.detach() - reference).sum(dim=1)
        groups = returns.view(-1, self.load.group)
        others = (groups.sum(dim=1, keepdim=True) - groups) / (self.load.group - 1)
        advantages = (groups - others).flatten()
        (-(advantages[:, None] * logps).sum(dim=1).mean()).backward()

    def log_probs(self, model: Any, whole: Any, length: int) -> torch.Tensor:
        """Log-probabilities of the last `length` tokens, by full logits. Shape (rollouts, length)."""
        with self._autocast():
            logits = model(**whole).logits[:, -length - 1 : -1]
        chosen = whole["input_ids"][:, -length:, None]
        return logits.float().log_softmax(dim=-1).gather(-1, chosen).squeeze(-1)
