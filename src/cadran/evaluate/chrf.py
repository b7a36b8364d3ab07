"""chrF: how close a generated text is to its reference, by the character n-grams they share.

Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation"; computed by sacrebleu.
"""

from collections.abc import Sequence

from cadran.errors import UserError


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2: F-score (recall counts twice) of character 1- to 6-grams, white space apart, pooled over all pairs.

    Args:
        hypotheses: generated texts.
        references: the one expected text of each, same length.

    Returns:
        Score in 0 (nothing shared) ... 100 (equal but for white space).

    Raises:
        UserError: there is no text to score.
        ValueError: the two sequences differ in length.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses cannot be compared with {len(references)} references")
    if not hypotheses:
        raise UserError("There is no generated text to score with chrF: raise the number of held-out rows.")
    from sacrebleu.metrics import CHRF

    return float(CHRF(char_order=6, word_order=0, beta=2).corpus_score(list(hypotheses), [list(references)]).score)
