"""The keys and values of a sequence's beginning in a file, so that a long prompt is read once and not at every start.

Format, little-endian: ``CADRANKV``, the length of the header (u32), the header in JSON (version, model, runner, tokens,
block_size, block_bytes, sha256 of all that follows), the tokens (int32 each), the blocks as the runner writes them.
Whoever opens one may have been handed it by a stranger: every number is checked against the length of the file before
anything is made of its size, and nothing reaches the runner before the sum is right.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from cadran.engine.residents import Residents
from cadran.engine.runner import Batch, Runner
from cadran.errors import UserError
from cadran.files import write_bytes

MAGIC = b"CADRANKV"
VERSION = 1
MOST_HEADER = 65_536


@dataclass(frozen=True, slots=True)
class _Header:
    version: int
    model: str
    runner: str
    tokens: int
    block_size: int
    block_bytes: int
    sha256: str


def save_prefix(path: Path, runner: Runner, residents: Residents, ids: Sequence[int], model: str) -> int:
    """Write what is kept of the beginning of a sequence.

    Args:
        path: of the file.
        runner: that keeps it.
        residents: that know where.
        ids: of the sequence.
        model: names the weights, e.g. by a hash of them; only the same may load it.

    Returns:
        How many of the ids are in the file; 0 when nothing is kept of them, and then no file is written.
    """
    size = runner.block_size
    match = residents.tree.match(ids, len(ids))
    held = list(match.blocks) if match.source is None else [*match.blocks, match.source]
    blocks, kept = list(match.blocks), len(match.blocks) * size
    try:
        if match.source is not None and (clean := residents.idle_block()) is not None:
            # Behind its part of ours the block holds what another sequence said, which is nobody's business; our part
            # is read again into an empty one.
            held.append(clean)
            runner.write_block(clean, bytes(len(runner.read_block(match.source))))
            blocks.append(clean)
            runner.step(_reread(ids[kept : kept + match.positions], kept, blocks))
            kept += match.positions
        if not kept:
            return 0
        data = [runner.read_block(block) for block in blocks]
    finally:
        residents.give_back(held)
    tokens = np.array(ids[:kept], "<i4").tobytes()
    digest = hashlib.sha256(tokens)
    for block_data in data:
        digest.update(block_data)
    header = _Header(VERSION, model, runner.name, kept, size, len(data[0]), digest.hexdigest())
    encoded = json.dumps(asdict(header), sort_keys=True).encode()
    write_bytes(path, b"".join([MAGIC, struct.pack("<I", len(encoded)), encoded, tokens, *data]))
    return kept


def load_prefix(path: Path, runner: Runner, residents: Residents, model: str) -> int:
    """Remember what a file holds, so that sequences that begin like it need not read that again.

    Args:
        path: of the file.
        runner: to keep it.
        residents: that hand out blocks.
        model: as it was saved with.

    Returns:
        How many tokens are remembered now: as many as fit into blocks that no answer has.

    Raises:
        UserError: it is no such file, it is damaged, or it was made with another model or another kind of cache.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file that was saved as a prefix") from None
    header, start = _header(path, content)
    _refuse_other(path, header, runner, model)
    tokens, width = header.tokens, header.block_bytes
    count = -(-tokens // runner.block_size)
    if len(content) != start + 4 * tokens + count * width:
        raise UserError(f"{path} is cut short or has something behind its end; save the prefix again")
    if hashlib.sha256(memoryview(content)[start:]).hexdigest() != header.sha256:
        raise UserError(f"{path} is damaged (its checksum differs); save the prefix again")
    ids = np.frombuffer(content, "<i4", tokens, start)
    if ids.min() < 0 or ids.max() >= runner.vocabulary:
        raise UserError(f"{path} has ids that the model does not know; save the prefix again with this model")
    start += 4 * tokens
    blocks: list[int] = []
    try:
        while len(blocks) < count and (block := residents.idle_block()) is not None:
            blocks.append(block)
            place = start + (len(blocks) - 1) * width
            runner.write_block(block, content[place : place + width])
        kept = min(tokens, len(blocks) * runner.block_size)
        residents.tree.insert(ids[:kept].tolist(), blocks)
    finally:
        residents.give_back(blocks)
    return kept


def _reread(ids: Sequence[int], start: int, blocks: Sequence[int]) -> Batch:
    return Batch(
        ids=np.array(ids, np.int32),
        positions=np.arange(start, start + len(ids), dtype=np.int32),
        starts=np.array([0, len(ids)], np.int32),
        tables=np.array([blocks], np.int32),
        outputs=np.zeros(0, np.int32),
    )


def _header(path: Path, content: bytes) -> tuple[_Header, int]:
    """The header, its fields of the right kind and range, and where it ends."""
    strange = UserError(f"{path} is no saved prefix; name a file that was saved as one")
    start = len(MAGIC) + 4
    if content[: len(MAGIC)] != MAGIC or len(content) < start:
        raise strange
    (length,) = struct.unpack_from("<I", content, len(MAGIC))
    if length > min(MOST_HEADER, len(content) - start):
        raise strange
    try:
        header = json.loads(content[start : start + length])
    except (ValueError, RecursionError):
        raise strange from None
    if not isinstance(header, dict) or header.keys() != {field.name for field in fields(_Header)}:
        raise strange
    for field in fields(_Header):
        value = header[field.name]
        if type(value) is not field.type or (isinstance(value, int) and not 0 < value < 2**40):
            raise strange
    return _Header(**header), start + length


def _refuse_other(path: Path, header: _Header, runner: Runner, model: str) -> None:
    if header.version != VERSION:
        raise UserError(f"{path} is of version {header.version} and this is {VERSION}; save the prefix again")
    if header.model != model:
        raise UserError(f"{path} was saved with another model; save the prefix again with this one")
    if header.runner != runner.name or header.block_size != runner.block_size:
        raise UserError(
            f"{path} was saved by the {header.runner[:20]!r} runner in blocks of {header.block_size}, and this is "
            f"the {runner.name!r} runner with {runner.block_size}; save the prefix again"
        )
