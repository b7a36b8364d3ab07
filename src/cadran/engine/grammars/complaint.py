"""What the grammar library finds wrong, in half a sentence."""

import json
import re

_LONGEST = 160
_OTHERWISE = {
    r"oneOf constraints are not supported": "the choices of oneOf may overlap, which anyOf allows",
    r"[Tt]oo many (states|expressions|items)|items; max is|TooComplex": "it can go on in too many ways at once",
    r"retriever|not present in a registry": "$ref names a schema outside of this one",
}


def complaint(message: str) -> str:
    """The part of a message that says what is wrong.

    Args:
        message: of the library; may have many lines, a place, and a regular expression underlined.

    Returns:
        At most one line without a full stop; names the keywords that are not supported.
    """
    unknown = re.search(r"Unimplemented keys: (\[.*?\])", message)
    if unknown:
        return f"{', '.join(json.dumps(name) for name in json.loads(unknown[1]))} is not supported"
    for pattern, otherwise in _OTHERWISE.items():
        if re.search(pattern, message):
            return otherwise
    cause = re.search(r"^error: (.+)$", message, re.MULTILINE)
    line = cause[1] if cause else next((line for line in message.splitlines() if line.strip()), "for no stated reason")
    line = line.strip().rstrip(".;")
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."
