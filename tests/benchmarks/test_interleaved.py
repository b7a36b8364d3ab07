import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

FILE = Path(__file__).parents[2] / "benchmarks" / "interleaved.py"
spec = importlib.util.spec_from_file_location("interleaved", FILE)
interleaved = importlib.util.module_from_spec(spec)
sys.modules["interleaved"] = interleaved
spec.loader.exec_module(interleaved)

QUIET = interleaved.Machine("a processor", 2, "2.13", 350.0, 60.0)


def script(figures, calls=None):
    """Sides which return their figures one by one and note who was called."""

    def side(name, values):
        queue = iter(values)

        def run():
            if calls is not None:
                calls.append(name)
            return next(queue)

        return run

    return {name: side(name, values) for name, values in figures.items()}


def test_every_round_calls_each_side_once_and_rotates_who_goes_first():
    calls = []
    interleaved.interleave(script({"A": [1] * 4, "B": [1] * 4, "C": [1] * 4}, calls), 4)
    assert "".join(calls) == "ABC" + "BCA" + "CAB" + "ABC"


def test_figures_stay_with_their_side_in_round_order():
    result = interleaved.interleave(script({"A": [1, 2, 3], "B": [4, 5, 6]}), 3)
    assert result.figures == {"A": (1, 2, 3), "B": (4, 5, 6)}
    assert list(result.figures) == ["A", "B"]


def test_ratios_are_taken_round_by_round():
    # The machine halves its speed in round 2; the ratio of medians would be 100 / 100, that of the rounds 2.
    result = interleaved.interleave(script({"peer": [100, 50, 110], "ours": [200, 100, 99]}), 3)
    assert result.spreads()["peer"] == interleaved.Spread(100, 50, 110)
    assert result.ratios("peer") == {
        "peer": interleaved.Spread(1, 1, 1),
        "ours": interleaved.Spread(2, pytest.approx(0.9), 2),
    }


@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 1e6)), min_size=1, max_size=9), st.floats(0.01, 100))
def test_ratios_do_not_move_when_every_figure_scales(rounds, scale):
    figures = {"A": [a for a, _ in rounds], "B": [b for _, b in rounds]}
    scaled = {name: [scale * value for value in values] for name, values in figures.items()}
    plain = interleaved.interleave(script(figures), len(rounds)).ratios("A")["B"]
    other = interleaved.interleave(script(scaled), len(rounds)).ratios("A")["B"]
    assert (other.min, other.median, other.max) == pytest.approx((plain.min, plain.median, plain.max))
    assert plain.min <= plain.median <= plain.max


@pytest.mark.parametrize("figure", [0.0, -1.0, float("nan"), float("inf")])
def test_figure_without_a_ratio_names_its_side(figure):
    with pytest.raises(ValueError, match="'B'"):
        interleaved.interleave({"A": lambda: 1.0, "B": lambda: figure}, 1)


@pytest.mark.parametrize(("sides", "rounds"), [({}, 1), ({"A": lambda: 1.0}, 0)])
def test_nothing_to_run_is_refused(sides, rounds):
    with pytest.raises(ValueError, match="at least one"):
        interleaved.interleave(sides, rounds)


def test_benchmark_prints_the_table_and_writes_all_figures(tmp_path):
    printed = io.StringIO()
    machines = iter([QUIET, interleaved.Machine("a processor", 2, "2.13", 150.0, 30.0)])
    path = tmp_path / "results" / "speed.json"
    interleaved.benchmark(
        script({"peer": [1000, 1100], "ours": [1500, 1375]}),
        2,
        baseline="peer",
        unit="tokens/s",
        path=path,
        machine=lambda: next(machines),
        console=Console(file=printed, width=120),
    )
    assert "a processor, 2 threads, torch 2.13, GEMM fp32 350 and bf16 60 GFLOP/s" in printed.getvalue()
    assert "1.375" in printed.getvalue()
    assert "1.250 .. 1.500" in printed.getvalue()
    written = json.loads(path.read_text())
    assert written["figures"] == {"peer": [1000, 1100], "ours": [1500, 1375]}
    assert written["ratios"]["ours"] == {"median": 1.375, "min": 1.25, "max": 1.5}
    assert (written["baseline"], written["unit"]) == ("peer", "tokens/s")
    assert [written["machine"][when]["fp32_gflops"] for when in ("before", "after")] == [350, 150]
    assert list(path.parent.iterdir()) == [path]


def test_unknown_baseline_is_found_before_anything_runs(tmp_path):
    calls = []
    with pytest.raises(ValueError, match="'nobody'"):
        interleaved.benchmark(
            script({"A": [1]}, calls), 1, baseline="nobody", unit="s", path=tmp_path / "a.json", machine=lambda: QUIET
        )
    assert not calls


def test_machine_is_measured_without_changing_the_thread_count():
    threads = torch.get_num_threads()
    machine = interleaved.measure_machine(threads=threads + 1, size=64, repeats=2)
    assert torch.get_num_threads() == threads
    assert machine.threads == threads + 1
    assert machine.torch == torch.__version__
    assert machine.fp32_gflops > 0
    assert machine.bf16_gflops > 0
