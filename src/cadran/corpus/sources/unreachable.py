"""The error that a corpus can survive: `build_corpus` then uses the fallback sources, if it has some."""

from cadran.wheel import Unreachable as SourceUnreachable

__all__ = ["SourceUnreachable"]
