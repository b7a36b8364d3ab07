"""Sound files are read exactly; a file that lies about anything is refused at no cost."""

import os
import struct
import time
import tracemalloc

import gguf
import gguf_bytes as made
import numpy as np
import pytest
from gguf.quants import dequantize

from cadran.errors import UserError
from cadran.model.gguf.quantization import BLOCKS
from cadran.model.gguf.reader import GgufFile

HUGE = [2**31, 2**32, 2**60, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.fixture
def written(tmp_path):
    """Writes bytes to a file and gives its path."""

    def write(content):
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write


def refused(path, reason):
    """The file is refused for that reason, and refusing it allocates next to nothing."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=reason):
            GgufFile.open(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("version", [2, 3])
def test_every_type_of_metadata_is_read(written, version):
    with GgufFile.open(written(made.sound_file(version=version))) as file:
        assert file.version == version
        assert file.metadata == made.EVERY_VALUE
        assert list(file.metadata) == list(made.EVERY_VALUE)
        assert type(file.metadata["yes"]) is bool and type(file.metadata["u8"]) is int


def test_tensors_have_the_weights_and_metadata_the_values_that_the_gguf_package_reads(written):
    path = written(made.sound_file(tuple(BLOCKS), made.EVERY_TYPE[:-2]))
    reader = gguf.GGUFReader(path)
    with GgufFile.open(path) as file:
        assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
        for theirs in reader.tensors:
            ours = file.tensors[theirs.name]
            assert ours.kind == theirs.tensor_type.name
            assert ours.shape == (2, 256) == tuple(reversed(theirs.shape.tolist()))
            with np.errstate(all="ignore"):
                expected = dequantize(theirs.data, theirs.tensor_type)
            assert np.array_equal(ours.dequantised(), expected, equal_nan=True)
        for key, value in file.metadata.items():
            assert reader.fields[key].contents() == value


def test_dequantised_weights_outlive_the_file_and_may_be_changed(written):
    with GgufFile.open(written(made.sound_file(("F32", "Q8_0")))) as file:
        weights = {name: tensor.dequantised() for name, tensor in file.tensors.items()}
    for array in weights.values():
        array[:] = 1
        assert array.sum() == 512
    with pytest.raises(ValueError, match="released"):
        bytes(file.tensors["F32.weight"].data)


def test_closing_twice_or_while_a_view_is_held_is_harmless(written):
    file = GgufFile.open(written(made.sound_file(("F32",))))
    held = np.frombuffer(file.tensors["F32.weight"].data, np.uint8)
    expected = held.copy()
    file.close()
    file.close()
    assert np.array_equal(held, expected)


def test_a_file_without_tensors_is_a_vocabulary(written):
    with GgufFile.open(written(made.head(0, 1) + made.ARCHITECTURE)) as file:
        assert file.metadata == {"general.architecture": "llama"} and file.tensors == {}


@pytest.mark.parametrize(("code", "name"), [(18, "IQ3_XXS"), (99, "type 99"), (2**32 - 1, "type 4294967295")])
def test_kinds_that_are_not_decoded_are_listed_and_refused_by_name_when_read(written, code, name):
    records = made.record("odd", [256, 2], code, 0) + made.record("plain", [8], 0, 224)
    with GgufFile.open(written(made.padded(made.head(2, 0) + records) + bytes(256))) as file:
        assert (file.tensors["odd"].kind, file.tensors["odd"].shape) == (name, (2, 256))
        assert file.tensors["plain"].dequantised().shape == (8,)
        with pytest.raises(UserError, match=f"'odd' is stored as {name}"):
            file.tensors["odd"].dequantised()


def test_the_alignment_of_the_file_is_obeyed(written):
    pairs = made.pair("general.alignment", 4, struct.pack("<I", 4096))
    content = made.padded(made.head(1, 1) + pairs + made.record("a", [4], 0, 4096), 4096) + bytes(4096)
    with GgufFile.open(written(content + struct.pack("<4f", 1, 2, 3, 4))) as file:
        assert file.tensors["a"].dequantised().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"GGUF", "its version goes past the end"),
        (b"PK\x03\x04" + bytes(60), "does not begin with GGUF"),
        (made.head(0, 0, version=1), "version 1"),
        (made.head(0, 0, version=4), "version 4"),
        (made.head(0, 0, version=3 << 24), "big-endian"),
        (made.head(0, 0, magic=b"FUGG"), "big-endian"),
    ],
)  # fmt: skip
def test_other_formats_and_versions_are_refused_by_name(written, content, reason):
    refused(written(content), reason)


@pytest.mark.parametrize("claim", HUGE)
@pytest.mark.parametrize(
    "content",
    [
        lambda n: made.head(n, 1) + made.ARCHITECTURE,
        lambda n: made.head(0, n) + made.ARCHITECTURE,
        lambda n: made.head(0, 1) + struct.pack("<Q", n) + b"key",
        lambda n: made.head(0, 1) + made.pair("k", 8, struct.pack("<Q", n) + b"text"),
        lambda n: made.head(0, 1) + made.pair("k", 9, made.array(8, n, made.text("a") * 4)),
        lambda n: made.head(0, 1) + made.pair("k", 9, made.array(8, 4, made.text("a") + struct.pack("<Q", n))),
        lambda n: made.head(0, 1) + made.pair("k", 9, made.array(8, 2, made.text("a") + struct.pack("<Q", n))),
        lambda n: made.head(0, 1) + made.pair("k", 9, made.array(5, n, bytes(64))),
        lambda n: made.head(0, 1) + made.pair("k", 9, made.array(7, n, bytes(64))),
        lambda n: made.head(0, 1) + made.pair("k", 9, made.array(9, n, made.array(5, 1, bytes(4)))),
        lambda n: made.head(0, 1) + made.pair("k", 9, made.array(77, n, bytes(64))),
        lambda n: made.head(1, 0) + struct.pack("<Q", n) + b"name",
        lambda n: made.padded(made.head(1, 0) + made.record("a", [n], 0, 0)) + bytes(64),
        lambda n: made.padded(made.head(1, 0) + made.record("a", [32, n], 8, 0)) + bytes(64),
        lambda n: made.padded(made.head(1, 0) + made.record("a", [32, n, n, n], 0, 0)) + bytes(64),
        lambda n: made.padded(made.head(1, 0) + made.record("a", [4], 0, n - n % 32)) + bytes(64),
        lambda n: made.padded(made.head(1, 0) + made.record("a", [n, n, 2], 99, 0)) + bytes(64),
    ],
)  # fmt: skip
def test_absurd_counts_lengths_dimensions_and_offsets_cost_nothing(written, content, claim):
    refused(written(content(claim)), "claims|past the end|has the shape")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (made.head(0, 2) + made.ARCHITECTURE * 2, "'general.architecture' comes twice"),
        (made.head(0, 1) + made.pair("", 4, bytes(4)), "key is empty"),
        (made.head(0, 1) + made.pair(b"k" * 70_000, 4, bytes(4)), "70000 bytes long"),
        (made.head(0, 1) + made.pair(b"\xff\xfe", 4, bytes(4)), "key is not UTF-8"),
        (made.head(0, 1) + made.pair("k", 8, made.text(b"\xed\xa0\x80")), "'k' is not UTF-8"),
        (made.head(0, 1) + made.pair("k", 9, made.array(8, 2, made.text("a") + made.text(b"\x80"))), "not UTF-8"),
        (made.head(0, 1) + made.pair("k", 13, bytes(8)), "unknown type 13"),
        (made.head(0, 1) + made.pair("k", 9, made.array(13, 1, bytes(8))), "unknown type 13"),
        (made.head(0, 1) + made.pair("k", 7, b"\x02"), "neither 0 nor 1"),
        (made.head(0, 1) + made.pair("k", 9, made.array(7, 2, b"\x01\x02")), "neither 0 nor 1"),
        (made.head(0, 1) + made.pair("k", 9, made.array(9, 1, b"") * 5 + made.array(5, 0, b"")), "deeper than 4"),
        (made.head(0, 1) + made.pair("\x1b[31m" + "k" * 200, 13, b""), r"'\\x1b\[31mk{75}\.\.\.'"),
        (made.head(0, 1) + made.pair("general.alignment", 4, struct.pack("<I", 0)), "alignment"),
        (made.head(0, 1) + made.pair("general.alignment", 4, struct.pack("<I", 48)), "alignment"),
        (made.head(0, 1) + made.pair("general.alignment", 10, struct.pack("<Q", 1 << 62)), "alignment"),
        (made.head(0, 1) + made.pair("general.alignment", 8, made.text("32")), "alignment"),
        (made.head(0, 1) + made.pair("general.alignment", 7, b"\x01"), "alignment"),
    ],
)  # fmt: skip
def test_unsound_metadata_is_refused(written, content, reason):
    refused(written(content), reason)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([("a", [4], 0, 0), ("a", [4], 0, 32)], "'a' comes twice"),
        ([("a", [8], 0, 0), ("b", [9], 0, 32), ("c", [4], 0, 64)], "'c' overlaps"),
        ([("a", [64], 0, 0), ("b", [4], 0, 32)], "'b' overlaps"),
        ([("b", [4], 0, 32), ("a", [64], 0, 0)], "'b' overlaps"),
        ([("a", [4], 0, 0), ("b", [4], 0, 0)], "overlaps"),
        ([("a", [65], 0, 0)], "'a' goes past the end"),
        ([("a", [4], 0, 8)], "out of line"),
        ([("a", [0], 0, 0)], r"shape \(0,\)"),
        ([("a", [4, 0], 0, 0)], r"shape \(0, 4\)"),
        ([("a", [], 0, 0)], "0 dimensions"),
        ([("a", [1, 1, 1, 1, 1], 0, 0)], "5 dimensions"),
        ([("a", [48], 8, 0)], r"Q8_0 has the shape \(48,\)"),
        ([("a", [32, 256], 12, 0)], "Q4_K has the shape"),
        ([(b"\xc3", [4], 0, 0)], "not UTF-8"),
    ],
)  # fmt: skip
def test_unsound_tensors_are_refused(written, records, reason):
    content = made.head(len(records), 0) + b"".join(made.record(*fields) for fields in records)
    refused(written(made.padded(content) + bytes(256)), reason)


def test_a_file_cut_short_anywhere_is_refused(written, tmp_path):
    content = made.sound_file(("Q8_0",))
    end = len(content.rstrip(b"\0"))
    assert end == len(content), "the last byte must belong to the tensor"
    for length in range(len(content)):
        path = written(content[:length])
        with pytest.raises(UserError):
            GgufFile.open(path)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        GgufFile.open(tmp_path / "absent.gguf")
    with pytest.raises(UserError, match="There is no file"):
        GgufFile.open(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.gguf")
        with pytest.raises(UserError, match="There is no file"):
            GgufFile.open(tmp_path / "pipe.gguf")


def test_more_elements_than_any_vocabulary_has_are_refused_before_they_fill_the_memory(written):
    half = 1 << 22
    content = made.head(0, 2) + made.pair("a", 9, made.array(0, 10, bytes(10)))
    path = written(content + made.pair("b", 9, made.array(0, 2 * half, b"")))
    os.truncate(path, path.stat().st_size + 2 * half)
    refused(path, "'b' claims 8388608 elements")


def test_more_keys_and_tensors_than_any_model_has_are_refused(written):
    pairs = b"".join(made.pair(f"{number}", 0, b"\x00") for number in range(65_537))
    refused(written(made.head(0, 65_537) + pairs), "claims 65537 metadata keys")
    records = b"".join(made.record(f"{number}", [1], 0, 32 * number) for number in range(131_073))
    refused(written(made.padded(made.head(131_073, 0) + records) + bytes(32 * 131_073)), "claims 131073 tensors")


def test_half_a_million_strings_are_read_in_a_fraction_of_a_second(written):
    tokens = b"".join(made.text(f"Ġtoken{number}") for number in range(250_000))
    merges = b"".join(made.text(f"Ġto ken{number}") for number in range(250_000))
    content = made.head(0, 2) + made.pair("t", 9, made.array(8, 250_000, tokens))
    path = written(content + made.pair("m", 9, made.array(8, 250_000, merges)))
    elapsed = []
    for _ in range(3):
        start = time.perf_counter()
        with GgufFile.open(path) as file:
            elapsed.append(time.perf_counter() - start)
    assert file.metadata["t"][-1] == "Ġtoken249999" and len(file.metadata["m"]) == 250_000
    assert min(elapsed) < 1


@pytest.mark.network
def test_smollm2_opens_at_once_and_decodes_to_the_bits_of_the_gguf_package(smollm2_gguf):
    elapsed = []
    for _ in range(3):
        start = time.perf_counter()
        with GgufFile.open(smollm2_gguf) as file:
            elapsed.append(time.perf_counter() - start)
    assert min(elapsed) < 0.2
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49_152
    kinds = compare_with_the_package(
        smollm2_gguf, ["blk.0.attn_q.weight", "blk.29.ffn_down.weight", "output_norm.weight"]
    )
    assert kinds == {"Q4_1", "F32"}


@pytest.mark.network
def test_k_quants_of_a_real_file_decode_to_the_bits_of_the_gguf_package(gemma3_gguf):
    with GgufFile.open(gemma3_gguf) as file:
        first_of = {tensor.kind: name for name, tensor in reversed(file.tensors.items()) if tensor.shape[0] < 10_000}
        assert {"Q4_K", "Q6_K", "Q5_0"} <= first_of.keys()
        for kind, name in first_of.items():
            # The package's own reader takes ten seconds over this vocabulary; its decoder gets the bytes from ours.
            blocks = np.frombuffer(file.tensors[name].data, np.uint8).reshape(file.tensors[name].shape[0], -1)
            expected = dequantize(blocks, gguf.GGMLQuantizationType[kind]).reshape(file.tensors[name].shape)
            assert np.array_equal(file.tensors[name].dequantised().view(np.uint32), expected.view(np.uint32))


def compare_with_the_package(path, names):
    """Compare some tensors and the metadata of a real file with what the `gguf` package reads; the kinds seen."""
    reader = gguf.GGUFReader(path)
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    with GgufFile.open(path) as file:
        assert file.tensors.keys() == theirs.keys()
        for key in ("general.architecture", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.model"):
            assert file.metadata[key] == reader.fields[key].contents()
        for name in names:
            expected = dequantize(theirs[name].data, theirs[name].tensor_type).reshape(file.tensors[name].shape)
            assert np.array_equal(file.tensors[name].dequantised().view(np.uint32), expected.view(np.uint32))
        return {file.tensors[name].kind for name in names}
