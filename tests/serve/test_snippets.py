"""The programs of the guide, run as they stand there: only the address is another."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import LiveServer
from tiny import tiny_model

GUIDE = Path(__file__).parents[2] / "docs" / "serve.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose model has the guide's names."""
    folder = tmp_path_factory.mktemp("guide")
    alias = {"meta/meta-llama-3-70b-instruct": "smollm2"}
    live = LiveServer(
        models=[str(tiny_model(folder / "smollm2"))], alias=alias, database=f"sqlite:///{folder / 'state.db'}"
    )
    yield live
    live.close()


def test_the_guide_has_a_program_for_each_package() -> None:
    text = "\n".join(SNIPPETS)
    for package in ("openai", "anthropic", "replicate", "ollama", "cadran"):
        assert re.search(rf"^(from|import) {package}\b", text, re.MULTILINE), package


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_program_of_the_guide_prints_an_answer(
    number: int, smollm2: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(SNIPPETS[number].replace("http://127.0.0.1:8000", smollm2.url), encoding="utf-8")
    runpy.run_path(str(program))
    assert capsys.readouterr().out.strip()


def test_the_six_lines_of_the_order_print_an_answer(
    smollm2: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        f'''import replicate
client = replicate.Client(api_token="none", base_url="{smollm2.url}")
output = client.run(
    "meta/meta-llama-3-70b-instruct", input={{"prompt": "Hey how are you?"}}
)
print("".join(output))
''',
        encoding="utf-8",
    )
    runpy.run_path(str(program))
    assert capsys.readouterr().out.strip()
