"""Which precision a run takes: one disturbed measurement must not decide it."""

import itertools

import pytest

from cadran.train import machine


@pytest.mark.parametrize(("advantage", "chosen"), [(2.1, "bf16"), (1.1, "fp32")])
@pytest.mark.parametrize("disturbed", range(4))
def test_what_else_runs_does_not_decide_the_precision(
    monkeypatch: pytest.MonkeyPatch, advantage: float, chosen: str, disturbed: int
) -> None:
    turns = {"bf16": itertools.count(), "fp32": itertools.count()}

    def speed(precision: machine.Precision = "fp32", size: int = 1024, repeats: int = 9) -> float:
        whole = advantage if precision == "bf16" else 1.0
        return whole * (0.4 if next(turns[precision]) == disturbed else 1.0) * 1e11

    monkeypatch.setattr(machine, "matmul_speed", speed)
    assert machine.best_precision() == chosen
