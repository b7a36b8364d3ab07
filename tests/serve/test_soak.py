"""Many clients that connect, leave, cancel and send garbage: nothing leaks, nothing sticks, every answer is right."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from live import LiveServer
from soak import leaked_blocks, resident_megabytes, run_soak


def what_is_left(server: LiveServer) -> tuple[int, int, int, int]:
    """Requests that run, that wait, that use a model, and blocks that somebody has."""
    service = server.service
    running, waiting = server.call(lambda: (service.admission.running, service.admission.waiting))
    (users,) = server.call(lambda: [served.users for served in service.shelf.served])
    return running, waiting, users, leaked_blocks(server)


def check(tiny: Path, database: Path, seconds: float, clients: int, *, flat: bool) -> None:
    server = LiveServer(models=[str(tiny)], parallel=16, queue=200, database=f"sqlite:///{database}")
    try:
        asyncio.run(run_soak(server.url, min(seconds / 4, 30), clients))  # memory that is only needed once
        server.settle()
        before = resident_megabytes()
        soak = asyncio.run(run_soak(server.url, seconds, clients))
        server.settle()
        assert soak.wrong == []
        assert soak.done["_plain"] > 5 and soak.done["_streamed"] > 5 and soak.done["_leaves"] > 5
        deadline = time.monotonic() + 60
        while any(left := what_is_left(server)):  # a request whose client has left may have come in after the others
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        if flat:
            assert resident_megabytes() - before < 60, f"{before:.0f} MB became {resident_megabytes():.0f}"
    finally:
        server.close()


def test_a_few_seconds_of_bad_manners(tiny: Path, tmp_path: Path) -> None:
    check(tiny, tmp_path / "state.db", seconds=4, clients=12, flat=False)


@pytest.mark.slow
def test_ten_minutes_of_bad_manners(tiny: Path, tmp_path: Path) -> None:
    seconds = float(os.environ.get("CADRAN_SOAK_SECONDS", "600"))
    check(tiny, tmp_path / "state.db", seconds=seconds, clients=64, flat=True)
