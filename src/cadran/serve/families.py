"""All families, in the order in which they are asked whose a path is."""

from cadran.serve.anthropic.family import FAMILY as ANTHROPIC
from cadran.serve.family import Family
from cadran.serve.ide.family import FAMILY as IDE
from cadran.serve.ollama.family import FAMILY as OLLAMA
from cadran.serve.openai.family import FAMILY as OPENAI
from cadran.serve.operations.family import FAMILY as OPERATIONS
from cadran.serve.replicate.family import FAMILY as REPLICATE


def families() -> list[Family]:
    """The last one also speaks for paths that are nobody's."""
    return [OPERATIONS, ANTHROPIC, REPLICATE, OLLAMA, IDE, OPENAI]
