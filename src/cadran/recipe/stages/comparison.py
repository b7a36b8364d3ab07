"""The models of a run side by side: the same held-out questions, the answers of each, and the figures of each."""

from collections.abc import Sequence
from typing import Any

from cadran.align.preference import PreferencePair, prompt_key
from cadran.corpus.document import read_documents
from cadran.engine.engine import Engine
from cadran.files import read_json
from cadran.model.transformer import Transformer
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.examination import examine
from cadran.recipe.stages.parent import Parent

SHOWN = 6
"""Questions shown, where they are a user's own."""
LONGEST = 120
"""Tokens of an answer to them."""
BASE_TOKENS = 40
"""Tokens of a base model's continuation; it never comes to an end."""


def compare_stages(
    context: StageContext, parent: Parent, model: Transformer, base: Transformer, accuracy: dict[str, Any]
) -> dict[str, Any]:
    """Base, SFT and DPO on articles that none of them saw.

    Args:
        context: of the stage.
        parent: of the stage, with its figures in ``results.json``.
        model: what the stage made.
        base: the pre-trained model.
        accuracy: on held-out pairs, ``before`` and ``after``, and under ``base`` the whole examination of the base.

    Returns:
        ``models`` (figures by name), ``samples`` (answers by name), and the model's own ``topic`` and ``description``.
    """
    name, before = context.name, parent.name.rpartition("/")[2]
    corpus = read_documents(context.run.stage("corpus") / "documents.jsonl")
    with Engine(model.eval(), parent.tokenizer, parent.renderer) as engine:
        found = examine(engine, [document for document, split in corpus if split == "validation"], context)
    earlier = read_json(parent.path / "results.json")
    scores = {key: found[key] for key in ("topic", "description") if key in found}
    models: dict[str, Any] = {
        "base": {"pair_accuracy": accuracy["base"]["accuracy"]["after"]},
        before: {"pair_accuracy": accuracy["before"]} | {key: earlier[key] for key in scores if key in earlier},
        name: {"pair_accuracy": accuracy["after"]} | scores,
    }
    said = {
        sample["prompt"]: sample["answer"] if "answer" in sample else sample["answers"].get(before, "")
        for sample in earlier["samples"]
    }
    samples: list[dict[str, Any]] = []
    with Engine(base.eval(), parent.tokenizer, None) as engine:
        for sample in found["samples"]:
            asked = sample["prompt"]
            # A base model knows no turns: it goes on as a text would.
            continued = engine.generate(f"{asked}\n\n", temperature=0.0, max_tokens=BASE_TOKENS).text.strip()
            about = {key: sample[key] for key in ("language", "task", "prompt", "expected")}
            answers = {"base": continued, before: said.get(asked, ""), name: sample["answer"]}
            samples.append(about | {"answers": answers})
    return {"models": models, "samples": samples} | scores


def compare_answers(
    parent: Parent, model: Transformer, pairs: Sequence[PreferencePair], accuracy: dict[str, Any]
) -> dict[str, Any]:
    """Before and after, on held-out pairs of a user's own.

    Args:
        parent: of the stage.
        model: what the stage made.
        pairs: held out.
        accuracy: on them, ``before`` and ``after``.

    Returns:
        ``models`` (figures by name) and ``samples`` (answers by name).
    """
    asked = list({prompt_key(pair.messages): pair for pair in pairs}.values())[:SHOWN]
    samples: list[dict[str, Any]] = [
        {
            "language": pair.language,
            "task": pair.kind,
            "prompt": pair.messages[-1]["content"],
            "expected": pair.chosen,
            "answers": {},
        }
        for pair in asked
    ]
    for name, each in (("before", parent.model()), ("after", model.eval())):
        with Engine(each, parent.tokenizer, parent.renderer) as engine:
            for pair, sample in zip(asked, samples, strict=True):
                completion = engine.chat(pair.messages, temperature=0.0, max_tokens=LONGEST)
                sample["answers"][name] = completion.text.strip()
    models = {name: {"pair_accuracy": accuracy[name]} for name in ("before", "after")}
    return {"models": models, "samples": samples}
