"""Runs a Transformer in PyTorch behind the interface of every runner: all families, any device torch knows.

On a CPU it is what the native core is compared with, and what runs the families that the core does not know.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor, nn

from cadran.engine.reading import Reading, TwoLengths
from cadran.engine.runner import Batch, Ints
from cadran.engine.torch_blocks import PagedView, TorchBlocks
from cadran.errors import UserError
from cadran.model.attention import causal_bias
from cadran.model.experts import MixtureOfExperts
from cadran.model.transformer import Transformer

if TYPE_CHECKING:
    from cadran.engine.sampler import Sampler
    from cadran.model.cache import KVCache

SEQUENCES = 4
"""Texts of full length for which there are blocks by default."""
LEAST_POSITIONS = 16_384
"""Positions for which there are blocks by default, at least: many short texts on a model of short context."""
SHARE_OF_MEMORY = 0.5
"""Most of the free memory that the blocks may come to take."""
BUCKET = 256
"""Compiled, the keys seen are filled up to a multiple of this, so that few shapes are compiled."""


class TorchRunner:
    """A Transformer that reads batches; implements ``engine.runner.Runner``.

    Args:
        model: in evaluation mode.
        blocks: how many; None finds a number by the context and the free memory. Memory is taken as they are used.
        block_size: positions in a block.
        device: where to run; None leaves the model where it is.
        compile: decode through ``torch.compile`` with keys in few shapes. Written for CUDA, and not run on one yet.
        weights: ``int8`` quantises the linear maps of ``model`` itself; None leaves them.

    Attributes:
        vocabulary: width of the logits; set it lower where the embedding has rows without a token.
    """

    name = "torch"

    def __init__(
        self,
        model: Transformer,
        *,
        blocks: int | None = None,
        block_size: int = 32,
        device: torch.device | str | None = None,
        compile: bool = False,
        weights: Literal["int8"] | None = None,
    ) -> None:
        config = model.config
        if weights == "int8":
            from cadran.engine.int8_linear import quantise_int8

            quantise_int8(model)
        self.model = model if device is None else model.to(device)
        embedding = model.model.embed_tokens.weight
        self.dtype, self.device = embedding.dtype, embedding.device
        self.context, self.vocabulary, self.width = config.context, config.vocabulary, config.width
        self.block_size = block_size
        rope = config.rope
        border = rope.original if rope is not None and rope.kind == "longrope" else 0
        stores = 2 if 0 < border < config.context else 1
        self.blocks = self._affordable_blocks(stores) if blocks is None else blocks
        self._stores = [TorchBlocks(config, self.blocks, block_size, self.dtype, self.device) for _ in range(stores)]
        self._lengths = TwoLengths(border, self.blocks, block_size) if stores == 2 else None
        self._compiled: Any = None
        if compile:
            self._compiled = torch.compile(model.hidden_states)
            for store in self._stores:
                store.reserve(self.blocks)  # tensors that move would be compiled for anew

    def _affordable_blocks(self, stores: int) -> int:
        positions = max(SEQUENCES * self.context, LEAST_POSITIONS)
        each = stores * TorchBlocks.bytes_per_block(self.model.config, self.block_size, self.dtype)
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        else:
            free = int(psutil.virtual_memory().available)
        return max(1, min(-(-positions // self.block_size), int(free * SHARE_OF_MEMORY) // each))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one token's pass reads: all, but rows looked up and experts that are not chosen."""
        total = _bytes_of(self.model)
        if self.model.lm_head.weight is not self.model.model.embed_tokens.weight:
            total -= _bytes_of(self.model.model.embed_tokens)
        if self.model.config.rope is None:
            total -= _bytes_of(self.model.model.embed_positions)
        for module in self.model.modules():
            if isinstance(module, MixtureOfExperts):
                experts = module.gate.experts
                total -= _bytes_of(module.experts) * (experts.count - experts.active) // experts.count
        return total

    @torch.inference_mode()
    def step(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Logits of the wanted tokens, shape (M, vocabulary); see ``Runner.step``.

        Raises:
            ValueError: a position beyond the context, a block that does not exist.
        """
        logits = self.model.logits(self._states(batch))[:, : self.vocabulary]
        return logits.float().cpu().numpy()

    @torch.inference_mode()
    def hidden(self, batch: Batch) -> npt.NDArray[np.float32]:
        """States of the wanted tokens after the final norm, shape (M, width)."""
        return self._states(batch).float().cpu().numpy()

    def burst(self, batch: Batch, samplers: "list[Sampler]", stops: list[tuple[int, ...]], steps: int) -> Ints:
        """Decode until a sequence stops or ``steps`` are done; see ``Runner.burst``.

        Logits that are not numbers end the burst before their token. In the very first step that sequence gets -1.

        Returns:
            Shape (taken, S).
        """
        taken: list[Ints] = []
        last = replace(batch, outputs=np.arange(len(batch.ids), dtype=np.int32))
        while len(taken) < steps:
            logits = self.step(last)
            sound = np.isfinite(logits.max(1))  # false with a NaN, an infinity, or nothing possible
            if taken and not sound.all():
                break
            chosen = np.full(len(samplers), -1, np.int32)
            for row in np.flatnonzero(sound):
                token = samplers[row].choose(logits[row], int(last.positions[row]) + 1).token
                samplers[row].accept(token)
                chosen[row] = token
            taken.append(chosen)
            if any(token < 0 or token in stop for token, stop in zip(chosen.tolist(), stops, strict=True)):
                break
            last = replace(last, ids=chosen, positions=last.positions + 1)
        return np.stack(taken)

    @torch.inference_mode()
    def copy(self, source: int, target: int, positions: int) -> None:
        """Copy the first ``positions`` of a block into another one."""
        for store in self._stores:
            store.copy(source, target, positions)
        if self._lengths is not None:
            self._lengths.copy(source, target, positions)

    @torch.inference_mode()
    def read_block(self, block: int) -> bytes:
        """Keys and values of a block, all layers; for longrope of both lengths, and what is known of them."""
        known = b"" if self._lengths is None else self._lengths.read(block)
        return known + b"".join(store.read(block) for store in self._stores)

    @torch.inference_mode()
    def write_block(self, block: int, data: bytes) -> None:
        """Restore what ``read_block`` gave.

        Raises:
            UserError: it was kept by another model, or with blocks of another size.
        """
        each = self._stores[0].block_bytes
        first = 0 if self._lengths is None else self._lengths.bytes
        if len(data) != first + len(self._stores) * each:
            raise UserError(
                f"a kept block has {len(data)} bytes and this model's have {first + len(self._stores) * each}; "
                "make the prefix again"
            )
        if self._lengths is not None:
            self._lengths.write(block, data[:first], self.model.config.vocabulary)
        for number, store in enumerate(self._stores):
            store.write(block, data[first + number * each : first + (number + 1) * each])

    def close(self) -> None:
        """Give the memory of the blocks back."""
        for store in self._stores:
            store.release()
        self._compiled = None

    def _states(self, batch: Batch) -> Tensor:
        """States after the final norm of the wanted tokens, shape (M, C)."""
        if batch.positions.max(initial=0) >= self.context:
            raise ValueError(f"position {batch.positions.max()} was asked for and the context is {self.context}")
        result = torch.empty((len(batch.outputs), self.width), dtype=self.dtype, device=self.device)
        groups: dict[tuple[int, int], list[Reading]] = defaultdict(list)
        for store, reading in self._readings(batch):
            groups[store, len(reading.ids)].append(reading)
        for (store, _), readings in groups.items():
            states = self._pass(self._stores[store], readings)
            wanted = [
                (target, row, position - reading.start)
                for row, reading in enumerate(readings)
                for target, position in reading.outputs
            ]
            if wanted:
                targets, rows, columns = torch.tensor(wanted, device=self.device).T
                result[targets] = states[rows, columns]
            if self._lengths is not None:
                for reading in readings:
                    self._lengths.done(store, reading)
        return result

    def _readings(self, batch: Batch) -> "Iterable[tuple[int, Reading]]":
        """What is to be read of each sequence, and into which store."""
        for number, table in enumerate(batch.tables):
            first, last = int(batch.starts[number]), int(batch.starts[number + 1])
            start = int(batch.positions[first])
            outputs = [
                (row, start + int(token) - first)
                for row, token in enumerate(batch.outputs)
                if first <= token < last
            ]  # fmt: skip
            reading = Reading(batch.ids[first:last], start, table, self.block_size, tuple(outputs))
            if self._lengths is None:
                yield 0, reading
            else:
                yield from self._lengths.cut(reading)

    def _pass(self, store: TorchBlocks, readings: Sequence[Reading]) -> Tensor:
        """States of sequences that read equally many tokens, shape (S, T, C)."""
        length, seen = len(readings[0].ids), max(reading.end for reading in readings)
        compiled = self._compiled is not None and length == 1
        if compiled:
            seen = -(-seen // BUCKET) * BUCKET
        slots = np.empty((len(readings), seen), np.int64)
        for row, reading in enumerate(readings):
            blocks, offsets = reading.places(0, reading.end)
            slots[row, seen - reading.end :] = blocks * self.block_size + offsets
            slots[row, : seen - reading.end] = slots[row, seen - reading.end]
        store.reserve(int(slots.max()) // self.block_size + 1)
        view = PagedView(store, slots[:, seen - length :], slots)
        bias = padding = None
        if compiled or any(reading.end < seen for reading in readings):
            padding = torch.tensor([seen - reading.end for reading in readings], device=self.device)
        if padding is not None or length > 1:
            bias = causal_bias(length, view.length, self.dtype, self.device, padding)
        ids = self._tensor([reading.ids for reading in readings])
        positions = self._tensor([np.arange(reading.start, reading.end) for reading in readings])
        run = self._compiled if compiled else self.model.hidden_states
        states: Tensor = run(ids, bias, cast("KVCache", view), positions=positions)
        return states

    def _tensor(self, rows: Sequence[npt.NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.stack(rows).astype(np.int64)).to(self.device)


def _bytes_of(module: nn.Module) -> int:
    """Bytes of a module's weights, shared ones counted once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
