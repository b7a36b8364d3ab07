"""The training step of a plain ``transformers`` loop: ``LlamaForCausalLM`` with ``labels=``, fp32, SDPA attention."""

import torch
from torch import Tensor

from adamw_step import AdamWStep, random_ids
from cadran.model.config import ModelConfig


def make_step(shape: ModelConfig, rows: int, threads: int, compiled: bool = False) -> AdamWStep:
    """A step of ``transformers``' Llama.

    Args:
        shape: sizes; Llama has no norms on queries and keys, the rest is equal.
        rows: rows of ``shape.context`` ids in a batch. ``labels=`` shifts inside the model, so a row has one target
            less than for the other sides; it still counts as ``shape.context`` tokens.
        threads: torch's thread count, set for the whole process.
        compiled: wrap the model in ``torch.compile``.

    Returns:
        The step; a batch is one tensor of ids, shape (rows, context).
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.norm_epsilon,
        tie_word_embeddings=shape.tied,
        use_cache=False,  # a loop that leaves it on also pays for keys and values it never reads
        dtype=torch.float32,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")  # type: ignore[no-untyped-call]
    run = torch.compile(model, dynamic=False) if compiled else model

    def loss(ids: Tensor) -> Tensor:
        result: Tensor = run(input_ids=ids, labels=ids).loss
        return result

    return AdamWStep(model, loss, random_ids(shape.vocabulary, rows, shape.context))
