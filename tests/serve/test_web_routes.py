"""The web chat's files over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live import LiveServer

from cadran.serve import web

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page as it is built."""
    root = tmp_path_factory.mktemp("page")
    (root / "assets").mkdir()
    (root / "index.html").write_text("<!doctype html><title>Cadran</title>")
    (root / "secret.js").write_text("no")
    for name in ("index-Ab1_-x.js", "index-x.css", "letters-x.woff2", "mark-x.svg", "notes.txt", ".hidden.js"):
        (root / "assets" / name).write_text("content")
    return root


@pytest.fixture(scope="module")
def client(folder: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Asks a server that has the page."""
    database = f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "ASSETS", folder)
        live = LiveServer(models=[str(tiny)], database=database)
    with httpx.Client(base_url=live.url) as opened:
        yield opened
    live.close()


def test_a_browser_gets_the_page_and_asks_for_it_anew_each_time(client: httpx.Client) -> None:
    answer = client.get("/", headers=HTML)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["vary"] == "accept"
    head = client.head("/", headers=HTML)
    assert head.status_code == 200 and head.content == b""


def test_the_page_may_load_nothing_from_elsewhere_and_run_nothing_inline(client: httpx.Client) -> None:
    policy = client.get("/", headers=HTML).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_programs_do_not_get_the_page(client: httpx.Client, accept: str) -> None:
    assert "<!doctype" not in client.get("/", headers={"accept": accept}).text
    assert "<!doctype" not in client.post("/", headers=HTML).text


@pytest.mark.parametrize(
    ("name", "type"),
    [("index-Ab1_-x.js", "text/javascript; charset=utf-8"), ("index-x.css", "text/css; charset=utf-8"),
     ("letters-x.woff2", "font/woff2"), ("mark-x.svg", "image/svg+xml")],
)  # fmt: skip
def test_files_have_their_types_and_are_kept_for_ever(client: httpx.Client, name: str, type: str) -> None:
    answer = client.get(f"/assets/{name}")
    assert (answer.status_code, answer.text) == (200, "content")
    assert answer.headers["content-type"] == type
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "absent.js",
        "notes.txt",
        ".hidden.js",
        "..%2fsecret.js",
        "%2e%2e/secret.js",
        "..%5csecret.js",
        "%00.js",
        "a%0a.js",
    ],
)
def test_nothing_else_can_be_fetched(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/assets/{path}")
    assert 400 <= answer.status_code < 500
    assert "content" != answer.text != "no"


def test_without_the_page_the_server_says_what_to_type(tiny: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "ASSETS", tmp_path)
        live = LiveServer(models=[str(tiny)], database=f"sqlite:///{tmp_path / 'state.db'}")
    try:
        answer = httpx.get(live.url, headers=HTML)
        assert answer.status_code == 404
        assert "python web/build.py" in answer.text
        (tmp_path / "index.html").write_text("built meanwhile")
        assert httpx.get(live.url, headers=HTML).text == "built meanwhile"
    finally:
        live.close()


def test_a_server_without_the_web_chat_has_no_page(tiny: Path, tmp_path: Path) -> None:
    live = LiveServer(models=[str(tiny)], web=False, database=f"sqlite:///{tmp_path / 'state.db'}")
    try:
        assert "<!doctype" not in httpx.get(live.url, headers=HTML).text
        assert httpx.get(f"{live.url}/assets/index.js").status_code == 404
    finally:
        live.close()
