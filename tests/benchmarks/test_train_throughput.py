import os
import sys
from pathlib import Path

import pytest

import train_throughput
from interleaved import Spread
from train_throughput import DEFAULT, HUGE
from worker import Worker, WorkerFailed

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def worker(answer, environment=None):
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import os; from worker import serve; serve({answer})"
    return Worker("a side", [sys.executable, "-c", code], environment or {})


def test_worker_answers_each_request_in_order():
    with worker("lambda line: line.upper()") as side:
        assert [side.ask(word) for word in ("one", "two")] == ["ONE", "TWO"]


def test_worker_prints_do_not_disturb_its_answers():
    with worker("lambda line: [print('noise'), os.system('echo more noise'), 3][2]") as side:
        assert [side.ask("go"), side.ask("go")] == [3, 3]


def test_worker_error_names_the_side_and_leaves_it_usable():
    with worker("lambda line: 6 / int(line)") as side:
        with pytest.raises(WorkerFailed, match="a side: ZeroDivisionError: division by zero"):
            side.ask("0")
        assert side.ask("3") == 2


def test_worker_that_dies_is_reported():
    with worker("lambda line: os._exit(7)") as side, pytest.raises(WorkerFailed, match="status 7"):
        side.ask("go")


def test_worker_environment_sets_and_removes(monkeypatch):
    monkeypatch.setenv("REMOVED", "1")
    environment = {"ADDED": "yes", "REMOVED": None}
    with worker("lambda line: os.environ.get(line)", environment) as side:
        assert (side.ask("ADDED"), side.ask("REMOVED")) == ("yes", None)
    assert os.environ["REMOVED"] == "1"


def test_closed_worker_ends_by_itself(monkeypatch):
    monkeypatch.setattr("worker.PATIENCE", 60.0)
    side = worker("lambda line: os.getpid()")
    pid = side.ask("go")
    side.close()
    assert side._process.returncode == 0  # and not by force
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_first_allocator_is_the_one_its_users_have():
    assert train_throughput.allocators("ours compile", default_malloc=False, one_column=False) == [HUGE, DEFAULT]
    assert train_throughput.allocators("litgpt", default_malloc=False, one_column=False) == [DEFAULT, HUGE]
    assert train_throughput.allocators("litgpt", default_malloc=False, one_column=True) == [DEFAULT]
    assert train_throughput.allocators("ours", default_malloc=True, one_column=False) == [DEFAULT]


def test_bars_take_the_best_of_each_camp_under_its_own_allocator():
    speeds = {
        ("ours", HUGE): (130.0, 140.0, 150.0),
        ("ours", DEFAULT): (999.0, 999.0, 999.0),
        ("ours bf16", HUGE): (999.0, 999.0, 999.0),
        ("transformers", DEFAULT): (100.0, 100.0, 100.0),
        ("litgpt", DEFAULT): (120.0, 140.0, 125.0),
        ("litgpt", HUGE): (160.0, 160.0, 160.0),
    }
    found = train_throughput.bars(speeds, {("ours", HUGE): Spread(0.7, 0.6, 0.8)})
    assert [(bar.ratio, bar.least) for bar in found] == [
        (Spread(0.7, 0.6, 0.8), 0.7),
        (Spread(1.4, 1.3, 1.5), 1.3),
        (Spread(pytest.approx(130 / 120), 1.0, 1.2), 1.05),
        (Spread(0.875, 0.8125, 0.9375), None),
    ]
    assert [line.rpartition(" ")[2] for line in (bar.line() for bar in found[:3])] == ["met", "met", "met"]


def test_missed_bar_is_said_aloud():
    assert (
        train_throughput.Bar("a / b", Spread(1.2, 1.1, 1.3), 1.3).line()
        == "a / b: 1.200 (1.100 .. 1.300), bar 1.30 MISSED"
    )


def test_unknown_side_is_refused(capsys):
    assert train_throughput.main(["--sides", "ours,nobody"]) == 2
    assert "'nobody'" in capsys.readouterr().err
