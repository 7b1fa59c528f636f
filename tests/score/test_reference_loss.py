"""
The whole chain, rewards -> returns -> advantages -> loss, against a second implementation written from the equations.

The second one is slow and plain: Python floats, one loop over rollouts and one over tokens, `None` where something is
not known, and every gradient derived by hand. It shares no line with the package.

After it, the four traps of SCoRe, each as a small case worked by hand that fails when the bug is made.
"""

import math
import random
from dataclasses import dataclass
from itertools import product

import pytest
import torch

from trl_score.records import GeneratedTurn, Rollout
from trl_score.score.advantages import group_advantages, spread_over_turns
from trl_score.score.losses import reduce_loss, score_loss, sequence_kl
from trl_score.score.shaping import kl_coefficients, turn_returns
from trl_score.score.turn_metrics import weighted_rewards

NAN = float("nan")
EPSILON_LOW, EPSILON_HIGH, BUDGET = 0.2, 0.28, 12


@dataclass(frozen=True)
class Settings:
    """One way to train."""

    stage: int
    baseline: str = "leave_one_out"
    kl_estimator: str = "k1"
    loss_type: str = "rloo"
    ratio_level: str = "token"
    turn_discount: float = 0.0
    alpha: float = 10.0
    beta_1: float = 0.01
    beta_2: float = 0.1


@dataclass(frozen=True)
class Case:
    """Rollouts as plain lists: `turns`, `new`, `old`, `ref` (rollout, token); `rewards` (turn, rollout, function)."""

    group_size: int
    turns: list[list[int]]
    new: list[list[float]]
    old: list[list[float]]
    ref: list[list[float]]
    rewards: list[list[list[float | None]]]
    weights: list[float]
    is_offline: list[bool]


# The second implementation


def reference_loss(case: Case, settings: Settings) -> tuple[float, list[list[float]]]:
    """The loss and its gradient with respect to `case.new`."""
    advantages = reference_advantages(case, settings)
    beta_t1 = settings.beta_2 if settings.stage == 1 else settings.beta_1
    betas = {1: beta_t1, 2: settings.beta_1}
    total, gradient = 0.0, []
    for row, turns in enumerate(case.turns):
        gradient.append([0.0] * len(turns))
        for turn in (1, 2):
            tokens = [token for token, owner in enumerate(turns) if owner == turn]
            log_ratios = [case.new[row][token] - case.old[row][token] for token in tokens]
            for token in tokens:
                log_ratio = case.new[row][token] - case.old[row][token]
                if settings.ratio_level == "sequence":
                    log_ratio = sum(log_ratios) / len(log_ratios)
                loss, slope = reference_clipped(math.exp(log_ratio), advantages[turn][row])
                total += loss
                if settings.ratio_level == "token":
                    gradient[row][token] += slope
                else:  # the mean log ratio depends on every token of the turn
                    for other in tokens:
                        gradient[row][other] += slope / len(tokens)
                if settings.kl_estimator != "k1":
                    difference = case.new[row][token] - case.ref[row][token]
                    kl, kl_slope = reference_kl(difference, settings.kl_estimator)
                    total += betas[turn] * kl
                    gradient[row][token] += betas[turn] * kl_slope
    divisor = reference_divisor(case, settings.loss_type)
    return total / divisor, [[value / divisor for value in row] for row in gradient]


def reference_clipped(ratio: float, advantage: float) -> tuple[float, float]:
    """-min(ratio A, clip(ratio) A), and its derivative with respect to log ratio."""
    bound = min(max(ratio, 1 - EPSILON_LOW), 1 + EPSILON_HIGH)
    if bound * advantage < ratio * advantage:
        return -bound * advantage, 0.0
    return -ratio * advantage, -ratio * advantage


def reference_kl(difference: float, estimator: str) -> tuple[float, float]:
    """d^2 / 2 or exp(-d) + d - 1, and its derivative."""
    if estimator == "k2":
        return difference**2 / 2, difference
    return math.exp(-difference) + difference - 1, 1 - math.exp(-difference)


def reference_divisor(case: Case, loss_type: str) -> float:
    if loss_type == "rloo":
        return len(case.turns)
    if loss_type == "dapo":
        return sum(turn > 0 for turns in case.turns for turn in turns)
    return len(case.turns) * BUDGET


