"""Our GGUF files in llama.cpp itself: they open, split text as we do, and continue greedily as the checkpoint does.

Needs ``pip install llama-cpp-python``, which compiles llama.cpp for some minutes.
"""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytestmark = pytest.mark.slow

CONTINUED = 32  # tokens
NEAR = 0.02  # of the spread of the logits: llama.cpp rounds what it multiplies by float16 weights to float16
TEXT = "Once upon a time there was a little girl who liked to play outside, and once there was a cat who did not. "
DENSE = {
    "llama": {},
    "llama biased": {},
    "llama 3.2": {},
    "llama linear": {},
    "llama yarn": {},
    "mistral": {"sliding_window": None},  # llama.cpp has no window for this architecture
    "qwen2": {},
    "qwen3": {},
    "gemma2": {},
    "gemma3": {},
    "phi3": {"sliding_window": None},  # and has switched it off for this one
    "phi3 longrope": {
        "original_max_position_embeddings": 128
    },  # it takes the divisors for the context that was asked for
    "olmo2": {},
    "gpt2": {},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-level vocabulary with a few merges, and its folder."""
    from cadran.tokenizer.bpe import train_bpe

    folder = tmp_path_factory.mktemp("tokenizer")
    trained = train_bpe([TEXT * 20], 300)
    trained.save(folder)
    return trained, folder


def greedy(model, ids, count):
    """The checkpoint's own continuation, and how far the best logit was above the second."""
    ids, gaps = list(ids), []
    for _ in range(count):
        with torch.no_grad():
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        ids.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
    return ids[-count:], gaps


@pytest.mark.parametrize("name", DENSE)
def test_llama_cpp_continues_our_export_as_the_checkpoint_does(name, tokenizer, tmp_path):
    from tiny_checkpoints import checkpoint

    from cadran.model.gguf.translate import export_gguf
    from cadran.tokenizer.gguf_vocabulary import gguf_metadata

    trained, folder = tokenizer
    size = trained.vocabulary_size
    config, weights = checkpoint(name, tmp_path / "checkpoint", vocab_size=size, **DENSE[name])
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    vocabulary = gguf_metadata((folder / "tokenizer.json").read_text(encoding="utf-8"), settings, size)
    path = tmp_path / "model.gguf"
    export_gguf(path, config, weights, vocabulary, "f16", "tiny")
    opened = llama_cpp.Llama(
        str(path), n_ctx=96, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip
    prompt = trained.encode(TEXT)[:20]
    assert opened.tokenize(TEXT.encode(), add_bos=False, special=False) == trained.encode(TEXT)

    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    ours, gaps = greedy(model, prompt, CONTINUED)
    with torch.no_grad():
        wanted = model(torch.tensor([prompt + ours])).logits[0].numpy()
    near = NEAR * wanted.std()
    opened.eval(prompt + ours)
    np.testing.assert_allclose(opened.scores[: len(wanted)], wanted, rtol=0, atol=near)

    opened.reset()
    theirs = list(itertools.islice(opened.generate(prompt, temp=0.0, repeat_penalty=1.0), CONTINUED))
    # Where the two best logits all but tie the rounding decides, and from there on the texts are two.
    different = [place for place in range(CONTINUED) if ours[place] != theirs[place]]
    assert not different or gaps[different[0]] < near, (ours, theirs)
