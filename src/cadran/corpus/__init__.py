"""From folders and registries to clean, deduplicated, split documents, and from those to token shards."""

from cadran.corpus.build import build_corpus
from cadran.corpus.datasheet import DataSheet
from cadran.corpus.document import Document, read_documents
from cadran.corpus.sources.config import SourceConfig, parse_source

__all__ = ["DataSheet", "Document", "SourceConfig", "build_corpus", "parse_source", "read_documents"]
