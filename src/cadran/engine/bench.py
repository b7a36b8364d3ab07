"""Measures an engine's runner: prefill, decode, time to first token, memory, and how near decode is to its bound.

The runner is driven as the scheduler drives it, batch by batch, without text, so that the figures are its own.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cadran.engine.bandwidth import Bandwidth, read_bandwidth
from cadran.engine.loading import Choice, open_runner
from cadran.engine.pieces import Piece, joined
from cadran.engine.runner import Runner
from cadran.engine.sampler import Sampler, SamplingParams
from cadran.engine.threads import usable_threads
from cadran.errors import UserError
from cadran.library.header import ModelHeader, read_header
from cadran.library.parts import part_of

CHUNK = 512
"""Tokens of a prompt that are read at a time."""
TOGETHER = 16
"""Sequences that are decoded together."""
BURST = 32
"""Most tokens decoded without coming back, about what a client that reads the stream leaves room for."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Repeated measurements of one thing: median, least and most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """From at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What was measured.

    Attributes:
        runner: ``native`` or ``torch``.
        reason: why it is torch, when the native core was free to run and did not.
        threads: of the computation.
        prompt_tokens, new_tokens, rounds: as asked for.
        together: sequences in ``decode_together``.
        load_seconds: until the model was ready, imports included.
        prefill: tokens a second.
        first_token: seconds from the prompt's ids to the first new id.
        decode: tokens a second of one sequence.
        decode_together: tokens a second of all sequences together.
        weight_bytes: of the weights in the files.
        memory_bytes: resident in this process after the last round, interpreter and libraries included.
        token_bytes: weights, and keys and values, that decoding one token of the one sequence reads, on average.
        bandwidth: of the machine, measured after the rounds.
    """

    runner: str
    reason: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    rounds: int
    together: int
    load_seconds: float
    prefill: Figure
    first_token: Figure
    decode: Figure
    decode_together: Figure
    weight_bytes: int
    memory_bytes: int
    token_bytes: int
    bandwidth: Bandwidth

    @property
    def memory_ratio(self) -> float:
        """Resident memory over the bytes of the weights."""
        return self.memory_bytes / max(1, self.weight_bytes)

    @property
    def bandwidth_fraction(self) -> float:
        """Share of the machine's read bandwidth that decoding reaches; above 1 where the weights fit its caches."""
        return self.decode.median * self.token_bytes / self.bandwidth.bytes_per_second

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"memory_ratio": self.memory_ratio, "bandwidth_fraction": self.bandwidth_fraction}


