"""The error that a corpus can survive: a source that lies behind a network which does not answer."""

from cadran.errors import UserError


class SourceUnreachable(UserError):
    """A registry or hub that cannot be reached; `build_corpus` then uses the fallback sources, if it has some."""
