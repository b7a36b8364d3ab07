"""``cadran.toml``: what is wrong in it is named, with what was probably meant."""

from pathlib import Path

import pytest

from cadran.errors import UserError
from cadran.serve.settings import ServeSettings, read_settings


def write(folder: Path, text: str) -> Path:
    file = folder / "cadran.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_nested_tables_and_options_over_them(tmp_path: Path) -> None:
    file = write(tmp_path, '[serve]\nport = 81\nqueue = 3\n[serve.alias]\n"meta/llama" = "smollm2"\n[other]\nx = 1\n')
    read = read_settings(file, {"port": 90, "host": None})
    assert (read.port, read.queue, read.alias, read.host) == (90, 3, {"meta/llama": "smollm2"}, "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[serve]\nquue = 1", "there is no setting quue in .*did you mean queue"),
        ("[serve]\nzzzz = 1", "no setting zzzz in .*those there are: models"),
        ("[serve]\nport = 99999", "the setting port in .* is wrong"),
        ("[serve.alias]\na = 1", r"the setting alias.a in .* is wrong"),
        ("port = 80", r"has port outside of its section; put it under \[serve\]"),
        ("[server]\nport = 80", r"has a section server; call it \[serve\]"),
        ("serve = 3", r"begin it with \[serve\]"),
        ("[serve", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_settings(write(tmp_path, text))


def test_a_wrong_option_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the setting port is wrong"):
        read_settings(write(tmp_path, "[serve]\nport = 80"), {"port": -1})


def test_the_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PORT", "CADRAN_PORT", "SERVE_PORT", "port"):
        monkeypatch.setenv(name, "1")
    assert read_settings() == ServeSettings()


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_settings(tmp_path / "none.toml")
