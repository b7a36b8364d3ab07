"""The torch runner: paged, cut into pieces, in company, across longrope's border: always the whole forward pass."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.engine.int8_linear import Int8Linear, quantise_int8
from cadran.engine.pieces import Piece, joined
from cadran.engine.torch_runner import TorchRunner
from cadran.errors import UserError
from cadran.model.config import Experts, Latent, ModelConfig, Rope
from cadran.model.transformer import Transformer

CONTEXT, BLOCK = 48, 4
PLAIN = ModelConfig(
    vocabulary=53, layers=2, width=16, heads=4, kv_heads=2, head_width=8, hidden=24, context=CONTEXT
)  # fmt: skip
BORDER = 20
LONGROPE = Rope(kind="longrope", original=BORDER, short=(1.0, 1.5, 2.0, 3.0), long=(2.0, 4.0, 6.0, 9.0), base=100.0)
KINDS: dict[str, ModelConfig] = {
    "plain": PLAIN,
    "learnt positions": replace(
        PLAIN, rope=None, norm="layer", qk_norm=None, gated=False, activation="gelu_tanh", qkv_bias=True,
        output_bias=True, mlp_bias=True, family="gpt2",
    ),
    "windows and caps": replace(
        PLAIN, layers=3, window=5, windowed=(True, False, True), attention_cap=3.0, logit_cap=5.0, norm_order="both",
        norm_offset=1.0, embedding_scale=4.0, local_rope=Rope(base=100.0), tied=False,
    ),
    "dynamic": replace(PLAIN, rope=Rope(kind="dynamic", factor=4.0)),
    "longrope": replace(PLAIN, rope=LONGROPE, window=7, windowed=(True, True)),
    "experts": replace(PLAIN, experts=Experts(count=4, active=2, hidden=12, sparse=(False, True), shared=1)),
    "latent": replace(
        PLAIN, kv_heads=4, latent=Latent(query_rank=0, rank=12, plain=8, rotary=4, value=6), qk_norm=None
    ),
}  # fmt: skip
over_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_model(config: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def runner_of(kind: str, **options: Any) -> TorchRunner:
    return TorchRunner(random_model(KINDS[kind]), block_size=BLOCK, **({"blocks": 60} | options))


def ids_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, PLAIN.vocabulary, length).tolist()  # type: ignore[no-any-return]


def whole(runner: TorchRunner, ids: list[int]) -> np.ndarray:
    """Logits after each token of a text that ends there, shape (T, V), by full forward passes."""
    config = runner.model.config
    with torch.no_grad():
        result = runner.model(torch.tensor([ids]))[0].numpy()
        if config.rope is not None and config.rope.kind == "longrope" and len(ids) > BORDER:
            result[:BORDER] = runner.model(torch.tensor([ids[:BORDER]]))[0].numpy()
    return result  # type: ignore[no-any-return]


def cut(length: int, places: set[int]) -> list[tuple[int, int]]:
    ends = sorted({place for place in places if 0 < place < length} | {length})
    return list(zip([0, *ends[:-1]], ends, strict=True))


@over_kinds
@settings(max_examples=8)
@given(places=st.sets(st.integers(1, CONTEXT - 1), max_size=6), data=st.data())
def test_pieces_in_scattered_blocks_give_the_logits_of_the_whole_text(
    kind: str, places: set[int], data: st.DataObject
) -> None:
    runner, ids = runner_of(kind), ids_of(CONTEXT)
    table = data.draw(st.permutations(range(60)))[: CONTEXT // BLOCK]
    found = [
        runner.step(joined([Piece(ids[start:end], start, table, outputs=end - start)]))
        for start, end in cut(CONTEXT, places)
    ]
    assert np.abs(np.concatenate(found) - whole(runner, ids)).max() < 1e-5


@over_kinds
def test_token_after_token_gives_the_logits_of_the_whole_text(kind: str) -> None:
    runner, ids = runner_of(kind), ids_of(CONTEXT)
    table = list(range(5, 5 + CONTEXT // BLOCK))
    found = [runner.step(joined([Piece([token], place, table)]))[0] for place, token in enumerate(ids)]
    assert np.abs(np.stack(found) - whole(runner, ids)).max() < 1e-5


@over_kinds
@settings(max_examples=8)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 18)), min_size=2, max_size=4),
    single=st.booleans(),
)
def test_sequences_in_one_batch_get_what_they_get_alone(
    kind: str, lengths: list[tuple[int, int]], single: bool
) -> None:
    """Of unequal lengths, decoding together with prompts; what was read before lies in blocks."""
    runner, alone = runner_of(kind), runner_of(kind)
    pieces = []
    for number, (before, new) in enumerate(lengths):
        new = 1 if single else new
        ids, table = ids_of(before + new, number), list(range(15 * number, 15 * number + 12))
        for each in (runner, alone):
            if before:
                each.step(joined([Piece(ids[:before], 0, table, outputs=0)]))
        pieces.append(Piece(ids[before:], before, table, outputs=min(2, new)))
    together = runner.step(joined(pieces))
    apart = np.concatenate([alone.step(joined([piece])) for piece in pieces])
    assert together.shape == apart.shape and np.abs(together - apart).max() < 1e-5


@over_kinds
def test_blocks_are_copied_and_come_back_from_bytes(kind: str) -> None:
    runner, ids = runner_of(kind), ids_of(BORDER + 6)
    table, expected = list(range(7)), whole(runner, ids)
    start = BORDER + 2  # longrope: blocks of both kinds, or of one only
    runner.step(joined([Piece(ids[: BORDER - 3], 0, table, outputs=0)]))
    runner.step(joined([Piece(ids[BORDER - 3 : start], BORDER - 3, table, outputs=0)]))
    kept = [runner.read_block(block) for block in table]
    assert len({len(data) for data in kept}) == 1

    moved = [40 + block for block in table]
    for source, target in zip(table, moved, strict=True):
        runner.copy(source, target, 2 if source == start // BLOCK else BLOCK)
    late = runner.step(joined([Piece(ids[start:], start, moved, outputs=4)]))
    assert np.abs(late - expected[start:]).max() < 1e-5
    assert [runner.read_block(block) for block in table] == kept  # the copies are their own

    other = runner_of(kind)
    for block, data in zip(moved, kept, strict=True):
        other.write_block(block, data)
    assert [other.read_block(block) for block in moved] == kept
    late = other.step(joined([Piece(ids[start:], start, moved, outputs=4)]))
    assert np.abs(late - expected[start:]).max() < 1e-5
    with pytest.raises(UserError, match="make the prefix again"):
        runner.write_block(0, kept[0][:-1])


def test_ids_that_cannot_be_are_refused_in_a_kept_block() -> None:
    runner = runner_of("longrope")
    data = bytearray(runner.read_block(0))
    data[:4] = (53).to_bytes(4, "little")
    with pytest.raises(UserError, match="ids"):
        runner.write_block(0, bytes(data))


def test_a_long_and_a_short_text_share_the_blocks_of_their_beginning() -> None:
    """With longrope: the long one has them read again, and the short one goes on as if nothing had been."""
    runner, ids = runner_of("longrope"), ids_of(CONTEXT)
    shared = [3, 9, 1]  # twelve positions
    long, short = [*shared, *range(20, 29)], [*shared, 40, 41]
    runner.step(joined([Piece(ids[:12], 0, shared, outputs=0)]))
    other = ids[:12] + ids_of(8, 7)
    runner.step(joined([Piece(other[12:16], 12, short, outputs=0)]))
    found = runner.step(joined([Piece(ids[12:], 12, long, outputs=CONTEXT - 12)]))
    assert np.abs(found - whole(runner, ids)[12:]).max() < 1e-5
    found = runner.step(joined([Piece(other[16:], 16, short, outputs=4)]))
    assert np.abs(found - whole(runner, other)[16:]).max() < 1e-5
    # And the other way: what only a long text left there.
    runner.step(joined([Piece(ids, 0, long)]))
    found = runner.step(joined([Piece(other[12:], 12, short, outputs=8)]))
    assert np.abs(found - whole(runner, other)[12:]).max() < 1e-5


def test_rejected_guesses_are_written_over() -> None:
    for kind in ("plain", "longrope"):
        runner, ids = runner_of(kind), ids_of(30)
        table = list(range(10))
        runner.step(joined([Piece(ids[:18], 0, table, outputs=0)]))
        runner.step(joined([Piece(ids_of(6, 5), 18, table, outputs=6)]))  # over the border, then back
        found = runner.step(joined([Piece(ids[18:], 18, table, outputs=12)]))
        assert np.abs(found - whole(runner, ids)[18:]).max() < 1e-5, kind


def test_hidden_states_are_those_before_the_head() -> None:
    runner, ids = runner_of("windows and caps"), ids_of(9)
    batch = joined([Piece(ids, 0, [4, 2, 7], outputs=3)])
    states = runner.hidden(batch)
    assert states.shape == (3, runner.width)
    with torch.no_grad():
        logits = runner.model.logits(torch.from_numpy(states)).numpy()
    assert np.abs(logits - runner.step(batch)).max() < 1e-6


def test_logits_are_as_wide_as_the_vocabulary_that_was_set() -> None:
    runner, ids = runner_of("plain"), ids_of(5)
    runner.vocabulary = 50
    assert np.abs(runner.step(joined([Piece(ids, 0, [0, 1])])) - whole(runner, ids)[-1:, :50]).max() < 1e-5


def test_memory_is_taken_as_blocks_are_used() -> None:
    runner = TorchRunner(random_model(replace(PLAIN, context=100_000)), block_size=16)
    assert runner.blocks >= 100_000 // 16
    runner.step(joined([Piece(ids_of(20), 0, [0, 1])]))
    assert runner._stores[0].room <= 8
    runner.close()
    assert runner._stores[0].room == 0


def test_what_does_not_exist_is_refused() -> None:
    runner = runner_of("plain")
    with pytest.raises(ValueError, match="context is 48"):
        runner.step(joined([Piece([1], CONTEXT, list(range(13)))]))
    with pytest.raises(ValueError, match="there are 60"):
        runner.step(joined([Piece([1], 0, [60])]))


class Greedy:
    """As much of a sampler as a burst needs."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.accepted: list[int] = []

    def choose(self, logits: np.ndarray, position: int) -> Any:
        self.positions.append(position)
        return type("Scored", (), {"token": int(logits.argmax())})

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def prompts_read(runner: TorchRunner) -> tuple[list[list[int]], list[list[int]]]:
    prompts, tables = [ids_of(7), ids_of(11, 3)], [list(range(10)), list(range(20, 30))]
    for ids, table in zip(prompts, tables, strict=True):
        runner.step(joined([Piece(ids[:-1], 0, table, outputs=0)]))
    return prompts, tables


