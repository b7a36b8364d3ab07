"""One side of ``rollouts.py``: ``transformers.generate`` on the same prompts, all answers in one batch."""

import time

import torch
from transformers import AutoModelForCausalLM

from align_peers.bench_files import BenchFiles
from align_peers.own_rollouts import Work, prompts_of


class HfGenerate:
    """The plain model, without an adapter, in float32.

    Args:
        files: what to read.
        static: whether keys and values lie in a cache of fixed size.
        work: how much.
    """

    def __init__(self, files: BenchFiles, static: bool, work: Work) -> None:
        self.work, self.cache = work, "static" if static else None
        self.model = AutoModelForCausalLM.from_pretrained(
            files.model, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        ).eval()
        prompts = [prompt.ids for prompt in prompts_of(files, 1, work).batch(0) for _ in range(work.answers)]
        width = max(map(len, prompts))
        self.ids = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts])
        self.mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        self.draw()

    @torch.no_grad()
    def draw(self) -> dict[str, float]:
        """Seconds of a draw.

        Raises:
            ValueError: the answers have another length.
        """
        start = time.perf_counter()
        found = self.model.generate(
            input_ids=self.ids,
            attention_mask=self.mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=self.work.tokens,
            max_new_tokens=self.work.tokens,
            cache_implementation=self.cache,
            disable_compile=True,
            pad_token_id=0,
        )
        seconds = time.perf_counter() - start
        if found.shape[1] - self.ids.shape[1] != self.work.tokens:
            raise ValueError("the answers have another length")
        return {"seconds": seconds, "packing": 0.0}
