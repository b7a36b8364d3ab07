"""Distillation: the golden numbers, the same as whole logits in any pieces, and exact under accumulation."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.align import distillation
from cadran.align.distillation import DistillationObjective, Divergence, distillation_losses
from cadran.corpus.shards import EncodedDocument, TokenShard, write_shard
from cadran.errors import UserError
from cadran.model.attention import document_bias
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.train import loss
from cadran.train.loader import Batch, TokenLoader
from cadran.train.next_token import NextToken

KINDS: tuple[Divergence, ...] = get_args(Divergence)
VOCABULARY = 13


def f64(values: list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def case(seed: int, positions: int = 9) -> tuple[torch.Tensor, ...]:
    """Student's states and head, teacher's states and head, of other widths."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((positions, 6), (VOCABULARY, 6), (positions, 4), (VOCABULARY, 4))
    student, head, teacher, teacher_head = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return student.requires_grad_(), head.requires_grad_(), teacher, teacher_head


def plain(
    student: torch.Tensor, teacher: torch.Tensor, kind: Divergence, temperature: float = 1.0, beta: float = 0.5
) -> torch.Tensor:
    """From whole logits, by the definitions, in probabilities."""
    q, p = torch.softmax(student / temperature, -1), torch.softmax(teacher / temperature, -1)
    if kind == "forward":
        return (p * (p / q).log()).sum(-1)
    if kind == "reverse":
        return (q * (q / p).log()).sum(-1)
    m = beta * p + (1 - beta) * q
    return beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)


