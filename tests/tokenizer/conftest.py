"""A small bilingual tokenizer, trained once."""

import pytest

from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "L'avion de l'été s'est posé à l'aéroport d'Orly le 14 juillet 1998, jusqu'à l'aube. Qu'il est beau !\n",
    "The plane landed at the airport on the 14th of July 1998; it's said that they don't know why.\n\n",
    "Aujourd’hui, c’est l’œuvre d’une fée : « ça va » dit-elle, 😀😀 😃 naïve façade garçon 日本語 日本。\n",
    "def plane(x):\n    return [x, x + 1, 12345]\n\n\nprint('plane')\r\n\t<|im_end|> <|im_start|>user\n",
] * 3


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 400)