def test_a_burst_is_greedy_decoding_step_by_step() -> None:
    runner = runner_of("windows and caps")
    prompts, tables = prompts_read(runner)
    samplers: Any = [Greedy(), Greedy()]
    batch = joined([Piece(ids[-1:], len(ids) - 1, table) for ids, table in zip(prompts, tables, strict=True)])
    taken = runner.burst(batch, samplers, [(), ()], 9)
    assert taken.shape == (9, 2) and taken.dtype == np.int32
    for number, ids in enumerate(prompts):
        text = list(ids)
        for token in taken[:, number].tolist():
            assert int(whole(runner, text)[-1].argmax()) == token
            text.append(token)
        assert samplers[number].accepted == taken[:, number].tolist()
        assert samplers[number].positions == list(range(len(ids), len(ids) + 9))


def test_a_burst_returns_when_a_sequence_stops() -> None:
    runner = runner_of("plain")
    prompts, tables = prompts_read(runner)
    batch = joined([Piece(ids[-1:], len(ids) - 1, table) for ids, table in zip(prompts, tables, strict=True)])
    samplers: Any = [Greedy(), Greedy()]
    free = runner.burst(batch, samplers, [(), ()], 8)[:, 1].tolist()
    samplers = [Greedy(), Greedy()]
    taken = runner.burst(batch, samplers, [(), (free[3],)], 8)
    assert taken[:, 1].tolist() == free[: free.index(free[3]) + 1]
    assert samplers[0].accepted == taken[:, 0].tolist()


