"""The settings and the shell commands of the guide, as they stand there: only address and key are others."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import LiveServer
from tiny import tiny_model

from cadran.serve.settings import read_settings
from cadran.serve.state.api_key import add_key

GUIDE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
CALLS = re.findall(r"^    (curl .*)$", GUIDE, re.MULTILINE)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address of a server whose model has the guide's name, and a key to it."""
    live = LiveServer(models=[str(tiny_model(tmp_path_factory.mktemp("guide") / "smollm2"))])
    with live.service.database.session() as session:
        key = add_key(session, "anna")
    yield live.url, key
    live.close()


def test_the_settings_of_the_guide_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "cadran.toml"
    file.write_text(re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)[0], encoding="utf-8")
    settings = read_settings(file)
    assert settings.models == ["quickstart", "smollm2"]
    assert settings.alias == {"meta/meta-llama-3-70b-instruct": "smollm2"}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.split()[1].rpartition("8000")[2])
def test_the_calls_of_the_guide_are_answered(call: str, smollm2: tuple[str, str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    url, key = smollm2
    keyed = call if "KEY" in call else f'{call} -H "Authorization: Bearer KEY"'
    command = keyed.replace("http://127.0.0.1:8000", url).replace("KEY", key)
    done = subprocess.run(["bash", "-c", f"{command} -sS"], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["object"] in ("chat.completion", "list")


def test_there_are_calls_in_the_guide() -> None:
    assert len(CALLS) >= 2
