"""The table of families in the README, made from the code; a test holds the two equal.

``python -m cadran.model.families.table`` prints it.
"""

from cadran.model.families import FAMILIES
from cadran.model.gguf.architectures import architecture_of


def markdown() -> str:
    """One row a family: what it is called, the models people know it by, and its name in GGUF."""
    rows = ["| `model_type` | models | GGUF |", "|---|---|---|"]
    for family in FAMILIES.values():
        architecture = architecture_of(family.name)
        rows.append(f"| `{family.name}` | {family.models} | `{architecture.name}` |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown())