def test_logits_that_are_no_numbers_end_a_burst_before_anything_is_chosen() -> None:
    runner = runner_of("plain")
    prompts, tables = prompts_read(runner)
    batch = joined([Piece(ids[-1:], len(ids) - 1, table) for ids, table in zip(prompts, tables, strict=True)])
    step = runner.step
    calls = []

    def poisoned(batch: Any) -> np.ndarray:
        logits = step(batch)
        calls.append(1)
        if len(calls) >= 3:
            logits[1, 0] = np.nan
        return logits

    runner.step = poisoned  # type: ignore[method-assign]
    samplers: Any = [Greedy(), Greedy()]
    taken = runner.burst(batch, samplers, [(), ()], 8)
    assert taken.shape == (2, 2) and (taken >= 0).all()
    taken = runner.burst(batch, samplers, [(), ()], 8)
    assert taken.shape == (1, 2) and taken[0, 0] >= 0 and taken[0, 1] == -1
    assert len(samplers[0].accepted) == 3 and len(samplers[1].accepted) == 2


def test_bytes_per_token_leave_out_what_is_not_read() -> None:
    plain = runner_of("plain")
    assert plain.bytes_per_token == 4 * sum(p.numel() for p in plain.model.parameters())  # a tied head is read whole
    untied = TorchRunner(random_model(replace(PLAIN, tied=False)), blocks=1)
    assert untied.bytes_per_token == plain.bytes_per_token
    experts = runner_of("experts")
    every = 4 * sum(p.numel() for p in experts.model.parameters())
    half = 4 * 2 * 3 * 16 * 12  # two of four experts of three matrices
    assert experts.bytes_per_token == every - half


