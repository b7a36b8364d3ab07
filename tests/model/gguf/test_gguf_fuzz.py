"""Thousands of damaged files: each is read or refused with a `UserError`, at once and in little memory."""

import gc
import random
import struct
import time
import tracemalloc
from math import prod

import gguf_bytes as made
import pytest

from cadran.errors import UserError
from cadran.model.gguf.quantization import BLOCKS, stored_size
from cadran.model.gguf.reader import GgufFile

NUMBERS = [0, 1, 2, 4, 7, 8, 9, 31, 32, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**60, 2**63 - 1,
           2**63, 2**64 - 32, 2**64 - 1]  # fmt: skip


def sound_files():
    """Small files that between them hold every type of value, every kind of tensor and every part of the format."""
    aligned = made.pair("general.alignment", 4, struct.pack("<I", 128))
    odd = made.record("odd", [256, 2], 18, 0) + made.record("strange", [5], 99, 224) + made.record("a", [8], 0, 224)
    return [
        made.sound_file(),
        made.sound_file(tuple(kind for kind in BLOCKS if kind not in ("F32", "F16", "BF16")), made.EVERY_TYPE[:1]),
        made.sound_file(("Q4_K",), version=2),
        made.head(0, len(made.EVERY_TYPE)) + b"".join(made.EVERY_TYPE),
        made.padded(made.head(3, 0) + odd) + bytes(256),
        made.padded(made.head(1, 1) + aligned + made.record("a", [3, 2, 2, 1], 1, 128), 128) + bytes(152),
        made.head(0, 1) + made.pair("k", 9, made.array(9, 1, b"") * 3 + made.array(0, 300, bytes(300))),
    ]


def mutated(content, generator, others):
    """The file with one to four injuries, most of them in its header."""
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        # Headers of these files end before byte 700: what comes later is weights, in which any byte is as good.
        at = generator.randrange(min(len(content), generator.choice([24, 700, len(content)])) or 1)
        length = generator.choice([1, 4, 8, 12, 24, generator.randrange(200)])
        number = generator.choice([*NUMBERS, len(content), len(content) - at, generator.getrandbits(64)])
        match generator.randrange(8):
            case 0:
                flipped = bytes([content[at] ^ (1 << generator.randrange(8))]) if content else b""
                content = content[:at] + flipped + content[at + 1 :]
            case 1:
                content = content[:at] + struct.pack("<Q", number % 2**64) + content[at + 8 :]
            case 2:
                content = content[:at] + struct.pack("<I", number % 2**32) + content[at + 4 :]
            case 3:
                content = content[:at]
            case 4:
                content = content[:at] + content[at + length :]
            case 5:
                content = content[:at] + generator.randbytes(length) + content[at:]
            case 6:
                other = generator.choice(others)
                start = generator.randrange(len(other))
                content = content[:at] + other[start : start + length] + content[at + length :]
            case 7:
                content = content[: at + length] + content[at:]
    return content


def opens(path):
    """Whether the file opens; if so, its tensors lie within it and decode."""
    try:
        file = GgufFile.open(path)
    except UserError:
        return False
    with file:
        taken = 0
        for tensor in file.tensors.values():
            taken += len(tensor.data)
            if tensor.kind in BLOCKS:
                assert len(tensor.data) == stored_size(tensor.kind, tensor.shape)
                assert tensor.dequantised().size == prod(tensor.shape)
            else:
                with pytest.raises(UserError):
                    tensor.dequantised()
        assert taken <= path.stat().st_size
        return True


def fuzz(folder, n_files, seed):
    """Open that many injured files; the number that were refused."""
    generator, others = random.Random(seed), sound_files()
    path = folder / "injured.gguf"
    refused, slowest = 0, 0.0
    gc.freeze()  # a full collection of what the other tests left would count as some file's time
    tracemalloc.start()
    try:
        for number in range(n_files):
            content = mutated(others[number % len(others)], generator, others)
            path.write_bytes(content)
            start = time.process_time()
            try:
                refused += not opens(path)
            except Exception as error:
                raise AssertionError(f"file {number} of seed {seed}: {content.hex()}") from error
            slowest = max(slowest, time.process_time() - start)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    assert slowest < 1 and peak < 4 << 20
    return refused


def test_the_files_that_get_injured_are_sound(tmp_path):
    for content in sound_files():
        (tmp_path / "sound.gguf").write_bytes(content)
        assert opens(tmp_path / "sound.gguf")


def test_injured_files_are_read_or_refused_and_nothing_else(tmp_path):
    # Some injuries hit a weight or the letters of a name and leave a sound file: both outcomes must occur.
    assert 1000 < fuzz(tmp_path, 2_000, seed=1) < 1950


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 104))
def test_a_hundred_thousand_injured_files_are_read_or_refused_and_nothing_else(tmp_path, seed):
    assert fuzz(tmp_path, 25_000, seed) > 12_500