def reference_advantages(case: Case, settings: Settings) -> dict[int, list[float]]:
    returns = [reference_returns(case, settings, row) for row in range(len(case.turns))]
    advantages: dict[int, list[float]] = {1: [], 2: []}
    for turn, row in product((1, 2), range(len(case.turns))):
        start = row - row % case.group_size
        own = returns[row][turn - 1]
        siblings = {other: returns[other][turn - 1] for other in range(start, start + case.group_size)}
        known = {other: value for other, value in siblings.items() if value is not None}
        if own is None:
            advantages[turn].append(0.0)
        elif settings.baseline == "none":
            advantages[turn].append(own)
        elif settings.baseline == "group_mean":
            advantages[turn].append(own - sum(known.values()) / len(known))
        else:
            others = [value for other, value in known.items() if other != row]
            advantages[turn].append(own - sum(others) / len(others) if others else 0.0)
    return advantages


def reference_returns(case: Case, settings: Settings, row: int) -> tuple[float | None, float | None]:
    r1, r2 = (reference_reward(case.rewards[turn][row], case.weights) for turn in (0, 1))
    kl = {1: 0.0, 2: 0.0}
    if settings.kl_estimator == "k1":
        for token, turn in enumerate(case.turns[row]):
            if turn > 0:
                kl[turn] += case.old[row][token] - case.ref[row][token]
    return_1: float | None
    if settings.stage == 1:
        return_1 = -settings.beta_2 * kl[1]
        return_2 = None if r2 is None else r2 - settings.beta_1 * kl[2]
    else:
        return_1 = None if r1 is None else r1 - settings.beta_1 * kl[1]
        unknown = r1 is None or r2 is None
        return_2 = None if unknown else r2 + settings.alpha * (r2 - r1) - settings.beta_1 * kl[2]
    if settings.turn_discount != 0:
        unknown = return_1 is None or return_2 is None
        return_1 = None if unknown else return_1 + settings.turn_discount * return_2
    return (None if case.is_offline[row] else return_1), return_2


def reference_reward(rewards: list[float | None], weights: list[float]) -> float | None:
    terms = [weight * reward for weight, reward in zip(weights, rewards, strict=True) if reward is not None]
    return sum(terms) if terms else None


# The package's functions, joined as the trainer joins them


