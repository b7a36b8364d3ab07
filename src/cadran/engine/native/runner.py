"""Runs a model in the compiled core: no PyTorch, weights in the order they are read in, no thread awake when idle."""

import ctypes
import os
from ctypes import c_void_p
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from cadran.engine.native.layout import Kind
from cadran.engine.native.library import CBatch, Shape, Tensor, Unavailable, error, library
from cadran.engine.native.pack import ensure_packed
from cadran.engine.native.packed_file import Packed, read_packed
from cadran.engine.runner import Batch, Ints
from cadran.engine.sampler import Sampler
from cadran.engine.threads import usable_threads
from cadran.errors import UserError

BLOCK_SIZE = 32
EMBEDDING = 0  # its role, of native/cadran.h
MOST_TOKENS = 512
"""Of one batch; the scheduler's budget is not larger."""
_SEQUENCES = 4
"""So many whole contexts the cache holds, where memory allows."""
_SHARE_OF_MEMORY = 0.25
_PLANES = {"int8": 1, "int16": 2}
_KV_KINDS = {"f32": Kind.F32, "f16": Kind.F16, "int8": Kind.I8}


class NativeRunner:
    """See ``cadran.engine.runner.Runner``; ``open`` makes one.

    Attributes:
        isa: instruction set that is used.
        threads: how many.
        kv: kind of the KV cache, ``f32``, ``f16`` or ``int8``.
        activations: what multiplies integer weights, ``int16`` or ``int8``.
    """

    name = "native"
    block_size = BLOCK_SIZE

    def __init__(
        self,
        packed: Packed,
        path: Path,
        threads: int,
        context: int | None,
        kv: str,
        blocks: int | None,
        activations: str = "int16",
    ) -> None:
        """Read repacked weights; ``open`` is the way in."""
        self._library, self._model = library(), None
        shape = packed.shape | {"windowed": bytes(packed.shape["windowed"]) or None}
        self.context = min(context or shape["context"], shape["context"])
        self.vocabulary, self.width = int(shape["vocabulary"]), int(shape["width"])
        self.threads, self.kv, self.activations = threads, kv, activations
        self.blocks = blocks or _default_blocks(shape, self.context, kv)
        isa = os.environ.get("CADRAN_ISA")
        self.isa = isa or self._library.cadran_isa().decode()
        embedding = packed.tensors[packed.tensors[:, 0] == EMBEDDING]
        self._looked_up = 0 if shape["tied"] else int(embedding[:, 6].sum())
        tensors = _table(packed)
        self._model = self._library.cadran_open(
            ctypes.byref(Shape(**shape)),
            tensors,
            len(tensors),
            os.fsencode(path),
            threads,
            self.blocks,
            _KV_KINDS[kv],
            _PLANES[activations],
            MOST_TOKENS,
            isa.encode() if isa else None,
        )
        if not self._model:
            raise UserError(
                f"the model cannot be opened ({error(self._library)}); try fewer --threads or CADRAN_RUNNER=torch"
            )

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        threads: int | None = None,
        context: int | None = None,
        kv: str = "f16",
        blocks: int | None = None,
        activations: str = "int16",
    ) -> "NativeRunner":
        """Open a model; its weights are repacked the first time.

        Args:
            path: a model directory or a ``.gguf`` file.
            threads: None takes what this process may use.
            context: most positions of a sequence, at most the model's; None takes that.
            kv: kind of the KV cache, ``f32``, ``f16`` or ``int8``.
            blocks: of 32 positions in the cache; None takes four contexts, or a quarter of the free memory.
            activations: what multiplies integer weights: ``int16`` loses nothing beside the weights' own rounding,
                ``int8`` reads prompts and serves many requests up to twice as fast.

        Raises:
            Unavailable: there is no core, or it does not run this architecture.
            UserError: it is no model, or it is damaged; an argument is impossible.
        """
        library()
        if kv not in _KV_KINDS:
            raise UserError(f"there is no KV cache of kind {kv!r}; choose one of {', '.join(_KV_KINDS)}")
        if activations not in _PLANES:
            raise UserError(f"there are no activations of kind {activations!r}; choose one of {', '.join(_PLANES)}")
        if threads is not None and not 1 <= threads <= 1024:
            raise UserError(f"{threads} threads are not possible; give a number from 1 to 1024")
        if context is not None and context < 1:
            raise UserError(f"a context of {context} tokens is not possible; give a positive number")
        file = ensure_packed(path)
        packed = read_packed(file)
        if packed is None:  # of another version, or cut short by a full disk
            file.unlink(missing_ok=True)
            file = ensure_packed(path)
            packed = read_packed(file)
        if packed is None:
            raise Unavailable(f"the repacked weights at {file} cannot be read back")
        return cls(packed, file, threads or usable_threads(), context, kv, blocks, activations)

    @property
    def weight_bytes(self) -> int:
        """Of the weights in memory."""
        return int(self._library.cadran_weight_bytes(self._handle))

    @property
    def bytes_per_token(self) -> int:
        """Weights that are read to decode one token: all but an embedding that is not the output head too."""
        return self.weight_bytes - self._looked_up

    def step(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See ``Runner.step``."""
        logits = np.empty((len(batch.outputs), self.vocabulary), np.float32)
        self._run(batch, logits.ctypes.data if logits.size else None, None)
        return logits

    def hidden(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See ``Runner.hidden``."""
        states = np.empty((len(batch.outputs), self.width), np.float32)
        self._run(batch, None, states.ctypes.data if states.size else None)
        return states

    def burst(self, batch: Batch, samplers: list[Sampler], stops: list[tuple[int, ...]], steps: int) -> Ints:
        """See ``Runner.burst``."""
        count = len(samplers)
        out = np.empty((steps, count), np.int32)
        handles = (c_void_p * count)(*[sampler.handle for sampler in samplers])
        flat = np.array([id for ids in stops for id in ids] or [0], np.int32)
        starts = np.cumsum([0, *map(len, stops)], dtype=np.int32)
        taken = self._library.cadran_burst(
            self._handle, ctypes.byref(_described(batch)), handles, self.vocabulary,
            flat.ctypes.data, starts.ctypes.data, steps, out.ctypes.data,
        )  # fmt: skip
        if taken < 1:
            raise RuntimeError(f"the core decoded nothing ({taken}): {error(self._library)}")
        return out[:taken]

    def add_adapter(self, packed: Packed, data: bytes) -> int:
        """Take low-rank maps, which act upon the sequences that name them in ``Batch.adapters``.

        Args:
            packed: where each of them lies in ``data``; see ``adapter.pack_adapter``.
            data: of the whole file.

        Returns:
            The adapter's number, from 1.

        Raises:
            UserError: it is not of this model, or there is no memory for it.
        """
        tensors = _table(packed)
        number = int(self._library.cadran_add_adapter(self._handle, tensors, len(tensors), data, len(data)))
        if number < 0:
            raise UserError(f"the adapter cannot be used ({error(self._library)}); give one of this very model")
        return number

    def drop_adapter(self, number: int) -> None:
        """Forget an adapter that no sequence names any more."""
        self._check(self._library.cadran_drop_adapter(self._handle, number))

    def copy(self, source: int, target: int, positions: int) -> None:
        """See ``Runner.copy``; the rest of the block is copied too, which nobody reads."""
        self._check(self._library.cadran_copy_block(self._handle, source, target))

    def read_block(self, block: int) -> bytes:
        """See ``Runner.read_block``."""
        data = ctypes.create_string_buffer(self._library.cadran_block_bytes(self._handle))
        self._check(self._library.cadran_read_block(self._handle, block, data))
        return data.raw

    def write_block(self, block: int, data: bytes) -> None:
        """See ``Runner.write_block``."""
        expected = self._library.cadran_block_bytes(self._handle)
        if len(data) != expected:
            raise UserError(f"a block of this model has {expected} bytes and {len(data)} were given; save it again")
        self._check(self._library.cadran_write_block(self._handle, block, data))

    def close(self) -> None:
        """See ``Runner.close``."""
        model, self._model = self._model, None
        if model:
            self._library.cadran_close(model)

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.close()

    @property
    def _handle(self) -> int:
        if self._model is None:
            raise UserError("this model was closed; open it again")
        return int(self._model)

    def _run(self, batch: Batch, logits: int | None, hidden: int | None) -> None:
        described = _described(batch)
        self._check(self._library.cadran_step(self._handle, ctypes.byref(described), logits, self.vocabulary, hidden))

    def _check(self, status: int) -> None:
        if status < 0:
            raise RuntimeError(error(self._library))


def _table(packed: Packed) -> "ctypes.Array[Tensor]":
    tensors = (Tensor * len(packed.tensors))()
    for entry, (role, layer, kind, rows, columns, offset, length) in zip(tensors, packed.tensors.tolist(), strict=True):
        entry.role, entry.layer, entry.kind, entry.rows, entry.columns = role, layer, kind, rows, columns
        entry.offset, entry.bytes = offset, length
    return tensors


def _described(batch: Batch) -> CBatch:
    """The batch as the core reads it; the arrays must outlive it."""
    arrays = [batch.ids, batch.positions, batch.starts, batch.tables, batch.outputs]
    arrays += [] if batch.adapters is None else [batch.adapters]
    for array in arrays:
        if array.dtype != np.int32 or not array.flags.c_contiguous:
            raise TypeError("the arrays of a batch are contiguous and of int32")
    return CBatch(
        len(batch.ids), len(batch.starts) - 1, batch.tables.shape[1], len(batch.outputs),
        *[array.ctypes.data for array in arrays],
    )  # fmt: skip


def _default_blocks(shape: dict[str, int], context: int, kv: str) -> int:
    number = {"f32": 4, "f16": 2, "int8": 1}[kv]
    block = 2 * shape["layers"] * shape["kv_heads"] * shape["head_width"] * BLOCK_SIZE * number
    one = -(-context // BLOCK_SIZE) + 1
    affordable = int(psutil.virtual_memory().available * _SHARE_OF_MEMORY) // block
    return max(one, min(_SEQUENCES * one, affordable))
