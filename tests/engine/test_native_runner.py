"""The compiled core against the PyTorch model, and against itself: batch, pieces, instruction sets, blocks."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.engine.native import library
from cadran.engine.native.layout import Kind, pack_blocks, pack_floats, quantised
from cadran.engine.native.library import Unavailable
from cadran.engine.native.pack import packed_path
from cadran.engine.native.packed_file import read_packed
from cadran.engine.native.runner import NativeRunner
from cadran.engine.request import Request
from cadran.engine.runner import Batch
from cadran.engine.sampler import Sampler, SamplingParams
from cadran.engine.scheduler import Scheduler
from cadran.engine.speculation import PromptLookup
from cadran.errors import UserError
from cadran.model.attention import causal_bias
from cadran.model.checkpoint import save_model
from cadran.model.families import read_config
from cadran.model.transformer import Transformer

pytestmark = pytest.mark.skipif(not library.available(), reason=str(library.why_not()))

SIZES = {
    "vocab_size": 77, "num_hidden_layers": 3, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
    "intermediate_size": 72, "max_position_embeddings": 400, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama, untied, biases": {"model_type": "llama", "tie_word_embeddings": False, "attention_bias": True,
                              "mlp_bias": True, "head_dim": 12},
    "mistral, window": {"model_type": "mistral", "sliding_window": 40},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "gemma2": {"model_type": "gemma2", "head_dim": 20, "sliding_window": 24, "query_pre_attn_scalar": 24,
               "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "hidden_activation": "gelu_pytorch_tanh"},
    "gemma3": {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16,
               "sliding_window_pattern": 2, "hidden_activation": "gelu_pytorch_tanh"},
    "phi3, half turned": {"model_type": "phi3", "sliding_window": 200, "num_key_value_heads": 6,
                          "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "olmo2": {"model_type": "olmo2"},
    "gpt2": {"model_type": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 4, "n_positions": 400, "n_inner": 80,
             "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    "gpt2, exact gelu": {"model_type": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 4, "n_positions": 400,
                         "n_inner": 80, "activation_function": "gelu", "layer_norm_epsilon": 1e-5},
}  # fmt: skip


def made(folder: Path, content: dict[str, Any], seed: int = 0) -> Transformer:
    """A random model written to a folder; weights large enough for the attention to look at something."""
    torch.manual_seed(seed)
    model = Transformer(read_config(SIZES | content))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.6 if "norm" in name else 0.25)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    save_model(model, folder, end_of_text=0, pad=0, eos=[0])
    return model.eval()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path / "cache"))


def i32(values: Any) -> Any:
    return np.ascontiguousarray(values, np.int32)


def table(first: int, positions: int) -> Any:
    return i32([range(first, first + -(-positions // 32))])


def read(runner: NativeRunner, ids: Any, cuts: list[int], first_block: int = 0) -> Any:
    """Logits of every token of one sequence, read in pieces."""
    parts, edges = [], [0, *cuts, len(ids)]
    for low, high in pairwise(edges):
        if high > low:
            batch = Batch(i32(ids[low:high]), i32(range(low, high)), i32([0, high - low]),
                          table(first_block, len(ids)), i32(range(high - low)))  # fmt: skip
            parts.append(runner.step(batch))
    return np.concatenate(parts)


def expected(model: Transformer, ids: Any) -> Any:
    with torch.inference_mode():
        return model(torch.tensor(np.asarray(ids)[None], dtype=torch.int64))[0].numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_dense_family_gives_the_logits_of_the_pytorch_model(name: str, tmp_path: Path) -> None:
    model = made(tmp_path / "model", FAMILIES[name])
    ids = np.random.default_rng(1).integers(0, model.config.vocabulary, 300)
    wanted = expected(model, ids)
    runner = NativeRunner.open(tmp_path / "model", threads=2, blocks=40, kv="f32")
    got = read(runner, ids, [])
    assert np.abs(got - wanted).max() < 2e-4 * wanted.std()
    for kv, tolerance in (("f16", 0.01), ("int8", 0.15)):  # keys and values rounded: the mean error tells
        rounded = read(NativeRunner.open(tmp_path / "model", threads=2, blocks=40, kv=kv), ids, [])
        assert np.abs(rounded - wanted).mean() < tolerance * wanted.std()
    hidden = runner.hidden(Batch(i32(ids), i32(range(300)), i32([0, 300]), table(0, 300), i32([299])))
    with torch.inference_mode():
        bias = causal_bias(300, 0, torch.float32, torch.device("cpu"))
        states = model.hidden_states(torch.tensor(ids[None]), bias, None)[0, -1].numpy()
    assert np.abs(hidden[0] - states).max() < 2e-4 * states.std()


@pytest.mark.parametrize("kv", ["f32", "f16", "int8"])
@pytest.mark.parametrize("name", ["llama", "mistral, window", "gemma2"])
def test_pieces_and_company_change_no_bit(name: str, kv: str, tmp_path: Path) -> None:
    made(tmp_path / "model", FAMILIES[name])
    runner = NativeRunner.open(tmp_path / "model", threads=2, blocks=120, kv=kv)
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, 77, n) for n in (290, 33, 150)]
    alone = [read(runner, text, []) for text in texts]
    assert np.array_equal(read(runner, texts[0], [1, 2, 130, 131, 200, 289], 50), alone[0])

    # All three at once, each with its own tables, cut at different places, decoded token by token at the end.
    places = [table(0, 300), table(20, 300), table(40, 300)]
    done = [0, 0, 0]
    pieces: list[list[Any]] = [[], [], []]
    while any(done[i] < len(texts[i]) for i in range(3)):
        here = [i for i in range(3) if done[i] < len(texts[i])]
        takes = [min(int(rng.choice([1, 1, 3, 17, 40])), len(texts[i]) - done[i]) for i in here]
        ids = np.concatenate([texts[i][done[i] : done[i] + n] for i, n in zip(here, takes, strict=True)])
        positions = np.concatenate([range(done[i], done[i] + n) for i, n in zip(here, takes, strict=True)])
        tables = np.concatenate([places[i] for i in here])
        starts = np.cumsum([0, *takes])
        logits = runner.step(Batch(i32(ids), i32(positions), i32(starts), i32(tables), i32(range(len(ids)))))
        for order, i in enumerate(here):
            pieces[i].append(logits[starts[order] : starts[order + 1]])
            done[i] += takes[order]
    for i in range(3):
        assert np.array_equal(np.concatenate(pieces[i]), alone[i])


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_instruction_sets_and_threads_change_no_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "model", FAMILIES[name])
    ids = np.random.default_rng(3).integers(0, 77, 140)
    results = []
    for isa in library.library().cadran_isas().decode().split(","):
        monkeypatch.setenv("CADRAN_ISA", isa)
        for threads in (1, 3):
            runner = NativeRunner.open(tmp_path / "model", threads=threads, blocks=8)
            assert runner.isa == isa
            results.append(read(runner, ids, [60]))
            runner.close()
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(("temperature", "sequences"), [(0.0, 1), (0.9, 3)])
def test_a_burst_decodes_what_single_steps_do(temperature: float, sequences: int, tmp_path: Path) -> None:
    made(tmp_path / "model", FAMILIES["qwen3"])
    runner = NativeRunner.open(tmp_path / "model", threads=2, blocks=40)
    prompts = np.random.default_rng(4).integers(0, 77, (sequences, 5))
    for i, prompt in enumerate(prompts):
        read(runner, prompt[:-1], [], 4 * i)
    tables = i32([range(4 * i, 4 * i + 4) for i in range(sequences)])
    last, every = i32(prompts[:, -1]), i32(range(sequences))

    def samplers() -> list[Sampler]:
        params = SamplingParams(temperature=temperature, seed=11, top_p=0.95)
        return [Sampler(params, prompt.tolist()) for prompt in prompts]

    batch = Batch(last, i32([4] * sequences), i32(range(sequences + 1)), tables, every)
    burst = runner.burst(batch, samplers(), [()] * sequences, 40)
    assert burst.shape == (40, sequences)
    singles, tokens = samplers(), last
    for step in range(40):
        logits = runner.step(Batch(tokens, i32([4 + step] * sequences), batch.starts, tables, every))
        chosen = [s.choose(row, 5 + step).token for s, row in zip(singles, logits, strict=True)]
        for sampler, token in zip(singles, chosen, strict=True):
            sampler.accept(token)
        assert burst[step].tolist() == chosen
        tokens = i32(chosen)
    stop = int(burst[7, 0])
    first = burst[:, 0].tolist().index(stop)
    stopped = runner.burst(batch, samplers(), [(stop,), *[()] * (sequences - 1)], 40)
    assert np.array_equal(stopped, burst[: first + 1])


@pytest.mark.parametrize("kv", ["f32", "f16", "int8"])
def test_blocks_can_be_copied_saved_and_restored(kv: str, tmp_path: Path) -> None:
    made(tmp_path / "model", FAMILIES["qwen2"])
    ids = np.random.default_rng(5).integers(0, 77, 50)
    runner = NativeRunner.open(tmp_path / "model", threads=1, blocks=20, kv=kv)
    wanted = read(runner, ids, [])[-1]

    def last(blocks: list[int]) -> Any:
        return runner.step(Batch(i32(ids[-1:]), i32([49]), i32([0, 1]), i32([blocks]), i32([0])))[0]

    runner.copy(0, 7, 32)
    runner.copy(1, 9, 17)
    assert np.array_equal(last([7, 9]), wanted)
    saved = [runner.read_block(0), runner.read_block(1)]
    other = NativeRunner.open(tmp_path / "model", threads=1, blocks=5, kv=kv)
    for block, data in zip((3, 4), saved, strict=True):
        other.write_block(block, data)
    assert np.array_equal(other.step(Batch(i32(ids[-1:]), i32([49]), i32([0, 1]), i32([[3, 4]]), i32([0])))[0], wanted)
    with pytest.raises(UserError, match="bytes"):
        runner.write_block(0, saved[0][:-1])


@pytest.mark.parametrize(("drafter", "seed"), [(None, 0), (None, 1), (PromptLookup.of, 2)])
def test_what_the_scheduler_mixes_changes_no_answer(drafter: Any, seed: int, tmp_path: Path) -> None:
    """Arrivals, shared prefixes, several answers, cancellations and too few blocks, on the compiled core itself."""
    made(tmp_path / "model", FAMILIES["qwen3"])
    runner = NativeRunner.open(tmp_path / "model", threads=2, blocks=30)
    rng = np.random.default_rng(seed)
    opening = tuple(rng.integers(0, 77, 70).tolist())
    requests = [
        Request(
            id=number,
            prompt=opening[: int(rng.integers(1, 71))] + tuple(rng.integers(0, 77, int(rng.integers(0, 40))).tolist()),
            params=SamplingParams(temperature=float(rng.choice([0.0, 0.7])), seed=number, max_tokens=30),
            answers=int(rng.integers(1, 3)),
            stop_ids=(5,),
            logprobs=bool(rng.integers(2)),
        )
        for number in range(14)
    ]

    def alone(request: Request) -> dict[int, list[Any]]:
        scheduler = Scheduler(NativeRunner.open(tmp_path / "model", threads=1, blocks=30))
        scheduler.add(request)
        return collected(scheduler, {}, ())[request.id]

    def collected(scheduler: Scheduler, arrivals: dict[int, Request], dropped: tuple[int, ...]) -> Any:
        answers: dict[int, dict[int, list[Any]]] = {}
        for turn in range(2000):
            if turn in arrivals:
                scheduler.add(arrivals[turn])
            for id in dropped:
                if turn == 25 + id:
                    scheduler.cancel(id)
            if scheduler.idle and turn > max(arrivals, default=0):
                return answers
            for news in scheduler.step():
                answers.setdefault(news.request, {}).setdefault(news.answer, []).extend([*news.tokens, news.finish])
        raise AssertionError("it does not come to an end")

    scheduler = Scheduler(runner, budget=37, drafter=drafter)
    free = scheduler.free_blocks
    cancelled = (3, 8)
    together = collected(scheduler, {3 * request.id: request for request in requests}, cancelled)
    assert scheduler.free_blocks == free
    for request in requests:
        if request.id not in cancelled:
            mixed, wanted = together[request.id], alone(request)
            assert {index: [x for x in said if x] for index, said in mixed.items()} == {
                index: [x for x in said if x] for index, said in wanted.items()
            }


def test_a_token_that_is_no_number_stays_in_its_own_sequence(tmp_path: Path) -> None:
    model = made(tmp_path / "model", FAMILIES["llama, untied, biases"])
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = torch.nan
    save_model(model, tmp_path / "model", end_of_text=0, pad=0, eos=[0])
    runner = NativeRunner.open(tmp_path / "model", threads=2, blocks=8)
    clean = read(runner, [7, 8, 9], [], 2)
    assert np.isnan(read(runner, [5, 6], [], 0)).all()
    # The block that held what is no number is used again, and a place of it that was not written yet is not looked at.
    assert np.array_equal(read(runner, [7, 8, 9], [], 0), clean)
    batch = Batch(i32([5, 7, 8, 9]), i32([0, 0, 1, 2]), i32([0, 1, 4]), i32([[4], [5]]), i32(range(4)))
    logits = runner.step(batch)
    assert np.isnan(logits[0]).all()
    assert np.array_equal(logits[1:], clean)
    two = Batch(i32([6, 9]), i32([1, 3]), i32([0, 1, 2]), i32([[4], [5]]), i32([0, 1]))
    greedy = SamplingParams(temperature=0)
    burst = runner.burst(two, [Sampler(greedy, [5, 6]), Sampler(greedy, [7, 8, 9, 9])], [(), ()], 5)
    wanted = runner.step(Batch(i32([9]), i32([3]), i32([0, 1]), i32([[5]]), i32([0])))[0].argmax()
    assert burst.tolist() == [[-1, wanted]]


@given(
    rows=st.integers(1, 70), columns=st.integers(1, 200), tokens=st.integers(1, 15), seed=st.integers(0, 99),
    kind=st.sampled_from(list(Kind)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_product_is_that_of_the_decoded_weights(rows: int, columns: int, tokens: int, seed: int, kind: Kind) -> None:
    """Against float64 products of what the layout stands for and of the rounded activations; all sets bit-equal."""
    import ctypes

    from cadran.model.gguf.legacy_quants import Q4_0, Q4_1

    rng = np.random.default_rng(seed)
    groups = -(-columns // 32)
    wide = -(-columns // 64) * 64
    x = np.zeros((tokens, wide), np.float32)
    x[:, :columns] = rng.normal(size=(tokens, columns)) * rng.choice([0.01, 1.0, 30.0], (1, columns))
    dense = rng.normal(size=(rows, columns)).astype(np.float32)
    if kind == Kind.F32:
        packed, weights = pack_floats(dense, kind), dense
    elif kind == Kind.F16:
        half = dense.astype(np.float16)
        packed, weights = pack_floats(half.view(np.uint16), kind), half
    elif kind == Kind.BF16:
        bits = (dense.view(np.uint32) >> 16).astype(np.uint16)
        packed, weights = pack_floats(bits, kind), (bits.astype(np.uint32) << 16).view(np.float32)
    elif kind == Kind.I8:
        records = quantised(dense)
        packed = pack_blocks(records, kind)
        weights = (records["levels"] * records["scale"][..., None].astype(np.float64)).reshape(rows, -1)
    else:
        records = np.zeros((rows, groups), Q4_0 if kind == Kind.I4 else Q4_1)
        records["scale"] = rng.normal(size=(rows, groups))
        records["pairs"] = rng.integers(0, 256, (rows, groups, 16))
        levels = np.concatenate([records["pairs"] & 15, records["pairs"] >> 4], -1).astype(np.float64)
        scale = records["scale"][..., None].astype(np.float64)
        if kind == Kind.I4M:
            records["minimum"] = rng.normal(size=(rows, groups))
            decoded = levels * scale + records["minimum"][..., None]
        else:
            decoded = (levels - 8) * scale
        packed, weights = pack_blocks(records, kind), decoded.reshape(rows, -1)
    core = library.library()
    floats = ctypes.POINTER(ctypes.c_float)
    if kind >= Kind.I8:
        flat = np.empty_like(x)
        for row, out in zip(x, flat, strict=True):
            core.cadran_test_map(None, b"quantise", row.ctypes.data_as(floats), wide, out.ctypes.data_as(floats))
        assert np.abs(flat - x).max() <= np.abs(x).max() / 253
    else:
        flat = x
    full = np.zeros((rows, wide))
    full[:, : weights.shape[1]] = weights
    wanted = flat.astype(np.float64) @ full.T
    blocks, results = -(-rows // 16), []
    buffer = np.frombuffer(packed + bytes(64), np.uint8)
    for isa in core.cadran_isas().split(b","):
        out = np.full((tokens, blocks * 16), np.nan, np.float32)
        status = core.cadran_test_multiply(
            isa, kind, 1, buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), blocks, columns,
            x.ctypes.data_as(floats), tokens, out.ctypes.data_as(floats),
        )  # fmt: skip
        assert status == 0
        results.append(out)
    magnitude = np.abs(flat).astype(np.float64) @ np.abs(full).T + 1e-6
    assert (np.abs(results[0][:, :rows] - wanted) / magnitude).max() < 1e-5
    assert not results[0][:, rows:].any()
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_repacked_weights_are_cached_renewed_and_never_trusted(tmp_path: Path) -> None:
    made(tmp_path / "model", FAMILIES["qwen3"])
    ids = [1, 2, 3]
    first = read(NativeRunner.open(tmp_path / "model", threads=1, blocks=4), ids, [])
    cached = packed_path(tmp_path / "model")
    stamp = cached.stat().st_mtime_ns
    NativeRunner.open(tmp_path / "model", threads=1, blocks=4).close()
    assert cached.stat().st_mtime_ns == stamp
    cached.write_bytes(cached.read_bytes()[:-9])  # cut short
    assert read_packed(cached) is None
    assert np.array_equal(read(NativeRunner.open(tmp_path / "model", threads=1, blocks=4), ids, []), first)
    made(tmp_path / "model", FAMILIES["qwen3"], seed=9)
    os.utime(tmp_path / "model" / "model.safetensors", ns=(1, 1))
    second = read(NativeRunner.open(tmp_path / "model", threads=1, blocks=4), ids, [])
    assert not np.array_equal(first, second)
    assert len(list(cached.parent.glob("*.bin"))) == 1, "the repacked weights of the model as it was are gone"
    packed = packed_path(tmp_path / "model")
    content = bytearray(packed.read_bytes())
    rng = np.random.default_rng(6)
    for _ in range(60):
        damaged = bytearray(content)
        for at in rng.integers(len(content) - 3000, len(content), 3):
            damaged[at] = int(rng.integers(48, 58))  # a digit: sizes, offsets and roles change
        packed.write_bytes(damaged)
        described = read_packed(packed)
        if described is not None:
            try:
                NativeRunner(described, packed, 1, None, "f16", 4).close()
            except (UserError, KeyError, TypeError, ValueError, OverflowError):
                continue


def test_what_cannot_be_run_is_refused_with_a_reason(tmp_path: Path) -> None:
    made(tmp_path / "model", {"model_type": "llama", "rope_parameters":
                              {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}})  # fmt: skip
    with pytest.raises(Unavailable, match="PyTorch"):
        NativeRunner.open(tmp_path / "model")
    made(tmp_path / "plain", FAMILIES["llama"])
    with pytest.raises(UserError, match="threads"):
        NativeRunner.open(tmp_path / "plain", threads=0)
    with pytest.raises(UserError, match="KV cache"):
        NativeRunner.open(tmp_path / "plain", kv="int3")
    runner = NativeRunner.open(tmp_path / "plain", threads=1, blocks=2)
    for batch, why in (
        (Batch(i32([99]), i32([0]), i32([0, 1]), i32([[0]]), i32([0])), "vocabulary"),
        (Batch(i32([1]), i32([400]), i32([0, 1]), i32([[0] * 13]), i32([0])), "context"),
        (Batch(i32([1]), i32([40]), i32([0, 1]), i32([[0]]), i32([0])), "table"),
        (Batch(i32([1]), i32([0]), i32([0, 1]), i32([[2]]), i32([0])), "block"),
        (Batch(i32([1, 2]), i32([0, 2]), i32([0, 2]), i32([[0]]), i32([0])), "consecutive"),
        (Batch(i32([1, 2]), i32([0, 5]), i32([0, 1, 2]), i32([[1], [1]]), i32([0])), "written twice"),
    ):
        with pytest.raises(RuntimeError, match=why):
            runner.step(batch)
    runner.close()
    with pytest.raises(UserError, match="closed"):
        runner.step(Batch(i32([1]), i32([0]), i32([0, 1]), i32([[0]]), i32([0])))
