"""Where votes go besides the database: ``ratings.jsonl`` of the runs whose models gave the answers.

So the next ``cadran run NAME --from dpo`` learns from them. Votes on other models go to the user's data folder.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cadran.align.data.row import Labelled
from cadran.align.preference import PreferencePair
from cadran.align.ratings import LONGEST_LINE, RATINGS, append_rating, parse_rating
from cadran.corpus.jsonl import encode_line
from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.shelf import Shelf
from cadran.serve.state.database import state_folder

log = logging.getLogger(__name__)

Rating = PreferencePair | Labelled


def rating_of(record: Mapping[str, Any]) -> Rating:
    """A vote as something to learn from.

    Raises:
        ApiError: nothing can be learnt from it.
    """
    rating = parse_rating(dict(record), "this vote")
    if isinstance(rating, str):
        raise ApiError("invalid", rating)
    for text in (record["language"], record.get("kind", ""), *record["models"].values()):
        if len(text) > 500 or any(letter < " " or "\ud800" <= letter <= "\udfff" for letter in text):
            raise ApiError("invalid", "language, kind and the names of models are short plain words; repair them")
    if (size := len(encode_line(record))) > LONGEST_LINE:
        raise ApiError("too_large", f"this vote has {size} bytes; vote on a conversation of less than {LONGEST_LINE}")
    return rating


def rating_files(shelf: Shelf, models: Mapping[str, str]) -> list[Path]:
    """The files to append to: of each run among the models, else the user's own.

    Args:
        shelf: knows where models lie.
        models: names as the client wrote them; unknown ones count as no run.
    """
    runs: list[Path] = []
    for name in models.values():
        try:
            path = shelf.resolve(name).path
        except ApiError:
            continue
        run = next((folder for folder in (path, path.parent) if (folder / "recipe.yaml").is_file()), None)
        if run is not None and run not in runs:
            runs.append(run)
    return [run / RATINGS for run in runs] or [state_folder() / RATINGS]


def append(files: list[Path], rating: Rating, record: Mapping[str, Any]) -> bool:
    """Append a vote that is already stored; waits for the disk.

    Returns:
        Whether all files have it. What they lack is in the database, and in its export.
    """
    for file in files:
        try:
            append_rating(file, rating, models=record["models"], by=record.get("by"))
        except (OSError, UserError) as error:
            log.error("a vote could not be appended", extra={"file": str(file), "error": str(error)})
            return False
    return True
