"""Tiny models, a file server with bad manners, and a models folder of the test's own."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_models import make_folder, make_gguf


@pytest.fixture(scope="session")
def _session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model_folder(_session_folder: Path, tmp_path: Path) -> Path:
    """A model directory that the test may change."""
    copy = tmp_path / "given" / "tiny"
    copy.mkdir(parents=True)
    for path in _session_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    (tmp_path / "given").mkdir(exist_ok=True)
    return make_gguf(tmp_path / "given" / "small.gguf")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of pulled models, empty."""
    monkeypatch.setenv("CADRAN_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@dataclass
class Server:
    """Files by path, and how the server misbehaves.

    Attributes:
        files: content by path, such as "/a.gguf".
        redirects: target by path.
        asked: method, path, Range and Authorization of each request.
        ignores_range: answers 200 with everything.
        shifts_range: answers with another part than was asked for.
        breaks: how many times it ends the connection in the middle.
        silent_after: bytes after which it breaks.
        status: answered instead of a file; None for the usual.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    ignores_range: bool = False
    shifts_range: bool = False
    breaks: int = 0
    break_after: int = 1000
    status: int | None = None


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
            if self.path in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = state.files.get(self.path)
            if state.status or content is None:
                self.send_error(state.status or 404)
                return
            self._send(content)

        def _send(self, content: bytes) -> None:
            asked, start = self.headers.get("Range"), 0
            if asked and not state.ignores_range:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
                start -= 7 if state.shifts_range else 0
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            body = content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.breaks:
                state.breaks -= 1
                body = body[: state.break_after]
                self.close_connection = True
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join(10)