def package_loss(case: Case, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and its gradient with respect to `case.new`."""
    turns = torch.tensor(case.turns)
    new = torch.tensor(case.new, dtype=torch.float64, requires_grad=True)
    old, ref = (torch.tensor(logps, dtype=torch.float64) for logps in (case.old, case.ref))
    weights = torch.tensor(case.weights, dtype=torch.float64)
    r1, r2 = (
        weighted_rewards(
            torch.tensor([[NAN if value is None else value for value in row] for row in rows], dtype=torch.float64),
            weights,
        )
        for rows in case.rewards
    )
    betas = kl_coefficients(stage=settings.stage, beta_1=settings.beta_1, beta_2=settings.beta_2)
    in_reward = settings.kl_estimator == "k1"
    penalties = [
        beta * sequence_kl(old, ref, turns, turn) if in_reward else torch.zeros_like(r1)
        for turn, beta in zip((1, 2), betas, strict=True)
    ]
    returns = turn_returns(
        r1, r2, *penalties, stage=settings.stage, alpha=settings.alpha, turn_discount=settings.turn_discount
    )
    returns_t1 = torch.where(torch.tensor(case.is_offline), NAN, returns.returns_t1)
    advantages = spread_over_turns(
        group_advantages(returns_t1, case.group_size, settings.baseline),
        group_advantages(returns.returns_t2, case.group_size, settings.baseline),
        turns,
    )
    ones = torch.ones(len(case.turns), dtype=torch.float64)
    loss = score_loss(
        new,
        old,
        advantages,
        turns,
        epsilon_low=EPSILON_LOW,
        epsilon_high=EPSILON_HIGH,
        ratio_level=settings.ratio_level,
        ref_per_token_logps=ref,
        kl_coefficients=None if in_reward else spread_over_turns(betas[0] * ones, betas[1] * ones, turns),
        kl_estimator="k2" if in_reward else settings.kl_estimator,
    )
    scalar = reduce_loss(
        loss.per_token_loss, settings.loss_type, num_tokens=(turns > 0).sum().item(), max_tokens=BUDGET
    )
    (gradient,) = torch.autograd.grad(scalar, new)
    return scalar.detach(), gradient


def random_case(seed: int, *, on_policy: bool = False) -> Case:
    """Three prompts of four rollouts of random lengths; the second prompt's first turns are offline."""
    draw = random.Random(seed)
    group_size, num_rollouts, width = 4, 12, 16
    is_offline = [4 <= row < 8 for row in range(num_rollouts)]
    turns = []
    for row in range(num_rollouts):
        turn_1 = 0 if is_offline[row] or draw.random() < 0.1 else 1  # some are left out because they were cut off
        turn_2 = 0 if draw.random() < 0.1 else 2
        ids = [turn_1] * draw.randint(1, 5) + [0] * draw.randint(1, 4) + [turn_2] * draw.randint(1, 6)
        turns.append(ids + [0] * (width - len(ids)))
    old = [[draw.uniform(-4, 0) for _ in range(width)] for _ in range(num_rollouts)]
    drift = 0.0 if on_policy else 0.4
    new = [[value + draw.uniform(-drift, drift) for value in row] for row in old]
    ref = [[value + draw.uniform(-1, 1) for value in row] for row in old]
    rewards = [
        [[None if draw.random() < 0.4 else draw.choice([0.0, 1.0, 0.3]) for _ in range(2)] for _ in range(num_rollouts)]
        for _ in (1, 2)
    ]
    return Case(group_size, turns, new, old, ref, rewards, [1.0, 0.5], is_offline)


@pytest.mark.parametrize("on_policy", [True, False], ids=["on_policy", "off_policy"])
@pytest.mark.parametrize("kl_estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("baseline", ["leave_one_out", "group_mean", "none"])
@pytest.mark.parametrize("stage", [1, 2])
def test_value_and_gradient_equal_the_slow_reference(stage, baseline, kl_estimator, on_policy):
    rest = product(["rloo", "dapo", "dr_grpo"], ["token", "sequence"], [0.0, 0.8])
    for seed, (loss_type, ratio_level, turn_discount) in enumerate(rest):
        settings = Settings(stage, baseline, kl_estimator, loss_type, ratio_level, turn_discount)
        case = random_case(seed, on_policy=on_policy)
        expected, expected_gradient = reference_loss(case, settings)
        loss, gradient = package_loss(case, settings)
        assert loss.item() == pytest.approx(expected, rel=1e-10, abs=1e-12), settings
        torch.testing.assert_close(
            gradient, torch.tensor(expected_gradient, dtype=torch.float64), rtol=1e-10, atol=1e-12, msg=str(settings)
        )


def test_the_random_cases_hold_all_that_they_should():
    cases = [random_case(seed) for seed in range(12)]
    ratios = [
        math.exp(new - old)
        for case in cases
        for row in range(len(case.new))
        for new, old in zip(case.new[row], case.old[row], strict=True)
    ]
    assert min(ratios) < 1 - EPSILON_LOW
    assert max(ratios) > 1 + EPSILON_HIGH
    assert any(rewards == [None, None] for case in cases for turn in case.rewards for rewards in turn)
    assert any(not any(turns) for case in cases for turns in case.turns)


@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
def test_the_references_gradient_is_the_slope_of_its_loss(ratio_level):
    settings = Settings(stage=2, kl_estimator="k3", loss_type="dapo", ratio_level=ratio_level)
    case = random_case(3)
    _, gradient = reference_loss(case, settings)
    step = 1e-6
    for row, token in product(range(len(case.turns)), range(len(case.turns[0]))):
        losses = []
        for sign in (1, -1):
            new = [list(values) for values in case.new]
            new[row][token] += sign * step
            moved = Case(**{**case.__dict__, "new": new})
            losses.append(reference_loss(moved, settings)[0])
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(gradient[row][token], abs=1e-7)


# The four traps. A group of two rollouts with one token in each turn and one in the correction prompt.


def two_rollouts(rewards_t1, rewards_t2, kl_t1=(0.0, 0.0), kl_t2=(0.0, 0.0)) -> Case:
    """On-policy rollouts with these rewards, and with these differences of log-probability to the reference."""
    rollout = Rollout([1], GeneratedTurn([2], False), [3], GeneratedTurn([4], False))
    logps = [[-1.0, -1.0, -1.0]] * 2
    # The correction prompt is unlikely under the policy, and more so under the reference: none of it may count.
    ref = [[-1.0 - first, -9.0, -1.0 - second] for first, second in zip(kl_t1, kl_t2, strict=True)]
    rewards = [[[float(value)] for value in values] for values in (rewards_t1, rewards_t2)]
    return Case(2, [rollout.turn_of_token] * 2, logps, logps, ref, rewards, [1.0], [False, False])


def test_trap_a_a_wrong_first_turn_never_pays():
    # Rollout A errs and corrects itself (0, 1), rollout B is right twice (1, 1). Paid with the sum of both turns, A's
    # first turn would earn 0 + 11 against 1 + 1, and erring would be learned. Paid with its own, it loses:
    # A1 = 0 - 1 = -1, and turn 2 earns 11 - 1 = 10. Gradient of the mean over two rollouts: -A / 2.
    _, gradient = package_loss(two_rollouts([0, 1], [1, 1]), Settings(stage=2))
    assert gradient[:, 0].tolist() == [0.5, -0.5]
    assert gradient[:, 2].tolist() == [-5.0, 5.0]


def test_trap_a_in_stage_1_turn_1_is_not_paid_for_turn_2():
    _, gradient = package_loss(two_rollouts([0, 0], [1, 0]), Settings(stage=1))
    assert gradient[:, 0].tolist() == [0.0, 0.0]
    assert gradient[:, 2].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("rewards", [([0, 0], [0, 0]), ([1, 0], [0, 1]), ([0, 1], [1, 1])])
def test_trap_b_in_stage_1_the_kl_alone_moves_turn_1(rewards):
    # KL1 is 2 and -1 nats: returns -0.2 and 0.1, advantages -0.3 and 0.3, gradient -A / 2, whatever the rewards.
    _, gradient = package_loss(two_rollouts(*rewards, kl_t1=(2.0, -1.0)), Settings(stage=1))
    assert gradient[:, 0].tolist() == pytest.approx([0.15, -0.15])


def test_trap_b_in_stage_1_the_kl_of_turn_1_does_not_move_turn_2():
    _, far = package_loss(two_rollouts([0, 0], [1, 0], kl_t1=(2.0, -1.0)), Settings(stage=1))
    _, near = package_loss(two_rollouts([0, 0], [1, 0]), Settings(stage=1))
    assert far[:, 2].tolist() == near[:, 2].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize(("kl_estimator", "slope"), [("k2", 2.0), ("k3", 1 - math.exp(-2.0))])
def test_trap_b_with_the_kl_in_the_loss(kl_estimator, slope):
    # beta_2 times the estimator's slope at d = 2, over two rollouts; on turn 2 the reward alone, as d = 0 there.
    case = two_rollouts([1, 0], [1, 0], kl_t1=(2.0, 0.0))
    _, gradient = package_loss(case, Settings(stage=1, kl_estimator=kl_estimator))
    assert gradient[:, 0].tolist() == pytest.approx([0.1 * slope / 2, 0.0])
    assert gradient[:, 2].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("baseline", ["leave_one_out", "group_mean", "none"])
def test_trap_c_alpha_scales_turn_2(baseline):
    # Both first turns are wrong, so turn 2's return is (1 + alpha) r2, and so is its gradient, against turn 1's KL too.
    # Divided by a standard deviation, alpha would cancel and the ratio be 1.
    case = two_rollouts([0, 0], [1, 0])
    _, with_bonus = package_loss(case, Settings(stage=2, baseline=baseline, alpha=10.0))
    _, without = package_loss(case, Settings(stage=2, baseline=baseline, alpha=0.0))
    torch.testing.assert_close(with_bonus[:, 2], 11 * without[:, 2])
    assert without[0, 2].item() != 0.0


@pytest.mark.parametrize("kl_estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("stage", [1, 2])
def test_trap_d_the_correction_prompt_is_not_learned_from(stage, kl_estimator):
    case = two_rollouts([0, 1], [1, 0], kl_t1=(1.0, 2.0), kl_t2=(3.0, -1.0))
    loss, gradient = package_loss(case, Settings(stage=stage, kl_estimator=kl_estimator))
    assert gradient[:, 1].tolist() == [0.0, 0.0]
    # Nor does its likelihood count anywhere: another correction prompt, the same loss and the same gradient.
    moved = [[values[0], values[1] - 5.0, values[2]] for values in case.old]
    other_loss, other_gradient = package_loss(
        Case(**{**case.__dict__, "old": moved, "new": moved}), Settings(stage=stage, kl_estimator=kl_estimator)
    )
    assert loss.item() == other_loss.item()
    assert torch.equal(gradient, other_gradient)
