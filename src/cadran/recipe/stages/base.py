"""Stage ``base``: pre-training, with bits per byte and samples along the way and the baselines at the end."""

from dataclasses import replace
from typing import Any

import numpy as np

from cadran.corpus.document import read_documents
from cadran.corpus.shards import TokenShard
from cadran.engine.engine import Engine
from cadran.engine.sampler import SamplingParams
from cadran.evaluate.bits_per_byte import bits_per_byte
from cadran.evaluate.compression import xz_bits_per_byte
from cadran.evaluate.fill_in_the_middle import middle_bits_per_byte
from cadran.evaluate.kneser_ney import KneserNey
from cadran.files import write_json
from cadran.model.transformer import Transformer
from cadran.recipe.budget import model_config
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.training import train, write_model
from cadran.tokenizer.tokenizer import Tokenizer
from cadran.train.machine import DTYPES

ORDER = 5


class BaseStage:
    """See the module."""

    name = "base"
    needs = ("corpus", "tokenizer")
    version = 1

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """Model sizes, the base section, seed and threads (the number of threads changes the last bits of sums)."""
        base = recipe.base.model_dump(mode="json", exclude={"checkpoint_seconds"})
        model = recipe.model.model_dump(mode="json")
        return {"model": model, "base": base, "seed": recipe.seed, "threads": recipe.threads}

    def run(self, context: StageContext) -> None:
        """Write the base model and results.json."""
        recipe, section = context.recipe, context.recipe.base
        tokenizer = Tokenizer.load(context.run.stage("tokenizer"))
        tokens = context.run.stage("tokenizer") / "tokens"
        training, validation = TokenShard.open(tokens / "train"), TokenShard.open(tokens / "validation")
        # A small corpus may fill fewer entries than were asked for; the tokenizer knows.
        config = replace(model_config(recipe), vocabulary=tokenizer.vocabulary_size)
        model = Transformer(config, seed=recipe.seed)
        dtype = DTYPES[section.precision or "fp32"]
        samples: list[dict[str, Any]] = []

        def observe(step: int) -> None:
            limit = section.evaluated_documents
            bits = bits_per_byte(model, validation, config.context, limit=limit, dtype=dtype)
            context.record({"kind": "evaluation", "step": step, "bits_per_byte": bits})
            for sample in _samples(model, tokenizer, recipe):
                context.record({"kind": "sample", "step": step, **sample})
                samples.append({"step": step, **sample})

        results = train(
            context,
            section,
            model,
            training,
            tokenizer.pad,
            split=True,
            evaluations=section.evaluations,
            observe=observe,
        )
        context.progress("evaluate", 0, None)
        results["bits_per_byte"] = bits_per_byte(model, validation, config.context)
        context.progress("baselines", 0, None)
        results["baselines"] = _baselines(context, tokenizer, validation)
        if recipe.tokenizer.fill_in_the_middle:
            context.progress("fill in the middle", 0, None)
            results["fill_in_the_middle"] = middle_bits_per_byte(
                model, tokenizer, _validation_texts(context)[: section.evaluated_documents], config.context, recipe.seed
            )
        write_json(context.folder / "results.json", results)
        write_model(context, model, tokenizer, results, chat=False)


def _samples(model: Transformer, tokenizer: Tokenizer, recipe: Recipe) -> list[dict[str, Any]]:
    """One continuation of each of the recipe's prompts, drawn with the recipe's seed."""
    params = SamplingParams(temperature=0.7, top_p=0.9, seed=recipe.seed, max_tokens=recipe.base.sample_tokens)
    with Engine(model.eval(), tokenizer, None) as engine:
        return [
            {"language": language, "prompt": prompt, "text": engine.generate(prompt, params).text}
            for language, prompts in sorted(recipe.base.prompts.items())
            for prompt in prompts
        ]


def _validation_texts(context: StageContext) -> list[str]:
    """The held-out articles."""
    documents = read_documents(context.run.stage("corpus") / "documents.jsonl")
    return [document.text for document, split in documents if split == "validation" and "messages" not in document.meta]


def _baselines(context: StageContext, tokenizer: Tokenizer, validation: TokenShard) -> dict[str, Any]:
    """What counting (Kneser-Ney over the same documents as they were written) and compressing (xz -9e) reach."""
    texts: dict[str, list[str]] = {"train": [], "validation": []}
    for document, split in read_documents(context.run.stage("corpus") / "documents.jsonl"):
        if "messages" not in document.meta:
            texts[split].append(document.text)
    mark = np.array([tokenizer.end_of_text])
    written = [np.concatenate((mark, ids, mark)) for ids in tokenizer.encode_batch(texts["train"])]
    counted = KneserNey.fit(written, validation.vocabulary, ORDER)
    result: dict[str, Any] = {f"kneser_ney_{ORDER}": {}, "xz_alone": {}, "xz_given_training": {}}
    nats, size = 0.0, 0
    for code, language in enumerate(validation.languages):
        members = np.flatnonzero(validation.language_of == code)
        here = counted.negative_log_likelihood([validation.ids(int(d)) for d in members])
        bytes_here = int(validation.text_bytes[members].sum())
        result[f"kneser_ney_{ORDER}"][language] = here / np.log(2) / bytes_here
        nats, size = nats + here, size + bytes_here
    result[f"kneser_ney_{ORDER}"]["all"] = nats / float(np.log(2)) / size
    packed = xz_bits_per_byte("\n\n".join(texts["train"]).encode(), "\n\n".join(texts["validation"]).encode())
    result["xz_alone"]["all"], result["xz_given_training"]["all"] = packed.alone, packed.given_training
    return result
