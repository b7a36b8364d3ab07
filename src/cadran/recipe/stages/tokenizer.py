"""Stage ``tokenizer``: byte-level BPE learnt from the training documents, and the corpus as tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cadran.corpus.document import Document, read_documents
from cadran.corpus.shards import EncodedDocument, write_shard
from cadran.errors import UserError
from cadran.files import write_json
from cadran.recipe.budget import model_config
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import StageContext
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.fill_in_the_middle import taught, with_gaps
from cadran.tokenizer.segmentation import bytes_per_token
from cadran.tokenizer.tokenizer import Tokenizer

AT_A_TIME = 1000


class TokenizerStage:
    """See the module. Tokenizer and pre-training read articles only: chats, often longer, wait for SFT."""

    name = "tokenizer"
    needs = ("corpus",)
    version = 1

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The vocabulary; where passages are rearranged, also the seed that chooses and the context they fit into."""
        section = recipe.tokenizer.model_dump(mode="json")
        if not recipe.tokenizer.fill_in_the_middle:
            return section
        return section | {"seed": recipe.seed, "context": model_config(recipe).context}

    def run(self, context: StageContext) -> None:
        """Write tokenizer.json, tokenizer_config.json, tokens/train, tokens/validation and results.json."""
        documents = list(read_documents(context.run.stage("corpus") / "documents.jsonl"))
        context.progress("learn merges", 0, None)
        tokenizer = train_bpe(
            (d.text for d, split in documents if split == "train" and "messages" not in d.meta),
            context.recipe.tokenizer.vocabulary,
        )
        if tokenizer.notice:
            context.record({"kind": "notice", "text": tokenizer.notice})
        if context.recipe.tokenizer.fill_in_the_middle:
            tokenizer = taught(tokenizer)
        tokenizer.save(context.folder)
        texts: dict[str, list[str]] = {}
        counts = {}
        for split in ("train", "validation"):
            chosen = [d for d, s in documents if s == split and "messages" not in d.meta]
            if not chosen:
                raise UserError(f"no article is left for {split}; add text, or set corpus.validation=0.1")
            context.progress(f"encode {split}", 0, len(chosen))
            share = context.recipe.tokenizer.fill_in_the_middle if split == "train" else 0.0
            encoded = _encoded(chosen, tokenizer, context, share)
            shard = write_shard(context.folder / "tokens" / split, encoded, tokenizer.vocabulary_size)
            counts[split] = len(shard.tokens)
            if split == "validation":
                for document in chosen:
                    texts.setdefault(document.language, []).append(document.text)
        write_json(
            context.folder / "results.json",
            {
                "vocabulary": tokenizer.vocabulary_size,
                "bytes_per_token": bytes_per_token(tokenizer, texts),
                "tokens": counts,
            },
        )


def _encoded(
    documents: Sequence[Document], tokenizer: Tokenizer, context: StageContext, share: float
) -> Iterator[EncodedDocument]:
    """Each document between two end-of-text tokens: the first to predict from, the last to be predicted.

    A share of their passages, chosen by the recipe's seed and their number alone, is rearranged to be filled in the
    middle; what stands between two of these is a document of its own in the shard.
    """
    context_length = model_config(context.recipe).context
    for start in range(0, len(documents), AT_A_TIME):
        some = documents[start : start + AT_A_TIME]
        for number, (document, ids) in enumerate(
            zip(some, tokenizer.encode_batch([d.text for d in some]), strict=True), start=start
        ):
            generator = np.random.default_rng((context.recipe.seed, number))
            parts = with_gaps(tokenizer, document.text, ids, share=share, context=context_length, generator=generator)
            for written, size in parts:
                yield EncodedDocument(written, size, document.language)
        context.progress("encode", start + len(some), len(documents))
