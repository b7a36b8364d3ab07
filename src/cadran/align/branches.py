"""Prompts with their answers in packed rows: what answers have in common is read once.

A row holds whole prompts, each followed by its answers. A document mask keeps prompts apart, a branch mask keeps the
answers of one prompt apart, and every token has the position it would have if its answer stood alone: the numbers are
those of separate rows, for the work of one. DPO reads a prompt once instead of twice, GRPO once for a whole group. What
all prompts begin with, such as the template's system turn, stands once at the beginning of a row and is seen by all.
"""

from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cadran.model.transformer import Transformer

NOBODY, EVERYBODY = -1, -2
"""Documents of padding, and of what all prompts of a row begin with."""

WIDEST = 1024
"""A row is not made longer than this for the sake of a shared prompt: scores grow with the square of its length."""

DEAR = 1000
"""Length of a row at which attention costs about as much as the maps, at a width of some hundreds."""

STRIDE, STRETCH = 8, 4
"""Lengths of rows that are tried: so far apart, and up to so many times the longest piece."""


@dataclass(frozen=True, slots=True)
class Prompted:
    """One prompt and its answers as token ids.

    Attributes:
        prompt: at least one id.
        answers: each at least one id, the stop token included where it ended by itself.
        supervised: for each answer, which of its tokens count (not those of a tool's result); None counts all.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    supervised: tuple[tuple[bool, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Branches:
    """A batch of prompts with their answers: A answers of N tokens together, in the order they were given.

    Attributes:
        ids: int64, shape (R, T).
        positions: of each token within its own conversation, int64, shape (R, T).
        documents: which prompt a token belongs to, ``EVERYBODY`` for the beginning that all of a row's prompts share,
            ``NOBODY`` for padding, int32, shape (R, T).
        branches: 0 for a prompt's own tokens, then the number of the answer, int32, shape (R, T).
        sources: where in the flattened rows the state lies that predicts each answer token, int64, shape (N,).
        targets: the answer tokens, int64, shape (N,).
        answer: which answer each belongs to, int64, shape (N,).
        valid: which of them count, bool, shape (N,).
        ends: where in the flattened rows each answer's last token lies, int64, shape (A,).
        prompts: which prompt each answer belongs to, int64, shape (A,).
        lengths: tokens of each answer, int64, shape (A,).
        tokens: how many are read, a shared prompt counted once.
    """

    ids: Tensor
    positions: Tensor
    documents: Tensor
    branches: Tensor
    sources: Tensor
    targets: Tensor
    answer: Tensor
    valid: Tensor
    ends: Tensor
    prompts: Tensor
    lengths: Tensor
    tokens: int

    @property
    def answers(self) -> int:
        """How many."""
        return len(self.lengths)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """Additive attention mask, shape (R, 1, T, T): a token sees its prompt and its own answer, up to itself."""
        length = self.ids.shape[1]
        document, branch = self.documents, self.branches
        seen = document[:, :, None] == document[:, None, :]
        seen &= (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
        seen |= document[:, None, :] == EVERYBODY
        seen &= torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        return torch.zeros(seen.shape, dtype=dtype, device=self.ids.device).masked_fill_(~seen, -torch.inf)[:, None]

    def to(self, device: torch.device) -> "Branches":
        """The same batch elsewhere."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tokens"}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **moved)


@dataclass(slots=True)
class _Piece:
    """A prompt and some of its answers, which lie together in a row."""

    document: int
    prompt: tuple[int, ...]
    answers: list[tuple[int, tuple[int, ...]]]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(len(answer) for _, answer in self.answers)


