"""The rows that all sides of ``sft.py`` learn from: rendered and tokenised once, by Cadran."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cadran.engine.loading import open_tokenizer
from cadran.train.loss import IGNORED
from cadran.train.packing import epoch_rows


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation: its ids up to the last supervised one, and which of them are learnt."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch of packed rows; ``tokens`` counts what is real, with a common prefix once for each conversation."""

    ids: Tensor
    targets: Tensor
    bias: Tensor
    positions: Tensor | None
    tokens: int

    def pieces(self, rows: int) -> Iterator["Packed"]:
        """The same in micro-batches of so many rows."""
        for start in range(0, len(self.ids), rows):
            cut = slice(start, start + rows)
            positions = None if self.positions is None else self.positions[cut]
            yield Packed(self.ids[cut], self.targets[cut], self.bias[cut], positions, 0)


def read_rows(model: Path, data: Path) -> list[Row]:
    """Rows of ``instruction``, ``input`` and ``output`` in a model's own chat template."""
    _, renderer = open_tokenizer(model, None)
    if renderer is None:
        raise ValueError(f"{model} has no chat template")
    rows = []
    for entry in json.loads(data.read_text(encoding="utf-8")):
        asked = entry["instruction"] + (f"\n\n{entry['input']}" if entry["input"] else "")
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": entry["output"]}]
        rendered = renderer.render(messages)
        end = int(np.flatnonzero(rendered.supervised)[-1]) + 1
        rows.append(Row(tuple(rendered.ids[:end]), tuple(bool(one) for one in rendered.supervised[:end])))
    return rows


def best_length(lengths: list[int]) -> int:
    """A length of packed rows at which little is padding and attention, quadratic in it, is still cheap."""

    def cost(length: int) -> float:
        rows = epoch_rows(lengths, length, 0, 0, split=False)
        return len(rows) * length * (1 + length / 1000)

    longest = -(-max(lengths) // 8) * 8
    return min(range(longest, 2 * longest + 1, 8), key=cost)


def packed_batches(rows: list[Row], tokens: int, seed: int) -> list[Packed]:
    """One epoch of packed rows; every batch reads about so many tokens."""
    lengths = [len(row.ids) - 1 for row in rows]
    context = best_length(lengths)
    whole = epoch_rows(lengths, context, seed, 0, split=False)
    each = max(1, tokens // context)
    groups = [whole[i : i + each] for i in range(0, len(whole), each)]
    return [_packed([[rows[piece.document] for piece in row] for row in group], context, 0) for group in groups]


def shared_batches(rows: list[Row], tokens: int, width: int, seed: int) -> list[Packed]:
    """The same conversations with the ids that all of them begin with read once a row of ``width``."""
    first = rows[0]
    prefix = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*(row.ids for row in rows), strict=False)))
    prefix = min(prefix, first.supervised.index(True) - 1)
    lengths = [len(row.ids) - 1 - prefix for row in rows]
    whole = epoch_rows(lengths, width - prefix, seed, 0, split=False)
    each = max(1, tokens // width)
    groups = [whole[i : i + each] for i in range(0, len(whole), each)]
    return [_packed([[rows[piece.document] for piece in row] for row in group], width, prefix) for group in groups]


def _packed(rows: list[list[Row]], width: int, prefix: int) -> Packed:
    """Rows of conversations side by side, the first ``prefix`` ids of all of them once at the row's beginning."""
    shape = (len(rows), width)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    targets, segments = np.full(shape, IGNORED, np.int64), np.full(shape, -1, np.int64)
    real = 0
    for r, row in enumerate(rows):
        ids[r, :prefix], positions[r, :prefix], segments[r, :prefix] = row[0].ids[:prefix], np.arange(prefix), 0
        column = prefix
        for number, one in enumerate(row, start=1):
            real += len(one.ids)
            own, learnt = np.array(one.ids[prefix:]), np.array(one.supervised[prefix:])
            end = column + len(own) - 1
            ids[r, column:end], segments[r, column:end] = own[:-1], number
            positions[r, column:end] = np.arange(prefix, prefix + len(own) - 1)
            targets[r, column:end] = np.where(learnt[1:], own[1:], IGNORED)
            column = end
    key, query = torch.from_numpy(segments)[:, None, :], torch.from_numpy(segments)[:, :, None]
    seen = ((key == query) | ((key == 0) & (query > 0))) & torch.ones(width, width, dtype=torch.bool).tril()
    bias = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None]
    # Rotary angles are relative: without a shared prefix each conversation may keep the columns it lies in.
    places = torch.from_numpy(positions) if prefix else None
    return Packed(torch.from_numpy(ids), torch.from_numpy(targets), bias, places, real)
