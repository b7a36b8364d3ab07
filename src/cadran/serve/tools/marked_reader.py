"""Tells reasoning, text and tool calls of one answer apart by the marks of the model's own format.

Nothing is lost: what is neither reasoning nor a call comes out as text, a call that turns out malformed with its marks;
only marks of what was told, and white space beside them, are left out.
"""

from collections.abc import Sequence

from cadran.serve.asked import Tool
from cadran.serve.tools.call_reader import CallReader
from cadran.serve.tools.call_syntax import CallSyntax, Reasoning, compact
from cadran.serve.tools.character_feed import CharacterFeed, Malformed, Reading, Trimmed
from cadran.serve.tools.output_reader import Piece, Said, Thought


class MarkedReader:
    """An ``OutputReader``.

    Args:
        syntax: of calls; None where none are to be read.
        tools: that may be called.
        reasoning: the marks of reasoning; None where there is none.
        thinking: the answer begins within reasoning.
    """

    def __init__(
        self,
        syntax: CallSyntax | None,
        tools: Sequence[Tool] = (),
        reasoning: Reasoning | None = None,
        thinking: bool = False,
    ) -> None:
        self._feed = CharacterFeed()
        self._calls = CallReader(self._feed, syntax, tools) if syntax is not None and tools else None
        self._triggers = [compact(mark) for mark in syntax.triggers] if syntax is not None and tools else []
        self._reasoning, self._thinking = reasoning, thinking and reasoning is not None
        self._space = ""  # read and not told: it belongs to the text or to the mark that follows
        self._after_mark = False
        self._reading = self._answer()
        next(self._reading)

    @property
    def thinking(self) -> bool:
        """See ``OutputReader``."""
        return self._thinking

    def push(self, text: str) -> list[Piece]:
        """See ``OutputReader``."""
        self._feed.run(self._reading, text)
        return self._feed.taken()

    def end(self) -> list[Piece]:
        """See ``OutputReader``."""
        self._feed.finish(self._reading)
        return self._feed.taken()

    def _answer(self) -> Reading[None]:
        if self._reasoning is not None:
            if not self._thinking:
                yield from self._leave_space()
                self._thinking = (yield from self._feed.match([compact(self._reasoning.open)])) is not None
            if self._thinking:
                yield from self._think(self._reasoning.close)
        first = True
        while (yield from self._text(first)):
            first = False
        if not self._after_mark and self._space:
            self._feed.tell(Said(self._space))

    def _think(self, close: str) -> Reading[None]:
        def think(text: str) -> None:
            self._feed.tell(Thought(text))

        yield from self._feed.until([close.strip()], Trimmed(think))
        self._thinking, self._after_mark, self._space = False, True, ""

    def _leave_space(self) -> Reading[None]:
        """Read white space: it is told when a text follows it."""
        while (character := (yield from self._feed.get())).isspace():
            self._space += character
        self._feed.back(character)

    def _say(self, text: str) -> None:
        self._feed.tell(Said(text if self._after_mark else self._space + text))
        self._space, self._after_mark = "", False

    def _text(self, first: bool) -> Reading[bool]:
        """Text up to the next calls, and these; whether anything can follow."""
        feed = self._feed
        yield from self._leave_space()
        if first and self._calls is not None and not self._triggers:
            yield from self._try_calls("")
            yield from self._leave_space()
        found = yield from feed.until(self._triggers, self._say)
        if found is None:
            return False
        yield from self._try_calls(found)
        return True

    def _try_calls(self, trigger: str) -> Reading[None]:
        feed, calls = self._feed, self._calls
        assert calls is not None
        feed.raw = []
        feed.back(trigger)
        try:
            yield from calls.section()
            self._space, self._after_mark = "", True
        except Malformed:
            raw = "".join(feed.raw or ())
            feed.raw = None
            if calls.committed:
                self._space, self._after_mark = "", False
                feed.back(raw)
            else:
                feed.back(raw)
                head = ""
                for _ in trigger:  # which is text then; calls may follow it all the same
                    head += yield from feed.get()
                if head:
                    self._say(head)
        finally:
            feed.raw = None
