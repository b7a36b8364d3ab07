"""Rows that a student writes: what it answers with the weights of that step, and nothing of it learnt as a target."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_policies import CONFIG, PARAMS, STOP, policy, prompts

from cadran.align.distillation import DistillationObjective
from cadran.align.on_policy import PartlyOwn, StudentRows, is_own, packed, shard_prompts
from cadran.align.prompt_loader import PromptLoader
from cadran.align.rollout import sample_rollouts
from cadran.align.rollout_engine import TorchRollouts
from cadran.corpus.shards import EncodedDocument, write_shard
from cadran.model.transformer import Transformer
from cadran.train.loader import PADDING_SEGMENT, Batch
from cadran.train.loss import IGNORED


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second one
    yield
    torch.set_num_threads(threads)


Conversations = list[tuple[tuple[int, ...], tuple[int, ...]]]
ID = st.integers(1, 9)
SOME = st.lists(st.tuples(st.lists(ID, min_size=1, max_size=9), st.lists(ID, min_size=1, max_size=7)), min_size=1)


@given(share=st.floats(0, 1), steps=st.integers(0, 200))
def test_so_many_steps_are_the_students_own_evenly_spread(share: float, steps: int) -> None:
    own = [is_own(step, share) for step in range(steps)]
    assert sum(own) == math.floor(steps * share)
    for length in (1, 7, 30):  # and in any stretch of them, one more or less
        for start in range(0, max(steps - length, 0), 11):
            assert abs(sum(own[start : start + length]) - length * share) < 1 + 1e-9


def test_nothing_and_everything_can_be_the_students_own() -> None:
    assert not any(is_own(step, 0.0) for step in range(50))
    assert all(is_own(step, 1.0) for step in range(50))
    assert [is_own(step, 0.25) for step in range(8)] == [False, False, False, True] * 2


@given(given_rows=SOME)
def test_packed_rows_hold_every_conversation_once_and_its_answer_as_targets(
    given_rows: list[tuple[list[int], list[int]]],
) -> None:
    conversations: Conversations = [(tuple(prompt), tuple(answer)) for prompt, answer in given_rows]
    batch = packed(conversations, 15, pad=0)
    assert batch.ids.shape[1] <= 15 and batch.valid == int((batch.targets != IGNORED).sum())
    found = []
    for ids, targets, segments in zip(batch.ids, batch.targets, batch.segments, strict=True):
        assert bool((ids[segments == PADDING_SEGMENT] == 0).all())
        for segment in range(int(segments.max()) + 1):
            mine = segments == segment
            read, learnt = ids[mine].tolist(), targets[mine].tolist()
            answer = [target for target in learnt if target != IGNORED]
            prompt = read[: len(read) - len(answer) + 1]
            assert read == [*prompt, *answer][:-1] and learnt == [IGNORED] * (len(prompt) - 1) + answer
            found.append((tuple(prompt), tuple(answer)))
    assert sorted(found) == sorted(conversations)


def test_a_conversation_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="a row 4"):
        packed([((1, 2, 3), (4, 5, 6))], 4)


def test_the_prompts_of_a_shard_go_up_to_the_last_answer(tmp_path: Path) -> None:
    flags = [[0, 0, 1, 1], [0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 1], [0, 0], [1, 1, 1]]
    documents = [EncodedDocument(np.arange(10, 10 + len(each)), 1, "en", np.array(each, dtype=bool)) for each in flags]
    found = shard_prompts(write_shard(tmp_path / "shard", documents, 40), longest=5)
    # Too long, without an answer, without a prompt: left out.
    assert [prompt.ids for prompt in found] == [(10, 11), (10, 11, 12, 13)]
    assert found[1].source == "document 1 of the shard"
    bare = [EncodedDocument(np.arange(4), 1, "en")]
    assert shard_prompts(write_shard(tmp_path / "bare", bare, 40), longest=5) == []


def rows_of(model: Transformer, count: int = 3) -> StudentRows:
    return StudentRows(TorchRollouts(model), PromptLoader(prompts(), count, 5), PARAMS, CONFIG.context, seed=9)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.ids, other.ids) and torch.equal(one.targets, other.targets)


def test_the_rows_are_what_the_student_says_at_that_step() -> None:
    model = policy()
    rows, loader = rows_of(model), PromptLoader(prompts(), 3, 5)
    batch = rows(4)
    said = sample_rollouts(TorchRollouts(model), loader.batch(4), 1, PARAMS, 9, 4, decode=str)
    expected = packed([(p.ids, a.ids) for p, a in zip(loader.batch(4), said, strict=True)], CONFIG.context)
    assert same(batch, expected) and batch.rows == [[] for _ in batch.rows]
    assert rows.length == sum(len(answer.ids) for answer in said) / 3
    assert rows.truncated == sum(answer.ids[-1] != STOP for answer in said) / 3


def test_they_depend_on_the_weights_and_the_step_and_on_nothing_that_was_drawn_before() -> None:
    rows = rows_of(policy())
    first = [rows(step) for step in (3, 0, 3, 4)]
    assert same(first[0], first[2]) and not same(first[0], first[3])
    torch.manual_seed(1)
    assert same(rows_of(policy())(3), first[0])
    assert not same(rows_of(policy(seed=1))(3), first[0])


def test_drawing_leaves_the_student_in_training() -> None:
    model = policy().train()
    rows_of(model)(0)
    assert model.training


def test_a_step_reads_either_given_rows_or_the_students_and_names_its_figures_apart() -> None:
    model, teacher = policy(seed=1, noise=0.5), policy(seed=2, noise=0.5)
    rows = rows_of(model)
    fixed = packed([((1, 2), (3, STOP)), ((4,), (5, 6, STOP))], CONFIG.context)
    given_rows = DistillationObjective(model, teacher, lambda step: fixed, micro=1, mix=0.3)
    own = DistillationObjective(model, teacher, rows, micro=1, mix=1.0)
    both = PartlyOwn(given_rows, own, rows, 0.5)

    def learnt(objective: DistillationObjective | PartlyOwn, step: int) -> tuple[float, dict[str, float], float]:
        model.zero_grad()
        found = objective.gradients(step)
        return (
            found.loss,
            found.figures,
            float(sum(p.grad.abs().sum() for p in model.parameters() if p.grad is not None)),
        )

    assert learnt(both, 0) == learnt(given_rows, 0)
    loss, figures, gradient = learnt(own, 1)
    assert learnt(both, 1)[0] == loss and learnt(both, 1)[2] == gradient > 0
    assert learnt(both, 1)[1] == {
        "own_distillation": figures["distillation"], "length": rows.length, "truncated_share": rows.truncated,
    }  # fmt: skip
    both.restore(both.state())
    assert both.period == 1 and both.state() == {}


def test_a_student_comes_near_its_teacher_where_it_goes_itself() -> None:
    model, teacher = policy(seed=1, noise=0.4), policy(seed=2, noise=0.4)
    rows = rows_of(model, 6)
    objective = DistillationObjective(model, teacher, rows, micro=6, mix=1.0, temperature=1.0, kind="reverse")
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    curve = []
    for step in range(30):
        optimizer.zero_grad()
        curve.append(objective.gradients(step).loss)
        optimizer.step()
    assert sum(curve[-5:]) < 0.5 * sum(curve[:5]), curve