def pack_answers(
    items: Sequence[Prompted], context: int, pad: int, *, share: bool = True, widest: int = WIDEST
) -> Branches:
    """Lay prompts and their answers out in rows, the longest first, each where it fits best.

    Args:
        items: at least one, with at least one answer among them.
        context: most tokens of a prompt and one of its answers.
        pad: id put in empty places.
        share: whether a prompt is read once for all of its answers, and what all prompts begin with once a row. A
            model whose layers see a window of positions counts them along the row, and needs its answers apart.
        widest: longest row; a prompt whose answers do not fit beside each other is repeated.

    Raises:
        ValueError: an empty prompt or answer, or one of them is too long.
    """
    pieces: list[_Piece] = []
    common = _common([item.prompt for item in items if item.answers]) if share else 0
    lengths: list[int] = []
    prompts: list[int] = []
    flags: list[npt.NDArray[np.bool_]] = []
    for number, item in enumerate(items):
        if not item.prompt or not all(item.answers):
            raise ValueError(f"item {number} has an empty prompt or answer")
        longest = max((len(answer) for answer in item.answers), default=0)
        if len(item.prompt) + longest > context:
            raise ValueError(f"item {number} has {len(item.prompt) + longest} tokens and the context is {context}")
        numbered = [(len(lengths) + index, answer) for index, answer in enumerate(item.answers)]
        pieces += _pieces(number, item.prompt[common:], numbered, widest - common if share else 0)
        lengths += [len(answer) for answer in item.answers]
        prompts += [number] * len(item.answers)
        for index, answer in enumerate(item.answers):
            flags.append(np.ones(len(answer), bool) if item.supervised is None else np.array(item.supervised[index]))
            if len(flags[-1]) != len(answer):
                raise ValueError(f"answer {index} of item {number} has another length than its mask")
    if not lengths:
        raise ValueError("there is no answer")
    rows, width = _rows(pieces, common)
    beginning = next(item.prompt[:common] for item in items if item.answers)
    return _laid_out(rows, width, beginning, pad, lengths, prompts, np.concatenate(flags))


def _common(prompts: list[tuple[int, ...]]) -> int:
    """How many tokens all prompts begin with; at least one of each is left, and a single prompt shares none."""
    alike = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False)))
    return min(alike, *(len(prompt) - 1 for prompt in prompts)) if len(prompts) > 1 and all(prompts) else 0


def _pieces(
    document: int, prompt: tuple[int, ...], answers: list[tuple[int, tuple[int, ...]]], widest: int
) -> Iterator[_Piece]:
    piece = _Piece(document, prompt, [])
    for numbered in answers:
        if piece.answers and piece.length + len(numbered[1]) > widest:
            yield piece
            piece = _Piece(document, prompt, [])
        piece.answers.append(numbered)
    if piece.answers:
        yield piece


def _rows(pieces: list[_Piece], common: int) -> tuple[list[list[_Piece]], int]:
    """Pieces by row, and the length of every row, ``common`` tokens at its beginning included.

    A row as long as the longest piece wastes what the others do not fill; longer rows waste less and read the common
    beginning less often, but attention grows with them.
    """
    pieces = sorted(pieces, key=lambda piece: (-piece.length, piece.answers[0][0]))
    longest, total = pieces[0].length, sum(piece.length for piece in pieces)
    most = max(longest, min(total, STRETCH * longest, WIDEST - common))
    tried = (_filled(pieces, width) for width in (*range(longest, most, STRIDE), most))
    rows, width = min(tried, key=lambda found: len(found[0]) * (common + found[1]) * (DEAR + common + found[1]))
    return rows, common + width


def _filled(pieces: list[_Piece], width: int) -> tuple[list[list[_Piece]], int]:
    """Pieces by row, each where it fits best, and the length of the fullest row; the longest piece comes first."""
    rows: list[list[_Piece]] = []
    room: list[tuple[int, int]] = []  # (free places, row), sorted
    for piece in pieces:
        index = bisect_right(room, (piece.length, -1))
        if index == len(room):
            rows.append([])
            insort(room, (width, len(rows) - 1))
            index = len(room) - 1
        free, row = room.pop(index)
        rows[row].append(piece)
        insort(room, (free - piece.length, row))
    return rows, width - room[0][0]


