"""Two ways of llama.cpp to end an answer early: a line that is less indented than wanted, and too much time.

Source: the documentation of llama.cpp's server, ``n_indent`` and ``t_max_predict_ms``; api-contracts 8.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from time import monotonic

from cadran.serve.events import Admitted, Event, Finished, Prefilled, Spoke, Used
from cadran.serve.exchange import Exchange

_BLANK = " \t\r\n"


class AnswerLimits:
    """Reads one answer, piece by piece.

    Args:
        indent: least blanks before every line but the first; 0 takes any line.
        seconds: from the first piece on, after which an answer of more than one line ends; None for no end.
        clock: in seconds.

    Attributes:
        over: whether the answer has come to its end; nothing of it is told from then on.
    """

    def __init__(self, indent: int = 0, seconds: float | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._indent, self._seconds, self._clock = indent, seconds, clock
        self._held = ""  # a line end and the blanks after it
        self._begun: float | None = None
        self._lines = 1
        self.over = False

    def feed(self, text: str) -> str:
        """What may be told of it now."""
        if self.over:
            return ""
        self._lines += text.count("\n")
        if self._begun is None:
            self._begun = self._clock()
        elif self._seconds is not None and self._lines > 1 and self._clock() - self._begun > self._seconds:
            self.over = True
        return self._indented(text) if self._indent > 0 else text

    def _indented(self, text: str) -> str:
        told, rest, self._held = "", self._held + text, ""
        while rest:
            line, end, after = rest.partition("\n")
            told += line
            if not end:
                return told
            body = (end + after).lstrip(_BLANK)
            blanks = (end + after)[: len(end + after) - len(body)]
            if not body:
                self._held = blanks
                return told
            if len(blanks) - blanks.rfind("\n") - 1 < self._indent:
                self.over = True
                return told
            told, rest = told + blanks, body
        return told

    def end(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return "" if self.over else held


async def limited(exchange: Exchange, limits: AnswerLimits) -> AsyncIterator[Event]:
    """The events of an exchange of one answer, up to the limits."""
    prompt, cached, said = 0, 0, ""
    async with aclosing(aiter(exchange)) as events:
        async for event in events:
            match event:
                case Admitted(tokens):
                    prompt = tokens
                case Prefilled(tokens):
                    cached = tokens
                case Spoke(text=text):
                    event = replace(event, text=limits.feed(text))
                    said += event.text
                case Finished(index) if held := limits.end():
                    yield Spoke(index, held)
            yield event
            if limits.over:
                generated = len(exchange.served.engine.tokenizer.encode(said))
                yield Finished(0, "length")
                first = exchange.first_token or 0.0
                seconds = first + (exchange.stamps[-1] - exchange.stamps[0] if exchange.stamps else 0.0)
                yield Used(prompt, cached, generated, 0, exchange.queued, first, seconds, exchange.loaded)
                return