def capped(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize(
    ("kind", "temperature", "expected"),
    [
        ("forward", 1.0, 0.266217),
        ("reverse", 1.0, 0.308994),
        ("jsd", 1.0, 0.068712),
        ("forward", 2.0, 0.078421),
        ("reverse", 2.0, 0.081657),
        ("jsd", 2.0, 0.019796),
    ],
)
def test_divergences_have_the_golden_numbers(kind: Divergence, temperature: float, expected: float) -> None:
    student, teacher = f64([[1, 1, 1]]), f64([[2, 1, 0]])
    identity = torch.eye(3, dtype=torch.float64)
    found = distillation_losses(student, identity, teacher, temperature=temperature, kind=kind, scaled=False)
    assert found.item() == pytest.approx(expected, abs=1e-6)
    scaled = distillation_losses(student, identity, teacher, temperature=temperature, kind=kind)
    assert scaled.item() == pytest.approx(temperature**2 * found.item())


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Two positions at a time; yields the sizes of all logits that were made."""
    monkeypatch.setattr(loss, "PIECE", 2)
    sizes: list[int] = []
    original = distillation._log_probabilities

    def watched(logits: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(logits.shape[0])
        return original(logits, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(distillation, "_log_probabilities", watched)
    yield sizes


@pytest.mark.parametrize("caps", [(None, None), (0.7, 3.0)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_give_the_losses_and_gradients_of_whole_logits(
    kind: Divergence, temperature: float, caps: tuple[float | None, float | None], small_pieces: list[int]
) -> None:
    student, head, teacher, teacher_head = case(1)
    weights = torch.linspace(-1, 2, 9, dtype=torch.float64)  # a weight for each position, not one for all
    found = distillation_losses(
        student, head, teacher, teacher_head, temperature=temperature, kind=kind, beta=0.3, cap=caps[0],
        teacher_cap=caps[1],
    )  # fmt: skip
    ours = torch.autograd.grad((found * weights).sum(), (student, head))
    logits, target = capped(student @ head.t(), caps[0]), capped(teacher @ teacher_head.t(), caps[1])
    wanted = temperature**2 * plain(logits, target, kind, temperature, 0.3)
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(ours, torch.autograd.grad((wanted * weights).sum(), (student, head)), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert max(small_pieces) == 2 and sum(small_pieces) == 9 * 4  # two models, forward and backward


@pytest.mark.parametrize("kind", KINDS)
def test_distillation_passes_finite_differences(kind: Divergence) -> None:
    student, head, teacher, teacher_head = case(2, 4)
    assert torch.autograd.gradcheck(
        lambda s, h: distillation_losses(s, h, teacher, teacher_head, temperature=1.7, kind=kind, cap=2.0),
        (student, head),
    )


def test_the_teacher_may_come_as_logits_and_never_gets_a_gradient() -> None:
    student, head, teacher, teacher_head = case(3)
    teacher.requires_grad_()
    teacher_head.requires_grad_()
    found = distillation_losses(student, head, teacher, teacher_head)
    found.sum().backward()
    assert teacher.grad is None and teacher_head.grad is None and student.grad is not None
    torch.testing.assert_close(distillation_losses(student, head, teacher @ teacher_head.t()), found)


def test_a_frozen_head_costs_no_gradient() -> None:
    student, head, teacher, teacher_head = case(3)
    whole = torch.autograd.grad(distillation_losses(student, head, teacher, teacher_head).sum(), student)[0]
    alone = distillation_losses(student, head.detach(), teacher, teacher_head)
    torch.testing.assert_close(torch.autograd.grad(alone.sum(), student)[0], whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind: Divergence) -> None:
    student, head, _, _ = case(4)
    found = distillation_losses(student, head, student.detach(), head.detach(), kind=kind, temperature=3.0)
    gradients = torch.autograd.grad(found.sum(), (student, head))
    for each in (found, *gradients):
        torch.testing.assert_close(each, torch.zeros_like(each), rtol=0, atol=1e-12)


@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS), size=st.floats(0.1, 30), beta=st.floats(0.01, 0.99))
def test_divergences_are_not_negative_and_the_mixture_bounds_jsd(
    seed: int, kind: Divergence, size: float, beta: float
) -> None:
    student, head, teacher, teacher_head = case(seed, 3)
    found = distillation_losses(size * student, head, teacher, size * teacher_head, kind=kind, beta=beta)
    assert found.min() > -1e-12
    if kind == "jsd":
        assert found.max() <= -beta * math.log(beta) - (1 - beta) * math.log(1 - beta) + 1e-12


def test_jsd_leans_to_the_forward_and_the_reverse_divergence_at_its_ends() -> None:
    student, head, teacher, teacher_head = case(5)
    for beta, kind in ((1e-7, "forward"), (1 - 1e-7, "reverse")):
        mixed = distillation_losses(student, head, teacher, teacher_head, kind="jsd", beta=beta) / 1e-7
        end = distillation_losses(student, head, teacher, teacher_head, kind=kind)  # type: ignore[arg-type]
        torch.testing.assert_close(mixed, end, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_huge_logits_stay_finite(kind: Divergence) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 1e4]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, 0.0, -1e4]])
    found = distillation_losses(student, torch.eye(3), teacher, kind=kind)
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(student.grad).all()
    if kind == "jsd":
        torch.testing.assert_close(found, torch.full((2,), math.log(2)))


def test_no_positions_give_no_losses() -> None:
    student, head, teacher, teacher_head = case(0, 0)
    found = distillation_losses(student, head, teacher, teacher_head)
    assert found.shape == (0,)
    found.sum().backward()
    assert head.grad is not None and not head.grad.any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "kl"}, "'kl' is no divergence"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"kind": "jsd", "beta": 1.0}, "beta is 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        distillation_losses(*case(0), **settings)  # type: ignore[arg-type]


def test_another_vocabulary_or_number_of_positions_is_refused() -> None:
    student, head, teacher, teacher_head = case(0)
    for wrong in ((teacher[:-1], teacher_head), (teacher, teacher_head[:-1])):
        with pytest.raises(ValueError, match="9 positions of 13 tokens against"):
            distillation_losses(student, head, *wrong)


CONFIG = ModelConfig(
    vocabulary=40, layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=32, context=16, tied=True
)


def model_of(seed: int, **changes: object) -> Transformer:
    """Noise in every weight: fresh models have zero output projections, and all their blocks would be the identity."""
    model = Transformer(replace(CONFIG, **changes), seed=seed)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> TokenShard:
    """Conversations of which only a part is to be learnt, in rows with padding."""
    generator = np.random.Generator(np.random.PCG64(0))
    documents = []
    for n in generator.integers(3, 15, 20):
        ids = generator.integers(1, 40, int(n) + 1)
        documents.append(EncodedDocument(ids, int(n), "en", np.arange(int(n) + 1) > n // 2))
    return write_shard(tmp_path_factory.mktemp("shard"), documents, 40)


def loader_of(shard: TokenShard, rows: int = 5) -> TokenLoader:
    return TokenLoader(shard, CONFIG.context, rows, seed=3, split=False)


def gradients_of(model: Transformer) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_objective_is_the_mean_over_the_targets_that_count_whatever_the_micro_batch(
    shard: TokenShard, kind: Divergence
) -> None:
    model, teacher = model_of(1), model_of(2, width=24, heads=3, tied=False)
    loader = loader_of(shard)
    batch = loader.batch(2)
    assert 0 < batch.valid < int((batch.segments >= 0).sum())
    bias = document_bias(batch.segments, torch.float32)
    chosen = batch.targets >= 0
    logits, said = (each.logits(each.hidden_states(batch.ids, bias))[chosen] for each in (model, teacher))
    divergence = 4 * plain(logits, said.detach(), kind, 2.0, 0.4).mean()
    entropy = torch.nn.functional.cross_entropy(logits, batch.targets[chosen])
    (0.7 * divergence + 0.3 * entropy).backward()
    wanted = gradients_of(model)
    for micro in (5, 2, 1):
        objective = DistillationObjective(
            model, teacher, loader.batch, micro=micro, mix=0.7, temperature=2.0, kind=kind, beta=0.4
        )
        learnt = objective.gradients(2)
        assert learnt.figures == pytest.approx(
            {"distillation": divergence.item(), "cross_entropy": entropy.item()}, rel=1e-5
        )
        assert learnt.loss == pytest.approx(0.7 * divergence.item() + 0.3 * entropy.item(), rel=1e-5)
        assert learnt.tokens == batch.ids.numel() and learnt.named.startswith("documents ")
        for mine, theirs in zip(gradients_of(model), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_without_distillation_it_is_the_objective_of_sft(shard: TokenShard) -> None:
    model, loader = model_of(1), loader_of(shard)
    alone = NextToken(model, loader, 2).gradients(1)
    wanted = gradients_of(model)
    learnt = DistillationObjective(model, model_of(2), loader.batch, micro=2, mix=0.0).gradients(1)
    assert learnt.loss == pytest.approx(alone.loss, rel=1e-6) and learnt.figures["distillation"] > 0
    for mine, theirs in zip(gradients_of(model), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_with_distillation_alone_the_targets_do_not_matter(shard: TokenShard) -> None:
    model, teacher, loader = model_of(1), model_of(2), loader_of(shard)
    batch = loader.batch(0)
    found = []
    for shift in (0, 7):
        targets = torch.where(batch.targets >= 0, (batch.targets + shift) % 40, batch.targets)
        other = replace(batch, targets=targets)
        learnt = DistillationObjective(model, teacher, lambda step, rows=other: rows, micro=5, mix=1.0).gradients(0)
        found.append((learnt.loss, gradients_of(model)))
    assert found[0][0] == found[1][0] > 0
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_a_student_comes_near_its_teacher_on_rows_that_it_writes_itself() -> None:
    """On-policy: each step's rows are sampled from the student; the divergence is measured on fixed rows."""
    model, teacher = model_of(1), model_of(2)

    def sample(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 40, (4, 1), generator=generator)
        with torch.no_grad():
            for _ in range(5):
                likely = torch.softmax(model(ids)[:, -1], -1)
                ids = torch.cat([ids, torch.multinomial(likely, 1, generator=generator)], 1)
        return Batch(ids[:, :-1], ids[:, 1:], torch.zeros(4, 5, dtype=torch.int32), 20, [[], [], [], []])

    fixed = sample(10_000)
    objective = DistillationObjective(model, teacher, sample, micro=4, mix=1.0, temperature=1.0, kind="reverse")
    judge = DistillationObjective(model, teacher, lambda step: fixed, micro=4, mix=1.0, temperature=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)

    def judged() -> float:
        return judge.gradients(0).loss

    before = judged()
    for step in range(25):
        optimizer.zero_grad()
        learnt = objective.gradients(step)
        optimizer.step()
    assert learnt.named == "the rows that the student wrote at step 24"
    after = judged()
    assert after < 0.6 * before, (before, after)


def test_rows_with_nothing_to_learn_are_no_nan(shard: TokenShard) -> None:
    batch = loader_of(shard).batch(0)
    nothing = replace(batch, targets=torch.full_like(batch.targets, -100), valid=0)
    model = model_of(1)
    learnt = DistillationObjective(model, model_of(2), lambda step: nothing, micro=2).gradients(0)
    assert learnt.loss == 0.0 and gradients_of(model) == []


def test_a_teacher_of_another_vocabulary_or_a_shorter_context_is_refused(shard: TokenShard) -> None:
    loader = loader_of(shard)
    with pytest.raises(UserError, match="knows 40 tokens and the teacher 41; choose a teacher"):
        DistillationObjective(model_of(1), model_of(2, vocabulary=41), loader.batch, micro=1)
    objective = DistillationObjective(model_of(1), model_of(2, context=8), loader.batch, micro=1)
    with pytest.raises(UserError, match="16 tokens and the teacher reads 8; set the context to 8"):
        objective.gradients(0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mix": 1.5}, "mix is 1.5; give"),
        ({"temperature": 0.0}, "temperature is 0.0; give"),
        ({"kind": "jsd", "beta": 0.0}, "beta is 0.0; give"),
        ({"micro": 0}, "micro is 0; give"),
    ],
)
def test_settings_a_user_can_mend_say_how(shard: TokenShard, settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        DistillationObjective(model_of(1), model_of(2), loader_of(shard).batch, **({"micro": 1} | settings))  # type: ignore[arg-type]


def test_the_objective_keeps_no_state(shard: TokenShard) -> None:
    objective = DistillationObjective(model_of(1), model_of(2), loader_of(shard).batch, micro=1)
    first = objective.gradients(3).loss
    objective.gradients(4)
    objective.restore(objective.state())
    assert objective.gradients(3).loss == first and objective.period == 1
