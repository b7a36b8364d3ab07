"""Conversations packed with what they share are learnt as if each were read alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from noisy import noisy_model

from cadran.align.branches import NOBODY, pack_for
from cadran.align.conversation_objective import ConversationObjective, conversations
from cadran.corpus.shards import EncodedDocument, TokenShard, write_shard
from cadran.model.lora import LoraConfig, add_adapter
from cadran.model.transformer import Transformer
from cadran.train.loader import TokenLoader
from cadran.train.next_token import NextToken

BEGINNING = [3, 1, 4, 1, 5]
RESTS = [[7, 8, 9], [10, 11, 12, 13, 14], [7, 2, 6], [20, 21, 22, 23]]


def shard_of(folder: Path, rests: list[list[int]] = RESTS) -> TokenShard:
    """Documents with one beginning; of each the last two tokens are learnt, of the second its first answer too."""
    documents = []
    for number, rest in enumerate(rests):
        ids = np.array(BEGINNING + rest)
        supervised = np.arange(len(ids)) >= len(ids) - 2
        if number == 1:
            supervised[len(BEGINNING)] = True
        documents.append(EncodedDocument(ids, 2, "en", supervised))
    return write_shard(folder, documents, 40)


def gradients(model: Transformer) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


def adapted() -> Transformer:
    model = noisy_model(dtype=torch.float64)
    add_adapter(model, LoraConfig(rank=2), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    return model


MODELS = {
    "whole": lambda: noisy_model(dtype=torch.float64),
    "adapter": adapted,
    "window": lambda: noisy_model(dtype=torch.float64, window=3, windowed=(True, False)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_loss_and_gradients_are_those_of_conversations_read_one_by_one(tmp_path: Path, kind: str) -> None:
    shard, model = shard_of(tmp_path), MODELS[kind]()
    alone = NextToken(model, TokenLoader(shard, 12, len(RESTS), seed=0, split=False), len(RESTS), torch.float64)
    expected = alone.gradients(0)
    theirs = gradients(model)
    for micro in (1, 3, 4):
        found = ConversationObjective(model, shard, len(RESTS), micro, 0, torch.float64).gradients(0)
        assert found.loss == pytest.approx(expected.loss, abs=1e-9)
        ours = gradients(model)
        assert len(ours) == len(theirs)
        assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(ours, theirs, strict=True))


def test_padding_may_be_the_very_token_that_ends_an_answer(tmp_path: Path) -> None:
    """What is learnt is marked, never told by an id: a stop token is a target also where it is the padding."""
    stop, found = 30, []
    shard = shard_of(tmp_path, [[10 + number, *([7] * (9 + number)), stop] for number in range(7)])
    for pad in (0, stop):
        model = noisy_model(dtype=torch.float64)
        objective = ConversationObjective(model, shard, 7, 7, 0, torch.float64, pad)
        padded = int((pack_for(model, objective.items, pad).documents == NOBODY).sum())
        found.append((objective.gradients(0).loss, gradients(model)))
        assert padded > 0
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found[0][1], found[1][1], strict=True))
    for item in objective.items:
        assert item.answers[0][-1] == stop and item.supervised is not None and item.supervised[0][-1]


def test_what_all_begin_with_is_read_once(tmp_path: Path) -> None:
    objective = ConversationObjective(noisy_model(), shard_of(tmp_path), len(RESTS), len(RESTS), 0)
    beside = objective.gradients(0).tokens - sum(map(len, RESTS))
    # One of the second's own five tokens is kept apart, so that something is left to predict its answer from.
    assert beside == len(BEGINNING) - 1 + len(RESTS)


def test_every_conversation_is_learnt_once_an_epoch(tmp_path: Path) -> None:
    objective = ConversationObjective(noisy_model(), shard_of(tmp_path), 2, 2, 0)
    assert sorted(objective.loader.batch(0) + objective.loader.batch(1)) == [0, 1, 2, 3]


def test_a_conversation_is_cut_before_the_first_token_that_is_learnt(tmp_path: Path) -> None:
    items = conversations(shard_of(tmp_path))
    assert items[0].prompt == (*BEGINNING, 7) and items[0].answers == ((8, 9),)
    assert items[1].prompt == tuple(BEGINNING) and items[1].supervised == ((True, False, False, True, True),)


def test_a_first_token_is_never_a_target(tmp_path: Path) -> None:
    documents = [EncodedDocument(np.array([1, 2, 3]), 3, "en", np.array([True, True, True]))]
    (item,) = conversations(write_shard(tmp_path, documents, 40))
    assert item.prompt == (1,) and item.answers == ((2, 3),)
