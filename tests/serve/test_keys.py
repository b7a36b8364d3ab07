"""``cadran keys``."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cadran.cli.keys import app
from cadran.errors import UserError
from cadran.serve.state.api_key import key_hash, known_keys
from cadran.serve.state.database import Database


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    """Options that name a settings file with a database of its own."""
    file = tmp_path / "cadran.toml"
    file.write_text(f'[serve]\ndatabase = "sqlite:///{tmp_path / "state.db"}"\n', encoding="utf-8")
    return ["--config", str(file)]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_key_is_shown_once_and_stored_as_a_hash(config: list[str], tmp_path: Path) -> None:
    key = run("add", "anna", "--requests-per-minute", "5", "--tokens-per-minute", "700", *config).strip()
    assert key.startswith("cadran-") and len(key) > 40
    assert key not in run("list", *config)
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
    assert key.encode() not in stored and key_hash(key).encode() in stored
    (listed,) = json.loads(run("list", "--json", *config))
    assert (listed["name"], listed["requests_per_minute"], listed["tokens_per_minute"]) == ("anna", 5, 700)
    assert listed["valid"] and listed["generated_tokens"] == 0


def test_keys_are_removed_by_name(config: list[str]) -> None:
    run("add", "anna", *config)
    with pytest.raises(UserError, match="there is a key anna already"):
        run("add", "anna", *config)
    run("rm", "anna", *config)
    assert "no key" in run("list", *config)
    with pytest.raises(UserError, match="no key anna: those there are: none"):
        run("rm", "anna", *config)


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * 86400), ("12h", 12 * 3600), ("5m", 300)])
def test_a_key_expires_when_it_should(config: list[str], tmp_path: Path, text: str, seconds: float) -> None:
    before = time.time()
    run("add", "anna", "--expires", text, *config)
    after = time.time()
    database = Database(f"sqlite:///{tmp_path / 'state.db'}")
    with database.reading() as session:
        (key,) = known_keys(session)
    database.close()
    assert key.expires is not None and before + seconds <= key.expires <= after + seconds
    assert key.valid(before) and not key.valid(after + seconds)


def test_a_date_counts_to_its_end(config: list[str], tmp_path: Path) -> None:
    run("add", "anna", "--expires", "2100-01-31", *config)
    assert json.loads(run("list", "--json", *config))[0]["expires"] == "2100-02-01T00:00Z"


@pytest.mark.parametrize("text", ["soon", "2001-01-01", "99999999d", ""])
def test_a_time_that_is_none_or_past_is_refused(config: list[str], text: str) -> None:
    with pytest.raises(UserError, match="expires"):
        run("add", "anna", "--expires", text, *config)


@pytest.mark.parametrize("name", ["", "a b", "-x", "é", "a" * 65, "a\n"])
def test_a_name_is_a_plain_word(config: list[str], name: str) -> None:
    with pytest.raises(UserError, match="cannot name a key"):
        run("add", *config, "--", name)
