"""Our losses against those inside TRL's trainers, fed the same log-probabilities: values and gradients.

Needs ``pip install trl==1.16.0``. A trainer's loss is a method that reads a few settings and calls a model, so it runs
on a stand-in for both, without a training.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from cadran.align.advantages import group_advantages
from cadran.align.distillation import distillation_losses
from cadran.align.logprobs import token_logprobs
from cadran.align.losses.aggregate import aggregate
from cadran.align.losses.kl import k3
from cadran.align.losses.kto import kto_baseline, kto_losses
from cadran.align.losses.policy import cispo_losses, clipped_policy_losses, clipped_ratio_losses, sequence_log_ratios
from cadran.align.losses.preference import odds_ratio_losses, preference_losses
from cadran.align.losses.reward import bradley_terry_losses

pytest.importorskip("trl", reason="trl is not installed")
pytestmark = pytest.mark.slow

NEAR = {"rtol": 0, "atol": 1e-6}
ROWS, LENGTH, VOCABULARY = 4, 9, 11


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def stand_in(**settings):
    """What the trainers' losses read of a trainer: one process, evaluation, nothing unusual."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    common = {
        "model": torch.nn.Identity().eval(), "accelerator": accelerator, "aux_loss_enabled": False,
        "precompute_ref_logps": True, "_metrics": defaultdict(lambda: defaultdict(list)), "_total_train_tokens": 0,
    }  # fmt: skip
    return SimpleNamespace(**common | settings)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def completions(rows, seed=0):
    """Masks of completions of other lengths after other prompts, shape (rows, LENGTH), and per-token log-probs."""
    generator = torch.Generator().manual_seed(seed)
    begins = torch.randint(1, 4, (rows, 1), generator=generator)
    ends = torch.randint(5, LENGTH + 1, (rows, 1), generator=generator)
    place = torch.arange(LENGTH)
    mask = ((place >= begins) & (place < ends)).long()
    logprobs = -random(rows, LENGTH - 1, seed=seed + 1).abs() * mask[:, 1:]  # zero where there is no completion
    return mask, logprobs


def said(logprobs):
    """A model that answers with these log-probabilities, whatever it is asked."""
    output = SimpleNamespace(
        log_probs=logprobs,
        entropy=torch.zeros_like(logprobs),
        mean_logits=torch.zeros_like(logprobs),
        is_top1=torch.zeros_like(logprobs, dtype=torch.bool),
    )
    return lambda **inputs: output


@pytest.mark.parametrize(
    ("theirs", "ours", "smoothing"),
    [("sigmoid", "dpo", 0.0), ("ipo", "ipo", 0.0), ("hinge", "hinge", 0.0), ("robust", "robust", 0.1)],
)
def test_dpo_and_its_variants_are_those_of_trl(theirs, ours, smoothing):
    from trl import DPOTrainer

    mask, logprobs = completions(2 * ROWS)
    logprobs.requires_grad_()
    reference = 4 * random(2 * ROWS, seed=7) - 5
    trainer = stand_in(
        ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[theirs], loss_weights=[1.0], beta=0.3,
        label_smoothing=smoothing, use_weighting=False,
    )  # fmt: skip
    ids = torch.zeros_like(mask)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask} | {
        "ref_chosen_logps": reference[:ROWS], "ref_rejected_logps": reference[ROWS:],
    }  # fmt: skip
    wanted = DPOTrainer._compute_loss(trainer, said(logprobs), inputs, False)
    sums, lengths = logprobs.sum(1), mask.sum(1)
    found = preference_losses(
        ours, sums[:ROWS], sums[ROWS:], reference[:ROWS], reference[ROWS:], beta=0.3, smoothing=smoothing,
        chosen_lengths=lengths[:ROWS], rejected_lengths=lengths[ROWS:],
    ).mean()  # fmt: skip
    torch.testing.assert_close(found, wanted, **NEAR)
    gradients = [torch.autograd.grad(each, logprobs)[0] for each in (found, wanted)]
    torch.testing.assert_close(*gradients, **NEAR)
    assert gradients[0].any()


