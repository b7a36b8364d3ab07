"""``generate`` and ``chat``: what the options do to the text."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from typed import tiny_model

from cadran.cli import talk
from cadran.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), context=200)


def said(capsys: pytest.CaptureFixture[str], model: Path, **options: Any) -> str:
    talk.generate(str(model), "river", **({"raw": True, "max_tokens": 30, "threads": 1} | options))
    return capsys.readouterr().out


def test_an_answer_fits_its_json_schema(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = {
        "type": "object", "properties": {"river": {"enum": [17, 18]}}, "required": ["river"],
        "additionalProperties": False,
    }  # fmt: skip
    (tmp_path / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    answer = said(capsys, model, json_schema=tmp_path / "schema.json", raw=False, max_tokens=60)
    assert json.loads(answer)["river"] in (17, 18)
    with pytest.raises(UserError, match="name a JSON file after --json-schema"):
        said(capsys, model, json_schema=tmp_path / "none.json")


def test_options_of_the_sampler_reach_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = said(capsys, model, temperature=1.0)
    assert free == said(capsys, model, temperature=1.0, top_k=0, min_p=0.0)
    likeliest = said(capsys, model, temperature=0.0)
    for narrow in ({"top_k": 1}, {"min_p": 1.0}):
        assert said(capsys, model, temperature=1.0, **narrow) == likeliest != free
    assert said(capsys, model, temperature=0.0, repeat_penalty=9.0) != likeliest
    stop = free[4:7]
    assert said(capsys, model, temperature=1.0, stop=[stop]) == free[: free.index(stop)] + "\n"


def test_a_stop_text_ends_the_answers_of_a_chat(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(**options: Any) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("river\n"))
        talk.chat(str(model), max_tokens=30, temperature=1.0, **options)
        return capsys.readouterr().out

    whole = answered()
    stop = whole[3:5]
    assert answered(stop=[stop]).startswith(whole[: whole.index(stop)] + "\n")
