"""Files of rows: every format and encoding is read whole, and what is broken is named by file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from cadran.align.data.read import read_rows
from cadran.align.data.records import LONGEST_LINE
from cadran.errors import UserError

Q, A = "Où est l'été ?", "Il est là, à l'aéroport d'Orly, depuis ce matin."
CHAT = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Orly"}}}
CALLING = [
    CHAT[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "18 °C"},
    CHAT[1],
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_broken_lines_are_named_by_their_line_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    row = json.dumps({"prompt": Q, "completion": A}, ensure_ascii=False)
    path.write_bytes(f'\ufeff{row}\r\n\r\n{{"prompt": "x", \r\n{row.replace("Orly", "Lyon")}\r\n'.encode())
    rows = read_rows(path)
    assert [chat.source for chat in rows.chats] == ["row 1 of data.jsonl", "row 4 of data.jsonl"]
    assert rows.chats[0].messages == CHAT
    assert len(rows.refused) == 1 and rows.refused[0].startswith("row 3 of data.jsonl: it is not JSON (")


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "data.jsonl", {"messages": CHAT})
    deep = '{"prompt": "x", "answer": ' + "[" * 200_000 + "]" * 200_000 + "}"
    path.write_text(f"{path.read_text()}{deep}\n")
    rows = read_rows(path)
    assert len(rows.chats) == 1 and "row 2 of data.jsonl: it is nested too deep" in rows.refused[0]


def test_a_line_without_end_is_passed_over_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    row = json.dumps({"messages": CHAT}).encode()
    path.write_bytes(b'{"prompt": "' + b"x" * (2 * LONGEST_LINE) + b'"}\n' + row + b"\n")
    rows = read_rows(path)
    assert [chat.source for chat in rows.chats] == ["row 2 of data.jsonl"]
    assert rows.refused == [
        "row 1 of data.jsonl: the line has 34 MB, far more than a model reads; shorten it."
    ]  # fmt: skip


@pytest.mark.parametrize("wrapped", ["list", "data", "rows under another name", "lines", "one row", "one conversation"])
def test_a_json_file_may_hold_its_rows_in_several_ways(tmp_path: Path, wrapped: str) -> None:
    row = {"messages": CHAT}
    text = {
        "list": json.dumps([row], indent=2),
        "data": json.dumps({"version": 1, "data": [row]}),
        "rows under another name": json.dumps({"exemples": [row], "licence": "x"}),
        "lines": json.dumps(row) + "\n" + json.dumps(row) + "\n",
        "one row": json.dumps(row),
        "one conversation": json.dumps(CHAT),
    }[wrapped]
    path = tmp_path / "data.json"
    path.write_text(text, encoding="utf-8-sig")
    (chat,) = read_rows(path).chats
    assert chat.messages == CHAT and chat.source == "row 1 of data.json"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_accents_survive_every_encoding(tmp_path: Path, encoding: str, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    row = json.dumps({"prompt": Q, "completion": A}, ensure_ascii=False)
    text = {".jsonl": f"{row}\n", ".json": f"[{row}]", ".csv": f'prompt;completion\r\n{Q};"{A}"\r\n'}[suffix]
    path.write_bytes(text.encode(encoding))
    rows = read_rows(path)
    assert rows.chats[0].messages == CHAT
    assert rows.counts.get("guessed encoding", 0) == (encoding == "cp1252")


def test_cells_with_line_breaks_quotes_and_commas_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'instruction,input,output\n"a, ""b""\r\nc",,"d\ne"\nshort,row\nq,,r\n')
    rows = read_rows(path)
    assert [message["content"] for message in rows.chats[0].messages] == ['a, "b"\r\nc', "d\ne"]
    assert rows.chats[1].source == "row 3 of data.csv"
    assert rows.refused[0].startswith("row 2 of data.csv: it has 2 cells and the header 3")


def test_an_open_quote_does_not_swallow_the_rest_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('prompt,completion\na,b\nc,"d\ne,f\n')
    rows = read_rows(path)
    assert len(rows.chats) == 1
    assert rows.refused[0].startswith("row 2 of data.csv: it and what follows cannot be read")


def test_a_parquet_file_is_read_without_the_nulls_of_its_structs(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table.from_pylist(
        [{"messages": CALLING, "tools": [TOOL]}, {"messages": CHAT}]
    )
    parquet.write_table(table, tmp_path / "data.parquet")
    rows = read_rows(tmp_path / "data.parquet")
    assert [chat.messages for chat in rows.chats] == [CALLING, CHAT] and rows.chats[1].tools is None
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"broken.parquet: it is not a Parquet file"):
        read_rows(tmp_path / "broken.parquet")


def test_a_folder_is_read_in_the_order_of_names_and_counts_what_it_passes_over(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    lines(tmp_path / "b" / "two.jsonl", {"prompt": "2", "completion": "b"}, {"prompt": "1", "completion": "a"})
    lines(tmp_path / "a.jsonl", {"prompt": "1", "completion": "a"})
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.jsonl").write_text("{")
    rows = read_rows(tmp_path)
    assert [chat.source for chat in rows.chats] == ["row 1 of a.jsonl", "row 1 of b/two.jsonl"]
    assert rows.refused == ["row 2 of b/two.jsonl: it is the same as row 1 of a.jsonl; it counts once."]
    assert rows.counts == {"prompt/completion": 2, "rows": 2, "refused": 1, "duplicates": 1, "other files": 1}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("data.jsonl", b"", "data.jsonl is empty"),
        ("data.json", b" \n", "data.json: it is empty"),
        ("data.json", b'[{"prompt": "a",', r"data.json: it is not JSON \(line 1, column"),
        ("data.json", b"\0\1\2\3", "data.json: it is not text"),
        ("data.jsonl", b"\0\1\2\3", "data.jsonl: it is not text"),
        ("data.csv", b"prompt,completion\n", "data.csv is empty"),
        ("data.pdf", b"x", "of no kind that is read here; give a file in one of .json, .jsonl"),
    ],
)
def test_a_file_without_rows_is_one_sentence(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_rows(tmp_path / name)


def test_an_empty_folder_and_a_missing_path_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no data file; put one in it"):
        read_rows(tmp_path)
    with pytest.raises(UserError, match="There is no file or folder"):
        read_rows(tmp_path / "absent")