def bench(
    path: Path,
    choice: Choice = "auto",
    *,
    prompt_tokens: int = 512,
    new_tokens: int = 128,
    rounds: int = 5,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Measure a model.

    Args:
        path: a model directory, or a ``.gguf`` file.
        choice: of the runner.
        prompt_tokens: length of the prompt, random ids.
        new_tokens: decoded after it, in each round alone and then for several sequences together.
        rounds: of which the median counts; one more, not counted, goes before.
        threads: None takes what the machine gives.
        progress: told what is being done, a few words.

    Raises:
        UserError: a number is out of range, or the model cannot be opened.
    """
    import psutil

    numbers = {"--prompt-tokens": prompt_tokens, "--new-tokens": new_tokens, "--rounds": rounds}
    for option, number in numbers.items():
        if number < 1:
            raise UserError(f"{option} is {number}; give a positive number")
    threads = usable_threads() if threads is None else threads
    header = read_header(path)
    progress("loading")
    start = time.perf_counter()
    opened = open_runner(path, choice, threads=threads)
    load_seconds = time.perf_counter() - start
    runner = opened.runner
    try:
        rig = _Rig(runner, prompt_tokens, new_tokens)
        progress("warming up")
        rig.round()
        measured = []
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            measured.append(rig.round())
        memory = psutil.Process().memory_info().rss
        positions = prompt_tokens + (new_tokens + 1) / 2
        kept = len(runner.read_block(0)) / runner.block_size
        token_bytes = int(_weights_read(runner, header) + kept * positions)
    finally:
        runner.close()
    progress("measuring the memory's bandwidth")
    prefill, first, decode, together = zip(*measured, strict=True)
    return BenchResult(
        runner=runner.name,
        reason=opened.reason,
        threads=threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rounds=rounds,
        together=rig.sequences,
        load_seconds=load_seconds,
        prefill=Figure.of([prompt_tokens / seconds for seconds in prefill]),
        first_token=Figure.of(first),
        decode=Figure.of([new_tokens / seconds for seconds in decode]),
        decode_together=Figure.of([rig.sequences * new_tokens / seconds for seconds in together]),
        weight_bytes=header.bytes,
        memory_bytes=int(memory),
        token_bytes=token_bytes,
        bandwidth=read_bandwidth(threads),
    )


class _Rig:
    """Blocks and prompts of the rounds; every round reads and decodes the same, over what the last one left.

    The sequences that are decoded together share the prompt's full blocks, as answers to one prompt do.

    Args:
        runner: to measure.
        prompt_tokens, new_tokens: lengths.
    """

    def __init__(self, runner: Runner, prompt_tokens: int, new_tokens: int) -> None:
        self.runner, self.new_tokens = runner, new_tokens
        total = prompt_tokens + new_tokens
        if total > runner.context:
            raise UserError(
                f"{prompt_tokens} and {new_tokens} tokens are more than this model's context of {runner.context}; "
                "give fewer with --prompt-tokens and --new-tokens"
            )
        shared = prompt_tokens // runner.block_size
        own = -(-total // runner.block_size) - shared
        self.sequences = min(TOGETHER, (runner.blocks - shared) // own)
        if self.sequences < 1:
            raise UserError(
                f"{total} tokens need {shared + own} blocks of memory and there are {runner.blocks}; "
                "give fewer with --prompt-tokens"
            )
        self.partial = prompt_tokens % runner.block_size
        self.tables = [
            [*range(shared), *range(shared + number * own, shared + (number + 1) * own)]
            for number in range(self.sequences)
        ]
        generator = np.random.default_rng(0)
        self.prompt: list[int] = generator.integers(0, runner.vocabulary, prompt_tokens).tolist()
        self.others: list[int] = generator.integers(0, runner.vocabulary, self.sequences).tolist()

    def round(self) -> tuple[float, float, float, float]:
        """Seconds of prefill, to the first token, of decoding alone and of decoding together."""
        start = time.perf_counter()
        for place in range(0, len(self.prompt), CHUNK):
            ids = self.prompt[place : place + CHUNK]
            last = place + len(ids) == len(self.prompt)
            logits = self.runner.step(joined([Piece(ids, place, self.tables[0], outputs=int(last))]))
        read = time.perf_counter()
        first = self._sampler().choose(logits[0], len(self.prompt)).token
        chosen = time.perf_counter()
        alone = self._decode([first])
        if self.partial:
            shared = len(self.prompt) // self.runner.block_size
            for table in self.tables[1:]:
                self.runner.copy(self.tables[0][shared], table[shared], self.partial)
        return read - start, chosen - start, alone, self._decode(self.others)

    def _sampler(self) -> Sampler:
        return Sampler(SamplingParams(temperature=0, max_tokens=self.new_tokens), self.prompt)

    def _decode(self, tokens: list[int]) -> float:
        """Seconds in which each of the first sequences, which go on with ``tokens``, gets all its new tokens."""
        samplers = [self._sampler() for _ in tokens]
        for sampler, token in zip(samplers, tokens, strict=True):
            sampler.accept(token)
        start, done = time.perf_counter(), 0
        while done < self.new_tokens:
            position = len(self.prompt) + done
            batch = joined(
                [Piece([token], position, table) for token, table in zip(tokens, self.tables, strict=False)]
            )  # fmt: skip
            taken = self.runner.burst(batch, samplers, [()] * len(tokens), min(BURST, self.new_tokens - done))
            done += len(taken)
            tokens = taken[-1].tolist()
            if min(tokens) < 0:
                raise UserError("this model's logits are no numbers; fetch or make the model again")
        return time.perf_counter() - start


def _weights_read(runner: Runner, header: ModelHeader) -> int:
    """Bytes of weights that one token's pass reads: the runner's own count, else that of the files.

    Of an embedding that is not the head a row is read, of experts the active ones.
    """
    known = getattr(runner, "bytes_per_token", None)
    if isinstance(known, int):
        return known
    parts = dict.fromkeys(("embedding", "head", "experts"), 0)
    for tensor in header.tensors:
        part = part_of(tensor.name)
        if part in parts:
            parts[part] += tensor.bytes
    total = header.bytes
    if parts["head"]:
        total -= parts["embedding"]
    if header.sizes is not None and (experts := header.sizes.experts) is not None:
        total -= parts["experts"] * (experts.count - experts.active) // experts.count
    return total
