"""The sides of dpo.py and rollouts.py do the same work, on a tiny model."""

import importlib.util
import math

import pytest
import torch

from align_peers.bench_files import write_files
from align_peers.own_dpo import OwnDpo
from align_peers.own_rollouts import OwnGrpo, OwnRollouts, Work, prompts_of, vowels

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("trl", "peft", "transformers")), reason="TRL is missing"
)

WORK = Work(prompts=2, answers=2, tokens=6)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second one
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("bench"), "", None, 16)


@pytest.mark.parametrize("cached", [True, False])
def test_both_sides_of_dpo_begin_at_ln_2_and_go_on_alike(files, cached):
    from align_peers.trl_dpo import TrlDpo

    ours = OwnDpo(files, 2, None, 0.1)
    theirs = TrlDpo(files, 2, cached, 0.1)
    losses = ours.first_losses(4)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(losses[3] - losses[0]) > 1e-4
    assert theirs.first_losses(4) == pytest.approx(losses, abs=2e-5)
    assert (theirs.reference_seconds > 0) == cached
    assert ours.turn(8, 4) > 0 and theirs.turn(8, 4) > 0
    assert len(theirs.losses) == len(theirs.clock.seconds) == 1 + 4 // 2


def test_a_base_in_8_bits_is_its_own_reference_in_every_step(files):
    side = OwnDpo(files, 2, 8, 0.1)
    assert side.first_losses(1) == [pytest.approx(math.log(2), abs=1e-6)]
    assert side.reference_seconds == 0


@pytest.mark.parametrize("source", ["int8", "f32", "torch"])
def test_own_rollouts_are_of_full_length_and_laying_out_is_part_of_the_time(files, source):
    found = OwnRollouts(files, source, WORK, 1).draw()
    assert 0 < found["packing"] < found["seconds"]


@pytest.mark.parametrize("static", [True, False])
def test_generate_draws_as_many_tokens(files, static):
    from align_peers.hf_generate import HfGenerate

    side = HfGenerate(files, static, WORK)
    assert side.ids.shape[0] == WORK.prompts * WORK.answers
    assert [ids[mask.bool()].tolist() for ids, mask in zip(side.ids, side.mask, strict=True)][::2] == [
        list(prompt.ids) for prompt in prompts_of(files, 1, WORK).batch(0)
    ]
    assert side.draw()["seconds"] > 0


def test_steps_of_grpo_are_of_the_same_size_and_alike_in_entropy(files):
    from align_peers.trl_grpo import TrlGrpo

    ours = OwnGrpo(files, "f32", 1, WORK, 2, 1, integers=False).turn()
    theirs = TrlGrpo(files, 2, WORK, 2).turn()
    for found in (ours, theirs):
        assert 0 < found["drawing"] < found["seconds"]
    assert 0 < ours["packing"] < ours["drawing"]
    assert theirs["entropy"] == pytest.approx(ours["entropy"], rel=0.2)
    assert 0 < ours["entropy"] < math.log(96)


def test_rewards_differ_between_answers():
    assert vowels("banana") == 0.5 and vowels("2 3") == pytest.approx(1 / 3) and vowels("") == 0
