"""What a healthy curve looks like, in one sentence or two each: the only place where the report says so.

A line is looked up under ``stage_name`` first, then under ``name`` alone.
"""

HEALTHY: dict[str, str] = {
    # The run as a whole.
    "loss": "Healthy: a cliff, then a long slope that steepens again as the learning rate falls. A spike that heals "
    "is weather; one that stays is a fault.",
    "bits_per_byte": "Healthy: every curve falls to the end and passes below the dashed rivals. One that turns up "
    "while the loss goes down is learning by heart.",
    "learning_rate": "Healthy: a short climb, a plateau, then a straight fall that ends at the last step. A jump in "
    "between is a resumption gone wrong.",
    "speed": "Healthy: flat. A slow sag is a machine that grows hot; a sudden step is another program at work. Where "
    "answers are drawn, longer answers make it wander.",
    "time_per_stage": "Healthy: nearly all of it where something is trained. A long corpus or tokenizer means more "
    "text than there is time to learn from.",
    # Supervised fine-tuning and distillation.
    "sft_loss": "Healthy: both fall, the held-out one a little above. When it turns up while the training loss goes "
    "on falling, the rows are being learnt by heart: that was the step to stop at.",
    "distil_loss": "Healthy: falls steeply, then flattens above 0. It measures the distance to the teacher, which a "
    "smaller student does not close.",
    # Pairs: reward model and preference optimisation.
    "reward_loss": "Healthy: begins near 0.693 = ln 2, the loss of tossing a coin, and falls. Near 0 it knows the "
    "pairs by heart.",
    "dpo_loss": "Healthy: begins at 0.693 = ln 2, because policy and reference are still the same model, and falls "
    "slowly. A dive to 0 within a few steps means pairs too easy or a rate too high.",
    "dpo_loss_other": "Healthy: falls slowly from where equal models stand. Only losses built on the logistic "
    "function begin at ln 2; this one has a zero point of its own.",
    "accuracy": "Healthy: leaves 50 %, a coin’s toss, early and settles, with the held-out share close behind. 100 % "
    "in training and no gain held out is learning by heart.",
    "dpo_accuracy": "Healthy: both climb. They count differently: the training’s asks which answer moved up more "
    "against the reference, the held-out one which the model now finds likelier, token by token.",
    "margin": "Healthy: grows from about 0 and bends. One that shoots up without end is overconfidence: stop earlier, "
    "or smooth the labels.",
    "logprobs": "Healthy: the gap between the two grows. Both may fall, and often do: the loss rewards only their "
    "difference. When the chosen line dives as well, the model is forgetting how to write.",
    "rewards": "Healthy: the two part. The chosen one above 0 is the best case; both below 0 with a growing gap is "
    "common, and tolerable while the answers still read well.",
    "reward_rewards": "Healthy: the two part, the chosen one above. Only the distance means something: where 0 lies "
    "was never learnt.",
    # Policies: PPO and GRPO.
    "ppo_loss": "Says little: the policy’s part is centred anew at every rollout and stays near 0 whether or not the "
    "model learns; the rest is the critic’s. Watch the reward.",
    "grpo_loss": "Says nothing: the advantages of a group cancel, so it stays near 0 while the model learns. Watch "
    "the reward.",
    "reward": "Healthy: noisy, and rising. This is the curve to watch. A sudden leap deserves a look at the samples: "
    "the reward may have found a loophole.",
    "success": "Healthy: rises and levels off. The held-out answers are the likeliest ones and not drawn, so they may "
    "well stand above the others.",
    "kl": "Healthy: climbs slowly from 0 and stays below its target. It is the distance to the model of the start: "
    "too much of it, and the answers please the reward and nobody else.",
    "dpo_kl": "Healthy: stays near 0. Below it, the chosen answers too have become less likely than the reference "
    "made them; far above it, they are known by heart.",
    "entropy": "Healthy: sinks slowly. Near 0 every answer to a question is the same, nothing is tried any more, and "
    "nothing more can be learnt.",
    "length": "Healthy: wanders, or settles at what the task needs. Endless growth is padding that the reward pays "
    "for; a collapse is a loophole found.",
    "zero_variance_share": "Healthy: well below 1. In such a group all answers earned the same, so it teaches "
    "nothing; near 1 the task is too easy or too hard for the groups.",
    "clipped_share": "Healthy: a few per cent. 0 throughout means that each rollout is used once, or that the rate is "
    "timid; more than a third means steps too large for the clip.",
    "truncated_share": "Healthy: near 0, or falling to it. A cut answer is graded on what is there, mostly as wrong: "
    "many of them teach brevity, not the task.",
    "ratio": "Healthy: exactly 1 at the first update of a rollout, and close to it afterwards. Off 1 at once, the "
    "sampler and the trainer do not compute the same model.",
    "mismatch": "Healthy: flat and close to 0: the difference that rounding makes between sampler and trainer. A rise "
    "means the gradients belong to another model than the one that answered.",
    "value_loss": "Healthy: falls, then follows the reward’s noise. When it grows for good, the critic no longer "
    "keeps up and the advantages are guesses.",
    "kl_coefficient": "Healthy: moves while the KL finds its target, then rests. A steady climb means that the KL "
    "will not be held: lower the rate.",
    "calibration": "Healthy: points on the diagonal, within their bars: of the pairs given 80 %, 80 % are so. A row of "
    "points flatter than the diagonal is too sure of itself, a steeper one not sure enough.",
    "held_out": "Healthy: moves in the direction of the training, and does not turn back.",
}


def healthy(name: str, stage: str = "") -> str:
    """The line for a drawing.

    Args:
        name: of the drawing, such as "margin".
        stage: whose drawing it is; "" for one of the whole run.

    Raises:
        KeyError: there is no line for it; every drawing has one.
    """
    return HEALTHY.get(f"{stage}_{name}") or HEALTHY[name]
