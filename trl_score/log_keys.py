"""Every key that the trainers log, and one sentence on each. The trainers, the docs and the tests read this table.

A key is logged as it stands here in training and with the prefix `eval_` in evaluation. A first turn that came from
the dataset is not the policy's: it is in no accuracy of turn 1 and in no delta. Seconds are the main process's, means
over optimizer steps; in evaluation over rollout batches.
"""

SCORE_LOG_KEYS: dict[str, str] = {
    "score/accuracy_t1": "Share of first turns that are right (first reward function above 0.5), of those scorable.",
    "score/accuracy_t2": "Share of second turns that are right, of those scorable.",
    "score/delta_t1_t2": "accuracy_t2 - accuracy_t1 over the rollouts in which both turns are scorable.",
    "score/delta_i_to_c": "Share of all rollouts whose first turn is wrong and second turn right.",
    "score/delta_c_to_i": "Share of all rollouts whose first turn is right and second turn wrong.",
    "score/answers_changed": "Share of rollouts whose two final answers differ (last boxed answer, or the whole text).",
    "score/edit_distance_ratio": "Mean Levenshtein distance between the turns over the sum of their lengths.",
    "score/reward_t1": "Mean weighted reward of turn 1, of those scorable.",
    "score/reward_t2": "Mean weighted reward of turn 2, of those scorable.",
    "score/shaped_reward_t2": "Mean reward of turn 2 after shaping: r2 in Stage I, r2 + alpha (r2 - r1) in Stage II.",
    "score/without_signal": "Share of rollouts whose group is paid alike, which teaches nothing; not in evaluation.",
    "score/unscorable": "Number of turns, of both kinds, that no reward function could score, per rollout batch.",
    "score/advantage_abs_t1": "Mean absolute advantage of turn 1, as trained on.",
    "score/advantage_abs_t2": "Mean absolute advantage of turn 2, as trained on.",
    "score/kl_t1": "KL of turn 1 to the reference, k1 estimate, in nats per sequence (greedy: a log-ratio, no KL).",
    "score/kl_t2": "KL of turn 2 to the reference, k1 estimate, in nats per sequence (greedy: a log-ratio, no KL).",
    "score/kl_per_token_t1": "KL of turn 1 to the reference, in nats per token.",
    "score/kl_per_token_t2": "KL of turn 2 to the reference, in nats per token.",
    "score/entropy_t1": "Mean entropy of the policy on turn 1's tokens, in nats per token.",
    "score/entropy_t2": "Mean entropy of the policy on turn 2's tokens, in nats per token.",
    "score/length_t1": "Mean tokens of turn 1.",
    "score/length_t2": "Mean tokens of turn 2.",
    "score/truncated_t1": "Share of first turns that their length budget cut off.",
    "score/truncated_t2": "Share of second turns that their length budget cut off.",
    "score/clip_ratio_t1": "Share of turn 1's tokens whose gradient the clip bound holds back.",
    "score/clip_ratio_t2": "Share of turn 2's tokens whose gradient the clip bound holds back.",
    "score/offline_turn_1": "Share of rollouts whose first turn came from the dataset.",
    "score/skipped_steps": "Share of steps that were skipped because their loss or gradient was NaN or infinite.",
    "score/stage": "1 or 2: the stage in which the rollouts were paid.",
    "score/beta_2": "KL coefficient of turn 1 in Stage I, as it stands (it moves only with `beta_2_target_kl`).",
    "score/seconds_generation_t1": "Seconds spent generating turn 1.",
    "score/seconds_generation_t2": "Seconds spent generating turn 2.",
    "score/seconds_rewards": "Seconds the trainer waited for rewards.",
    "score/seconds_reference": "Seconds spent on the log-probabilities of the reference.",
    "score/seconds_log_probs": "Seconds spent on log-probabilities of the policy before the update, if it needs any.",
    "score/seconds_update": "Seconds spent on forward and backward.",
    "score/seconds_optimizer": "Seconds spent on the optimizer's step.",
    "score/seconds_step": "Seconds of a whole step; those of its phases, which are above, sum up to nearly as many.",
}

STEP_PHASES: dict[str, str] = {
    "score/seconds_generation_t1": "turn 1",
    "score/seconds_generation_t2": "turn 2",
    "score/seconds_rewards": "rewards",
    "score/seconds_reference": "reference",
    "score/seconds_log_probs": "log-probs",
    "score/seconds_update": "update",
    "score/seconds_optimizer": "optimizer",
}
"""The phases of a step, in their order, and what a person calls them."""

SCORE_MEMORY_KEYS: dict[str, str] = {
    "score/memory_generation": "Most GiB held while both turns were generated, mean over rollout batches.",
    "score/memory_log_probs": "Most GiB held in a forward without gradient, of either model, mean over forwards.",
    "score/memory_update": "Most GiB held in forward and backward, mean over micro-batches; not in evaluation.",
}
"""Logged with `log_memory`, of the main process: tensors on its accelerator, or on a CPU the process since it began."""

CLOUD_LOG_KEYS: dict[str, str] = {
    "cloud/reward_loss": "Bradley-Terry loss, with margin and centring where they are set; not in critique SFT.",
    "cloud/critique_loss": "Cross-entropy of the critiques in nats, normalised as `critique_normalization` says.",
    "cloud/critique_weight": "Weight of the critique loss as it stands; 1 in critique SFT.",
    "cloud/accuracy": "Share of pairs whose chosen response has the higher reward; a tie is wrong.",
    "cloud/margin": "Mean reward of the chosen response minus that of the rejected one.",
    "cloud/reward_mean": "Mean reward, of chosen and rejected responses together.",
    "cloud/reward_min": "Lowest reward.",
    "cloud/reward_max": "Highest reward.",
    "cloud/critique_accuracy": "Share of the tokens learned from that the model would have written itself, greedily.",
    "cloud/supervised_tokens": "Tokens learned from per micro-batch, over all processes.",
    "cloud/skipped_steps": "Share of steps skipped for a NaN or infinite loss or gradient; not in evaluation.",
    "cloud/rows_dropped": "Rows of the training set left out because they are too long; not in evaluation.",
    "cloud/rows_shortened": "Rows of the training set of which a critique was shortened; not in evaluation.",
}
"""What CLoudRewardTrainer logs. A classic reward model has no critiques, so it logs no key of theirs."""