def _laid_out(
    rows: list[list[_Piece]],
    width: int,
    common: tuple[int, ...],
    pad: int,
    lengths: list[int],
    prompts: list[int],
    valid: npt.NDArray[np.bool_],
) -> Branches:
    shape = (len(rows), width)
    ids, positions = np.full(shape, pad, np.int64), np.zeros(shape, np.int64)
    documents, branches = np.full(shape, NOBODY, np.int32), np.zeros(shape, np.int32)
    firsts = np.concatenate(([0], np.cumsum(lengths)))
    sources, targets = np.zeros(firsts[-1], np.int64), np.zeros(firsts[-1], np.int64)
    ends = np.zeros(len(lengths), np.int64)
    tokens = 0
    first = len(common)
    ids[:, :first], positions[:, :first], documents[:, :first] = common, np.arange(first), EVERYBODY
    for row, pieces in enumerate(rows):
        column = first
        tokens += first
        for document, piece in enumerate(pieces):
            tokens += piece.length
            end = column + len(piece.prompt)
            after = first + len(piece.prompt)  # position of an answer's first token
            ids[row, column:end] = piece.prompt
            positions[row, column:end] = np.arange(first, after)
            documents[row, column : column + piece.length] = document
            last = end - 1
            for branch, (number, answer) in enumerate(piece.answers, start=1):
                start, end = end, end + len(answer)
                ids[row, start:end], branches[row, start:end] = answer, branch
                positions[row, start:end] = np.arange(after, after + len(answer))
                mine = slice(firsts[number], firsts[number + 1])
                sources[mine] = row * width + np.array([last, *range(start, end - 1)])
                targets[mine] = answer
                ends[number] = row * width + end - 1
            column = end
    answer_of = np.repeat(np.arange(len(lengths)), lengths)
    made = torch.from_numpy
    return Branches(
        ids=made(ids),
        positions=made(positions),
        documents=made(documents),
        branches=made(branches),
        sources=made(sources),
        targets=made(targets),
        answer=made(answer_of),
        valid=made(valid),
        ends=made(ends),
        prompts=torch.tensor(prompts),
        lengths=torch.tensor(lengths),
        tokens=tokens,
    )


def shares_prompts(model: Transformer) -> bool:
    """Whether answers of one prompt may lie behind it in one row: not where a layer counts positions along the row."""
    return model.config.window is None


def pack_for(model: Transformer, items: Sequence[Prompted], pad: int = 0) -> Branches:
    """Rows for a model, where its weights are; see ``pack_answers``."""
    batch = pack_answers(items, model.config.context, pad, share=shares_prompts(model))
    return batch.to(next(model.parameters()).device)


def hidden_of(model: Transformer, batch: Branches, dtype: torch.dtype | None = None) -> Tensor:
    """Final states of all places, shape (R * T, C).

    Args:
        model: any; its dropout, if it has any, is as the model's mode says.
        batch: where the model is.
        dtype: of the matrix products; None takes the weights' own.

    Raises:
        ValueError: answers share prompts, and the model counts positions along the row.
    """
    if not shares_prompts(model) and bool((batch.branches > 1).any()):
        raise ValueError("this model sees a window of positions; pack its answers apart (share=False)")
    kind = dtype or next(model.parameters()).dtype
    states = model.hidden_states(batch.ids, batch.bias(kind), None, kind, batch.positions)
    return states.reshape(-1, states.shape[-1])


def answer_states(model: Transformer, batch: Branches, dtype: torch.dtype | None = None) -> Tensor:
    """The states that predict the answers' tokens, shape (N, C)."""
    return hidden_of(model, batch, dtype)[batch.sources]


def per_answer(values: Tensor, batch: Branches) -> Tensor:
    """Sums of values of tokens, shape (N,), over those of each answer that count, shape (A,)."""
    counted = torch.where(batch.valid, values, torch.zeros_like(values))
    return torch.zeros(batch.answers, dtype=values.dtype, device=values.device).index_add(0, batch.answer, counted)
