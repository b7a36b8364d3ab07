"""``cadran keys``: who may use a server."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from contextlib import closing

    from cadran.serve.state.database import Database

app = typer.Typer(help="API keys of the server: make, list and remove them.", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option(help="Settings file; by default cadran.toml where there is one.")]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Whose it is; logs and accounts say it.")],
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Most requests.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Most generated tokens.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="A date such as 2030-01-31, or a time such as 12h or 30d.")
    ] = None,
    config: Config = None,
) -> None:
    """Make a key and print it, this once; a server that is running takes it at once."""
    import sys

    from cadran.serve.state.api_key import add_key

    until = None if expires is None else _until(expires)
    with _database(config) as database, database.session() as session:
        key = add_key(
            session, name, expires=until, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
        )
    print(key)
    print("keep it: it is stored only as a hash and cannot be shown again", file=sys.stderr)


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False, config: Config = None
) -> None:
    """List the keys and what they have used, never the keys themselves."""
    import json
    import time

    from cadran.serve.state.api_key import known_keys
    from cadran.serve.state.usage import Spent, spent_by_key

    with _database(config) as database, database.reading() as session:
        keys, spent = known_keys(session), spent_by_key(session)
    rows = [
        {
            "name": key.name,
            "created": _date(key.created),
            "expires": None if key.expires is None else _date(key.expires),
            "valid": key.valid(time.time()),
            "requests_per_minute": key.requests_per_minute,
            "tokens_per_minute": key.tokens_per_minute,
            **spent.get(key.name, Spent(0, 0, 0))._asdict(),
        }
        for key in keys
    ]
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        print("there is no key; type cadran keys add NAME")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "name", "created", "expires", "requests/min", "tokens/min", "answers", "tokens read", "tokens written",
        box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        shown = str(row["expires"] or "-") + ("" if row["valid"] else " (expired)")
        limits = [f"{row[name]:,}" if row[name] else "-" for name in ("requests_per_minute", "tokens_per_minute")]
        used = [f"{row[name]:,}" for name in Spent._fields]
        table.add_row(str(row["name"]), str(row["created"]), shown, *limits, *used)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # a program reads it: one line a key
    console.print(table)


@app.command("rm")
def rm(name: Annotated[str, typer.Argument(help="Name of a key.")], config: Config = None) -> None:
    """Remove a key; a server that is running turns it down at once."""
    from cadran.serve.state.api_key import remove_key

    with _database(config) as database, database.session() as session:
        remove_key(session, name)


def _database(config: Path | None) -> "closing[Database]":
    from contextlib import closing

    from cadran.serve.settings import read_settings
    from cadran.serve.state.database import Database

    return closing(Database(read_settings(config).database))


def _date(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


def _until(text: str) -> float:
    """Seconds since 1970 that ``--expires`` means; a date without a time is its end, in UTC."""
    import time
    from datetime import UTC, datetime, timedelta

    from cadran.errors import UserError

    if (found := re.fullmatch(r"(\d{1,6})([mhd])", text)) is not None:
        return time.time() + int(found[1]) * {"m": 60, "h": 3600, "d": 86400}[found[2]]
    try:
        at = datetime.fromisoformat(text)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            at += timedelta(days=1)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise UserError(f"--expires {text[:50]} is no time; write for example 2030-01-31 or 30d") from error
