"""What a SIGKILL may cost: nothing that was acknowledged."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from cadran.cli.keys import app as keys


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system knows no SIGKILL")
def test_a_vote_and_a_key_that_were_acknowledged_outlive_sigkill(tiny: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    environment = os.environ | {"CADRAN_HOME": str(tmp_path)}
    (tmp_path / "cadran.toml").write_text(f'[serve]\ndatabase = "{url}"\n', encoding="utf-8")

    def serving() -> tuple["subprocess.Popen[str]", str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "cadran", "serve", str(tiny), "--port", "0"],
            cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        return process, process.stdout.readline().strip()

    vote = {"messages": [{"role": "user", "content": "Qui es-tu ?"}], "answer": "Un modèle.", "liked": True}
    process, address = serving()
    try:
        kept = httpx.post(f"{address}/api/votes", json=vote)
        assert kept.status_code == 201
        made = CliRunner().invoke(keys, ["add", "anna", "--config", str(tmp_path / "cadran.toml")])
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    process, address = serving()
    try:
        headers = {"authorization": f"Bearer {made.stdout.strip()}"}
        assert httpx.get(f"{address}/v1/load").status_code == 401
        assert httpx.get(f"{address}/v1/load", headers=headers).status_code == 200
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    with sqlite3.connect(tmp_path / "state.db") as state:
        assert state.execute("select id from vote").fetchall() == [(kept.json()["id"],)]
