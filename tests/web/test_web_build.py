"""How the page is built, and the unit tests and types of its sources."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest


def test_a_page_of_these_sources_is_not_built_again(builder: ModuleType, built: Path, tmp_path: Path) -> None:
    assert builder.is_current(built)
    stale = tmp_path / "page"
    stale.mkdir()
    (stale / "index.html").write_text("")
    assert not builder.is_current(stale)
    (stale / builder.STAMP).write_text("0" * 64)
    assert not builder.is_current(stale)


def test_of_two_builders_at_once_one_builds_and_the_other_waits(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def run(command: list[str], environment: dict[str, str], otherwise: str) -> None:
        page = Path(environment["CADRAN_WEB_OUT"])
        page.mkdir()
        made.append(page)
        time.sleep(0.5)
        (page / "index.html").write_text("")

    monkeypatch.setattr(builder, "_installed", lambda: ["npm"])
    monkeypatch.setattr(builder, "_run", run)
    with ThreadPoolExecutor() as pool:
        for built in [pool.submit(builder.build, tmp_path / "page") for _ in range(2)]:
            built.result()
    assert builder.is_current(tmp_path / "page")
    assert len(made) == 1


@pytest.mark.parametrize(
    ("version", "enough"),
    [("v20.18.3", False), ("v20.19.0", True), ("v21.7.0", False), ("v22.11.0", False), ("v22.12.0", True),
     ("v24.0.0", True), ("v18.20.0", False), ("", False)],
)  # fmt: skip
def test_which_node_is_new_enough(builder: ModuleType, version: str, enough: bool) -> None:
    assert builder.new_enough(version) is enough


def test_without_node_one_sentence_is_said_and_nothing_fails(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> list[str]:
        raise builder.NotBuilt("there is no Node.js")

    monkeypatch.setattr(builder, "npm_command", none)
    monkeypatch.setattr("sys.argv", ["build.py", "--out", str(tmp_path / "page")])
    assert builder.main() == 0
    said = capsys.readouterr().err
    assert said == "the web chat was not built: there is no Node.js; everything else works without it\n"
    assert not (tmp_path / "page").exists()
    monkeypatch.setattr("sys.argv", ["build.py", "--strict", "--out", str(tmp_path / "page")])
    assert builder.main() == 1


@pytest.mark.parametrize("script", ["test", "check"])
def test_the_sources_pass(builder: ModuleType, script: str) -> None:
    try:
        npm = builder.install()
    except builder.NotBuilt as error:
        pytest.skip(f"the packages of the web chat cannot be had: {error}")
    command = [*npm, "run", script]
    done = subprocess.run(
        command, cwd=builder.WEB, env=builder.with_node(npm), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