def test_orpo_is_that_of_trl():
    from trl.experimental.orpo import ORPOTrainer

    chosen, rejected = -random(6).abs() - 0.01, -random(6, seed=1).abs() - 0.01
    wanted = ORPOTrainer.odds_ratio_loss(stand_in(beta=0.2), chosen, rejected)[0]
    torch.testing.assert_close((-0.2 * odds_ratio_losses(chosen, rejected)).float(), wanted, **NEAR)


def test_simpo_is_that_of_trl():
    from trl.experimental.cpo import CPOTrainer

    chosen, rejected, ones = -random(6).abs(), -random(6, seed=1).abs(), torch.ones(6)
    trainer = stand_in(alpha=0.0, loss_type="simpo", beta=2.0, simpo_gamma=0.5, label_smoothing=0.0)
    wanted = CPOTrainer.cpo_loss(trainer, chosen, rejected)[0]
    found = preference_losses(
        "simpo", chosen, rejected, beta=2.0, gamma=0.5, chosen_lengths=ones, rejected_lengths=ones
    )
    torch.testing.assert_close(found, wanted, **NEAR)


@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_kto_is_that_of_trl(shift):
    from trl import KTOTrainer

    mask, logprobs = completions(6)
    logprobs.requires_grad_()
    good, reference = torch.tensor([1, 0, 1, 1, 0, 1]), 3 * random(6, seed=7) - 4
    mismatched, reference_mismatched = random(6, seed=8) + shift, random(6, seed=9)
    trainer = stand_in(
        calculate_KL=True, loss_type="kto", beta=0.3, desirable_weight=1.33, undesirable_weight=0.8,
        _compute_kl_logps=lambda model, batch: mismatched,
    )  # fmt: skip
    ids = torch.zeros_like(mask)
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask, "label": good,
        "ref_logps": reference, "ref_KL_logps": reference_mismatched,
    }  # fmt: skip
    wanted = KTOTrainer._compute_loss(trainer, said(logprobs), inputs, False)
    baseline = kto_baseline(mismatched - reference_mismatched)
    found = kto_losses(
        logprobs.sum(1) - reference, good.bool(), baseline, beta=0.3, desirable_weight=1.33, undesirable_weight=0.8
    ).mean()
    torch.testing.assert_close(found, wanted, **NEAR)
    torch.testing.assert_close(*(torch.autograd.grad(each, logprobs)[0] for each in (found, wanted)), **NEAR)