@over_kinds
def test_int8_weights_are_the_rounded_ones(kind: str) -> None:
    rounded, model = random_model(KINDS[kind]), random_model(KINDS[kind])
    worst = 0.0
    with torch.no_grad():
        for name, module in list(rounded.named_modules()):
            if type(module) is torch.nn.Linear and name != "lm_head":
                small = Int8Linear(module)
                weight = small.weight.float() * small.scale[:, None]
                step = module.weight.abs().amax(1, keepdim=True) / 127
                worst = max(worst, ((weight - module.weight).abs() / step).max().item())
                module.weight.copy_(weight)
        head = Int8Linear(rounded.lm_head)
        rounded.lm_head = torch.nn.Linear(16, 53, bias=False)
        rounded.lm_head.weight = torch.nn.Parameter(head.weight.float() * head.scale[:, None])
        ids = ids_of(BORDER)
        expected = rounded(torch.tensor([ids]))[0].numpy()
    runner = TorchRunner(model, blocks=8, block_size=4, weights="int8")
    assert 0 < worst <= 0.5001
    assert any(isinstance(module, Int8Linear) for module in model.modules())
    found = runner.step(joined([Piece(ids, 0, list(range(8)), outputs=BORDER)]))
    assert np.abs(found - expected).max() < 1e-4


def test_int8_in_sixteen_bits_is_close_for_any_width() -> None:
    """torch's fused product reads beyond rows of other widths than multiples of 32; it must not be used there."""
    for width in (30, 64):
        layer = torch.nn.Linear(width, 40, dtype=torch.bfloat16)
        model = torch.nn.Sequential(layer)
        quantise_int8(model)
        for rows in (1, 8, 9):
            x = torch.randn(2, rows, width, generator=torch.Generator().manual_seed(rows)).bfloat16()
            with torch.no_grad():
                assert (model(x) - layer(x)).abs().max() < 0.05
