"""Between the two ways to write down a SentencePiece BPE vocabulary: a score for each piece, or a list of merges.

SentencePiece joins the neighbours whose union is the piece of the highest score, wherever the union is cut; a list of
merges says that cut by cut. Source: Kudo & Richardson 2018; the conversion of ``transformers`` makes the same lists.
"""

from collections.abc import Iterable, Mapping

from cadran.errors import UserError

_LONGEST = 1024  # characters: twenty times the longest piece of Gemma; the work grows with the square


def merges_from_scores(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The merges, first the best.

    Args:
        scores: of the pieces that merges may make, in the order of their ids.

    Raises:
        UserError: a piece is absurdly long, or a score is no number.
    """
    for piece, score in scores.items():
        if len(piece) > _LONGEST or score != score:
            raise UserError(
                f"The piece {piece[:40]!r} of {len(piece)} characters has the score {score}; fetch the file anew."
            )
    # Which of the merges of one piece stands first changed no text of 20,000 random vocabularies.
    return [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def scores_from_merges(pieces: Iterable[str], merges: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Scores that lead to the same merges.

    Args:
        pieces: that merges may make or that they start from, in the order of their ids.
        merges: first the best.

    Returns:
        Score of each piece: minus the rank of the first merge that makes it; the lowest of all for those that no merge
        makes.
    """
    made: dict[str, float] = {}
    count = 0
    for left, right in merges:
        made.setdefault(left + right, -float(count))
        count += 1
    return {piece: made.get(piece, -float(count + 1)) for piece in pieces}