def test_the_reward_loss_is_that_of_trl():
    from trl import RewardTrainer

    rewards, margins = random(10).requires_grad_(), random(5, seed=1)
    trainer = stand_in(args=SimpleNamespace(center_rewards_coefficient=0.01))
    inputs = {"margin": margins, "attention_mask": torch.ones(10, 3)}
    wanted = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=rewards[:, None]), inputs)
    found = bradley_terry_losses(rewards[:5], rewards[5:], margins, 0.01).mean()
    torch.testing.assert_close(found, wanted, **NEAR)
    torch.testing.assert_close(*(torch.autograd.grad(each, rewards)[0] for each in (found, wanted)), **NEAR)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(
    ("theirs", "level", "dual", "how"),
    [
        ("grpo", "token", None, "sequence-mean"),
        ("grpo", "sequence", None, "sequence-mean"),
        ("dr_grpo", "token", None, "dr-grpo"),
        ("dapo", "token", None, "token-mean"),
        ("dapo", "token", 1.5, "token-mean"),
        ("cispo", "token", None, "token-mean"),
    ],
)
def test_grpo_and_its_variants_are_those_of_trl(theirs, level, dual, how, beta):
    from trl import GRPOTrainer

    mask, _ = completions(ROWS)
    new = (-random(ROWS, LENGTH, seed=2).abs()).requires_grad_()
    old = new.detach() + 0.4 * random(ROWS, LENGTH, seed=3)
    reference = new.detach() + 0.5 * random(ROWS, LENGTH, seed=4)
    advantages = random(ROWS, seed=5)
    trainer = stand_in(
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new), None),
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level=level, beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=dual, steps_per_generation=1), loss_type=theirs,
        epsilon_low=0.2, epsilon_high=1.28 if theirs == "cispo" else 0.28, use_vllm=False, max_completion_length=12,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(ROWS, 1), "prompt_mask": torch.ones(ROWS, 1), "advantages": advantages,
        "completion_ids": torch.zeros_like(mask), "completion_mask": mask, "num_items_in_batch": mask.sum(),
        "old_per_token_logps": old, "ref_per_token_logps": reference,
    }  # fmt: skip
    wanted = GRPOTrainer._compute_loss(trainer, None, inputs)

    answer = torch.arange(ROWS).repeat_interleave(LENGTH)
    valid, each = mask.bool().flatten(), (new.flatten(), old.flatten(), advantages[answer])
    if theirs == "cispo":
        losses, clipped = cispo_losses(*each, clip_low=1.0, clip_high=0.28)
    elif level == "sequence":
        ratios = sequence_log_ratios(each[0], each[1], answer, valid)
        losses, clipped = clipped_ratio_losses(ratios, each[2], clip_low=0.2, clip_high=0.28)
    else:
        losses, clipped = clipped_policy_losses(*each, clip_low=0.2, clip_high=0.28, dual_clip=dual)
    losses = losses + beta * k3(new.flatten(), reference.flatten())
    found = aggregate(losses, answer, valid, how, tokens=int(valid.sum()), answers=ROWS, longest=12)
    torch.testing.assert_close(found, wanted, **NEAR)
    torch.testing.assert_close(*(torch.autograd.grad(each, new)[0] for each in (found, wanted)), **NEAR)
    if theirs != "cispo" and level == "token" and dual is None:
        share = trainer._metrics["eval"]["clip_ratio/region_mean"][0]
        assert (clipped & valid).sum().item() / valid.sum().item() == pytest.approx(share) and share > 0


def test_group_advantages_are_those_of_trl():
    from trl.trainer.utils import nanstd

    rewards = random(3, 4)
    rewards[1] = 0.3
    wanted = (rewards - rewards.mean(1, keepdim=True)) / (nanstd(rewards, dim=1, keepdim=True) + 1e-4)
    found = group_advantages(rewards.flatten(), torch.arange(3).repeat_interleave(4), "grpo")
    torch.testing.assert_close(found, wanted.flatten(), **NEAR)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("kind", "beta"), [("forward", 0.0), ("reverse", 1.0), ("jsd", 0.3)])
def test_distillation_is_that_of_trl(kind, beta, temperature):
    from trl.experimental.gkd import GKDTrainer

    student, head, teacher = random(7, 5).requires_grad_(), random(VOCABULARY, 5, seed=1), random(7, VOCABULARY, seed=2)
    wanted = GKDTrainer.generalized_jsd_loss(
        (student @ head.t())[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
    )
    found = distillation_losses(
        student, head, teacher, temperature=temperature, kind=kind, beta=beta, scaled=False
    ).sum()
    torch.testing.assert_close(found, wanted, **NEAR)
    torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (found, wanted)), **NEAR)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_entropies_are_those_of_trl(temperature):
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    states, head = random(20, 5), random(VOCABULARY, 5, seed=1)
    targets = torch.arange(20) % VOCABULARY
    logprobs, entropies = token_logprobs(states, head, targets, temperature=temperature)
    logits = (states @ head.t())[None]
    wanted = selective_log_softmax(logits, targets[None], temperature=temperature)
    torch.testing.assert_close(logprobs, wanted[0], **NEAR)
    torch.testing.assert_close(entropies, entropy_from_logits(logits / temperature)[0], **NEAR)
