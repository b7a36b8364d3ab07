"""A saved prefix is found again in another scheduler, and a file that is not one is refused."""

import json
import struct
from pathlib import Path

import pytest
from hash_runner import HashRunner
from hypothesis import given
from hypothesis import strategies as st

from cadran.engine.prefix_file import MAGIC
from cadran.engine.request import Request
from cadran.engine.sampler import SamplingParams
from cadran.engine.scheduler import Scheduler
from cadran.errors import UserError

PROMPT = (*range(10), 3, 1, 4, 1)
GREEDY = SamplingParams(temperature=0, max_tokens=5)


def answered(scheduler: Scheduler, prompt: tuple[int, ...] = PROMPT) -> tuple[list[int], int]:
    """Greedy tokens after a prompt, and how much of it was cached."""
    scheduler.add(Request(0, prompt, GREEDY))
    tokens, cached = [], 0
    while not scheduler.idle:
        for produced in scheduler.step():
            tokens += [scored.token for scored in produced.tokens]
            cached += produced.cached
    return tokens, cached


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file with the prompt."""
    scheduler = Scheduler(HashRunner())
    answered(scheduler)
    # The last block, filled in part by the prompt, goes on with the answer.
    assert scheduler.save(tmp_path / "prompt.kv", PROMPT, "model") == len(PROMPT)
    return tmp_path / "prompt.kv"


def test_a_saved_prefix_is_not_read_again_and_gives_the_same_answer(saved: Path) -> None:
    scheduler = Scheduler(HashRunner())
    expected = answered(Scheduler(HashRunner()))[0]
    assert scheduler.load(saved, "model") == len(PROMPT)
    assert answered(scheduler) == (expected, len(PROMPT) - 1)
    scheduler, longer = Scheduler(HashRunner()), (*PROMPT, 5, 5)
    scheduler.load(saved, "model")
    assert answered(scheduler, longer) == (answered(Scheduler(HashRunner()), longer)[0], len(PROMPT))


def test_saving_and_loading_keep_no_block(saved: Path, tmp_path: Path) -> None:
    runner = HashRunner()
    scheduler = Scheduler(runner)
    scheduler.load(saved, "model")
    scheduler.load(saved, "model")
    scheduler.save(tmp_path / "again.kv", PROMPT, "model")
    assert scheduler.free_blocks == runner.blocks
    scheduler.residents.tree.clear()
    assert scheduler.residents.pool.free == runner.blocks


def test_the_file_depends_on_the_prefix_alone_and_says_nothing_of_others(saved: Path, tmp_path: Path) -> None:
    scheduler = Scheduler(HashRunner(blocks=9))
    answered(scheduler, (*PROMPT[:13], 9, 9, 9, 9))
    answered(scheduler, (*PROMPT, 8, 8, 8, 8))
    scheduler.save(tmp_path / "other.kv", PROMPT, "model")
    assert (tmp_path / "other.kv").read_bytes() == saved.read_bytes()


def test_of_a_prefix_that_is_not_known_nothing_is_written(tmp_path: Path) -> None:
    scheduler = Scheduler(HashRunner())
    answered(scheduler)
    assert scheduler.save(tmp_path / "no.kv", (9, 9), "model") == 0
    assert not (tmp_path / "no.kv").exists()
    assert scheduler.save(tmp_path / "part.kv", (0, 1, 2, 9), "model") == 3
    assert Scheduler(HashRunner()).load(tmp_path / "part.kv", "model") == 3


def test_as_much_is_loaded_as_there_is_room_for(saved: Path) -> None:
    runner = HashRunner(blocks=2)
    scheduler = Scheduler(runner)
    assert scheduler.load(saved, "model") == 8
    assert scheduler.free_blocks == 2


@pytest.mark.parametrize(
    ("runner", "model", "complaint"),
    [
        (HashRunner(), "other", "another model"),
        (HashRunner(block_size=8), "model", "blocks of 4"),
        (HashRunner(vocabulary=5), "model", "ids that the model does not know"),
    ],
)
def test_a_file_of_something_else_is_refused(saved: Path, runner: HashRunner, model: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Scheduler(runner).load(saved, model)
    with pytest.raises(UserError, match="cannot be read"):
        Scheduler(runner).load(saved.with_name("none"), model)


@given(data=st.data())
def test_a_damaged_file_is_refused_and_leaks_nothing(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    first = Scheduler(HashRunner())
    answered(first)
    first.save(folder / "file.kv", PROMPT, "model")
    content = bytearray((folder / "file.kv").read_bytes())
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    (folder / "file.kv").write_bytes(content)
    runner = HashRunner()
    scheduler = Scheduler(runner)
    with pytest.raises(UserError):
        scheduler.load(folder / "file.kv", "model")
    assert scheduler.residents.pool.free == runner.blocks and (runner.memory == -1).all()


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 2**39},
        {"tokens": 0},
        {"tokens": -3},
        {"tokens": True},
        {"tokens": 14.0},
        {"block_bytes": 2**39},
        {"version": 2},
        {"sha256": None},
        {"extra": 1},
    ],
)
def test_a_header_with_impossible_numbers_is_refused(saved: Path, change: dict[str, object]) -> None:
    content = saved.read_bytes()
    start = len(MAGIC) + 4
    (length,) = struct.unpack_from("<I", content, len(MAGIC))
    header = json.dumps(json.loads(content[start : start + length]) | change).encode()
    saved.write_bytes(MAGIC + struct.pack("<I", len(header)) + header + content[start + length :])
    with pytest.raises(UserError):
        Scheduler(HashRunner()).load(saved, "model")


@pytest.mark.parametrize("header", [b"[" * 60_000, b"null", b'{"tokens": 1' + b"0" * 5000 + b"}", b"\xff\xfe"])
def test_a_strange_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "strange.kv"
    path.write_bytes(MAGIC + struct.pack("<I", len(header)) + header)
    with pytest.raises(UserError, match="no saved prefix"):
        Scheduler(HashRunner()).load(path, "model")
