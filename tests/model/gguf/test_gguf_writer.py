"""Files are the bytes that the `gguf` package writes, appear whole or not at all, and never lie in memory."""

import tracemalloc

import gguf
import numpy as np
import pytest
from gguf.quants import quantize
from hypothesis import given
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.model.gguf.quantization import WRITABLE, dequantise, quantise
from cadran.model.gguf.reader import GgufFile
from cadran.model.gguf.writer import write_gguf

METADATA = {
    "general.architecture": "llama",
    "general.name": "Essai é 😀",
    "llama.context_length": 2048,
    "llama.rope.freq_base": 10_000.0,
    "llama.attention.causal": True,
    "tokenizer.ggml.tokens": ["<s>", "a", "", "é"],
    "tokenizer.ggml.scores": [0.0, -1.5, -2.25, -3.0],
    "tokenizer.ggml.token_type": [3, 1, 1, -1],
    "flags": [True, False],
    "charsmap": b"\x00\xff\x80",
    "nested": [[1, 2], [3]],
}


def some_tensors(seed=0):
    """Tensors of every kind that is written and of one to four dimensions, none of a multiple of 32 bytes."""
    generator = np.random.default_rng(seed)
    shapes = {"F32": (3,), "F16": (5, 7), "BF16": (2, 3, 5), "Q8_0": (1, 3, 2, 64), "Q4_0": (3, 32)}
    assert set(shapes) == set(WRITABLE)
    return [
        (f"{kind}.weight", generator.standard_normal(shape).astype(np.float32), kind) for kind, shape in shapes.items()
    ]


def write_with_the_package(path, metadata, tensors):
    """Write the same content with the `gguf` package."""
    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, weights, kind in tensors:
        code = gguf.GGMLQuantizationType[kind]
        data = quantize(weights, code)
        writer.add_tensor(name, data, raw_shape=None if data.dtype == np.uint8 else weights.shape, raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_bytes_are_those_of_the_gguf_package(tmp_path):
    write_gguf(tmp_path / "ours.gguf", METADATA, iter(some_tensors()))
    write_with_the_package(tmp_path / "theirs.gguf", METADATA, some_tensors())
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_what_was_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "folder" / "model.gguf"
    write_gguf(path, METADATA, some_tensors())
    with GgufFile.open(path) as file:
        assert file.metadata == METADATA | {"charsmap": [0, 255, 128]}
        for name, weights, kind in some_tensors():
            tensor = file.tensors[name]
            assert (tensor.kind, tensor.shape) == (kind, weights.shape)
            assert bytes(tensor.data) == quantise(kind, weights)
            assert np.array_equal(tensor.dequantised(), dequantise(kind, quantise(kind, weights), weights.shape))
    assert [left.name for left in path.parent.iterdir()] == ["model.gguf"]


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(width=32, allow_nan=False),
    st.text(),
    st.lists(st.booleans()),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.integers(0, 2**64 - 1)),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1),
    st.lists(st.text()),
    st.lists(st.lists(st.text(), min_size=1)),
)


@given(st.dictionaries(st.text(min_size=1).filter(lambda key: key != "general.alignment"), VALUES))
def test_any_metadata_comes_back_equal(tmp_path_factory, metadata):
    path = tmp_path_factory.mktemp("any") / "model.gguf"
    write_gguf(path, metadata, [])
    with GgufFile.open(path) as file:
        assert file.metadata == metadata
        assert {key: type(value) for key, value in file.metadata.items()} == {
            key: type(value) for key, value in metadata.items()
        }


def test_whole_numbers_among_real_ones_are_real(tmp_path):
    write_gguf(tmp_path / "a.gguf", {"factors": [1, 1.5, 2]}, [])
    with GgufFile.open(tmp_path / "a.gguf") as file:
        assert [type(factor) for factor in file.metadata["factors"]] == [float] * 3


@pytest.mark.parametrize(
    ("value", "tensors"),
    [
        (1 << 64, []),
        (1e39, []),
        ([1, "two"], []),
        ([None], []),
        (None, []),
        ("\ud800", []),
        (1, [("a", np.ones(4, np.float32), "F32"), ("a", np.ones(4, np.float32), "F32")]),
        (1, [("", np.ones(4, np.float32), "F32")]),
        (1, [("n" * 64, np.ones(4, np.float32), "F32")]),
        (1, [("a", np.ones((), np.float32), "F32")]),
        (1, [("a", np.ones((0, 4), np.float32), "F32")]),
        (1, [("a", np.ones((1, 1, 1, 1, 4), np.float32), "F32")]),
        (1, [("a", np.ones(48, np.float32), "Q8_0")]),
        (1, [("a", np.full(64, np.nan, np.float32), "Q8_0")]),
        (1, [("a", np.ones(256, np.float32), "Q4_K")]),
    ],
)  # fmt: skip
def test_what_has_no_place_in_a_file_is_refused_and_leaves_nothing_behind(tmp_path, value, tensors):
    with pytest.raises(UserError):
        write_gguf(tmp_path / "model.gguf", {"key": value}, tensors)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_key_and_an_alignment_of_its_own_are_refused(tmp_path):
    with pytest.raises(UserError):
        write_gguf(tmp_path / "model.gguf", {"": 1}, [])
    with pytest.raises(ValueError, match="alignment"):
        write_gguf(tmp_path / "model.gguf", {"general.alignment": 64}, [])


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_on_the_way_keeps_the_old_file_and_leaves_nothing_else(tmp_path, failure):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"old")

    def breaks_down():
        yield "a", np.ones((100, 100), np.float32), "F32"
        raise failure

    with pytest.raises(failure):
        write_gguf(path, {}, breaks_down())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_tensors_pass_through_memory_one_at_a_time(tmp_path):
    def tensors():
        for number in range(8):
            yield f"{number}", np.full((512, 1024), number, np.float32), "Q8_0"

    tracemalloc.start()
    try:
        write_gguf(tmp_path / "model.gguf", {}, tensors())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Two tensors of 2 MiB (the one that is done and the one that is being made) and the copying buffer.
    assert peak < 7 << 20
