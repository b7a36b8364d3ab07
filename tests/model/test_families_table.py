"""The README says which families are opened, and the code is what says it."""

from pathlib import Path

from cadran.model.families import FAMILIES
from cadran.model.families.table import markdown

README = Path(__file__).parents[2] / "README.md"


def test_the_table_in_the_readme_is_the_one_the_code_prints() -> None:
    assert markdown() in README.read_text(encoding="utf-8"), (
        "put what `python -m cadran.model.families.table` prints there"
    )


def test_every_family_has_its_row() -> None:
    assert all(f"| `{name}` |" in markdown() for name in FAMILIES)
