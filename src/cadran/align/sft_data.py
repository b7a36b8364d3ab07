"""Chat rows as tokens: rendered by the one renderer, supervised on the answers and their stop token."""

import numpy as np

from cadran.align.rows import ChatRow
from cadran.corpus.shards import EncodedDocument
from cadran.errors import UserError
from cadran.tokenizer.renderer import ChatRenderer


def encode_row(row: ChatRow, renderer: ChatRenderer, context: int) -> EncodedDocument | None:
    """Render a row; the last turns are left out when the whole does not fit in a row of the model.

    Args:
        row: a conversation.
        renderer: of the model that will learn it.
        context: most pairs (input, target).

    Returns:
        None when not even its first question and answer fit.

    Raises:
        UserError: the row has nothing to learn from, or nothing but answers.
    """
    messages = row.messages
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(
            f"the row made from {row.source} has no answer to learn from; add an assistant message or remove the row"
        )
    while True:
        rendered = renderer.render(messages)
        supervised = np.array(rendered.supervised, dtype=np.bool_)
        if not supervised.any() or supervised.all():
            raise UserError(
                f"the row made from {row.source} has {supervised.mean():.0%} of its tokens to learn; mend it"
            )
        # The newline after the last turn predicts nothing and is dropped.
        end = int(np.flatnonzero(supervised)[-1]) + 1
        if end - 1 <= context:
            break
        messages = messages[:-2]
        if not any(message["role"] == "assistant" for message in messages):
            return None
    answers = sum(len(m["content"].strip().encode()) for m in messages if m["role"] == "assistant")
    return EncodedDocument(np.array(rendered.ids[:end], dtype=np.int64), answers, row.language, supervised[:end])
