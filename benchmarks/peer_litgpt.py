"""The training step of ``litgpt``'s pre-training: its ``GPT`` in the shape of Llama, its chunked cross-entropy, fp32.

Its own loop compiles the model, so ``compiled=True`` is what its users run; both are offered. Its optimizer is fused on
CUDA only; here it is fused for every side.
"""

import torch
from torch import Tensor

from adamw_step import AdamWStep, random_ids
from cadran.model.config import ModelConfig


def make_step(shape: ModelConfig, rows: int, threads: int, compiled: bool = False) -> AdamWStep:
    """A step of ``litgpt``'s GPT.

    Args:
        shape: sizes; there are no norms on queries and keys, the rest is equal.
        rows: rows of ``shape.context`` targets in a batch.
        threads: torch's thread count, set for the whole process.
        compiled: wrap the model in ``torch.compile``.

    Returns:
        The step; a batch is one tensor of ids, shape (rows, context + 1).
    """
    from litgpt.config import Config  # type: ignore[import-untyped]
    from litgpt.model import GPT  # type: ignore[import-untyped]
    from litgpt.utils import chunked_cross_entropy  # type: ignore[import-untyped]

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = Config(
        name="benchmark",
        block_size=shape.context,
        n_layer=shape.layers,
        n_embd=shape.width,
        vocab_size=shape.vocabulary,
        padded_vocab_size=shape.vocabulary,
        n_head=shape.heads,
        n_query_groups=shape.kv_heads,
        head_size=shape.head_width,
        norm_class_name="RMSNorm",
        norm_eps=shape.norm_epsilon,
        parallel_residual=False,
        rotary_percentage=1.0,
        rope_base=int(shape.rope.base),
        bias=False,
        mlp_class_name="LLaMAMLP",
        intermediate_size=shape.hidden,
    )
    model = GPT(config)
    model.apply(model._init_weights)
    if shape.tied:
        model.transformer.wte.weight = model.lm_head.weight
    run = torch.compile(model, dynamic=False) if compiled else model

    def loss(ids: Tensor) -> Tensor:
        result: Tensor = chunked_cross_entropy(run(ids[:, :-1]), ids[:, 1:])
        return result

    return AdamWStep(model, loss, random_ids(shape.vocabulary, rows, shape.context + 1))
