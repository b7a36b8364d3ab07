"""Muon: the update is close to the orthogonal factor of the momentum."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.train.muon import Muon, orthogonalise


@settings(max_examples=20)
@given(
    rows=st.integers(2, 40), columns=st.integers(2, 40), seed=st.integers(0, 100), scale=st.sampled_from([1e-6, 1, 1e5])
)
def test_singular_values_are_near_one(rows: int, columns: int, seed: int, scale: float) -> None:
    matrix = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed)) * scale
    singular = torch.linalg.svdvals(matrix)
    result = torch.linalg.svdvals(orthogonalise(matrix))
    kept = singular > 0.02 * singular.amax(-1, keepdim=True)  # what is negligible may stay small
    assert (result[kept] > 0.7).all() and (result < 1.25).all()


def test_bfloat16_is_exact_enough() -> None:
    matrix = torch.randn(4, 32, 48, generator=torch.Generator().manual_seed(0))
    exact, rounded = orthogonalise(matrix), orthogonalise(matrix, torch.bfloat16).float()
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    cosine = (exact * rounded).sum() / (exact.norm() * rounded.norm())
    assert cosine > 0.995
    singular = torch.linalg.svdvals(rounded)
    assert (singular > 0.6).all() and (singular < 1.3).all()


def test_direction_is_that_of_the_singular_vectors() -> None:
    matrix = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix[0], full_matrices=False)
    ours = orthogonalise(matrix)[0].double()
    cosine = (ours * (u @ vt)).sum() / (ours.norm() * (u @ vt).norm())
    assert cosine > 0.99


def test_matrices_of_one_shape_are_treated_alike_together_and_apart() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(6, 4, generator=generator) for _ in range(3)]
    gradients = [torch.randn(6, 4, generator=generator) for _ in range(3)]

    def stepped(groups: list[list[int]]) -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(w.clone()) for w in weights]
        for group in groups:
            optimizer = Muon([parameters[i] for i in group], lr=0.1, weight_decay=0.1)
            for i in group:
                parameters[i].grad = gradients[i].clone()
            optimizer.step()
        return [p.detach() for p in parameters]

    for together, apart in zip(stepped([[0, 1, 2]]), stepped([[0], [1], [2]]), strict=True):
        assert torch.allclose(together, apart, atol=1e-6)


def test_zero_gradient_changes_nothing_and_makes_no_nan() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, 5))
    parameter.grad = torch.zeros(3, 5)
    Muon([parameter], lr=0.1).step()
    assert torch.equal(parameter.detach(), torch.ones(3, 5))
