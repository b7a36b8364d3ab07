"""What all conversations begin with is read once, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from noisy import noisy_model

from cadran.align.common_beginning import CommonBeginning, common_beginning
from cadran.corpus.shards import EncodedDocument, TokenShard, write_shard
from cadran.model.lora import LoraConfig, add_adapter
from cadran.model.transformer import Transformer
from cadran.train.loader import TokenLoader
from cadran.train.next_token import NextToken

BEGINNING = [3, 1, 4, 1, 5]


def shard_of(folder: Path, rests: list[list[int]], learnt: int = 2) -> TokenShard:
    """Documents with one beginning, of which the last tokens are learnt."""
    documents = []
    for rest in rests:
        ids = np.array(BEGINNING + rest)
        supervised = np.arange(len(ids)) >= len(ids) - learnt
        documents.append(EncodedDocument(ids, learnt, "en", supervised))
    return write_shard(folder, documents, 40)


RESTS = [[7, 8, 9], [10, 11, 12, 13, 14], [7, 2, 6], [20, 21, 22, 23]]


def gradients(model: Transformer) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


@pytest.mark.parametrize("adapted", [False, True])
def test_loss_and_gradients_are_those_of_rows_read_one_by_one(tmp_path: Path, adapted: bool) -> None:
    shard = shard_of(tmp_path, RESTS)
    model = noisy_model(dtype=torch.float64)
    if adapted:
        add_adapter(model, LoraConfig(rank=2), seed=1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    alone = NextToken(model, TokenLoader(shard, 12, len(RESTS), seed=0, split=False), len(RESTS), torch.float64)
    expected = alone.gradients(0)
    theirs = gradients(model)
    for micro in (1, 3, 4):
        shared = CommonBeginning(model, shard, common_beginning(shard), len(RESTS), micro, 0, torch.float64)
        found = shared.gradients(0)
        assert found.loss == pytest.approx(expected.loss, abs=1e-9)
        ours = gradients(model)
        assert len(ours) == len(theirs)
        assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(ours, theirs, strict=True))
    assert found.tokens == len(BEGINNING) + sum(map(len, RESTS))


def test_what_is_learnt_or_differs_is_not_shared(tmp_path: Path) -> None:
    assert common_beginning(shard_of(tmp_path / "1", RESTS)) == len(BEGINNING)
    assert common_beginning(shard_of(tmp_path / "2", [[7, 8, 9, 1, 1], [7, 8, 9, 2]], learnt=1)) == len(BEGINNING) + 3
    assert common_beginning(shard_of(tmp_path / "3", [[7, 8], [7, 8]], learnt=4)) == len(BEGINNING) - 2
    assert common_beginning(shard_of(tmp_path / "4", [[7, 8]], learnt=1)) == len(BEGINNING) + 1


def test_every_row_is_learnt_once_an_epoch(tmp_path: Path) -> None:
    shared = CommonBeginning(noisy_model(), shard_of(tmp_path, RESTS), 5, 2, 2, 0)
    assert sorted(shared.loader.batch(0) + shared.loader.batch(1)) == [0, 1, 2, 3]


def test_a_model_with_a_window_reads_rows_apart(tmp_path: Path) -> None:
    model = noisy_model(window=3, windowed=(True, False))
    with pytest.raises(ValueError, match="cannot be read once"):
        CommonBeginning(model, shard_of(tmp_path, RESTS), 5, 2, 2, 0)
