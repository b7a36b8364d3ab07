"""The built page, a server that serves it with tiny models, and a real browser that may talk to nobody else."""

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from live import LiveServer
from replicate_engines import slow
from tiny import tiny_model

from cadran.serve import web

CHROMIUM = Path("/usr/bin/chromium")
ROOT = Path(__file__).parents[2]


def _load_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("web_build", ROOT / "web" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def builder() -> ModuleType:
    """``web/build.py``."""
    return _load_builder()


@pytest.fixture(scope="session")
def built(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the built page, with ``axe.min.js`` beside it; kept in the user's cache by the hash of the sources."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cadran" / "web"
    folder: Path = cache / builder.digest()[:20]
    if not (folder / "axe.min.js").is_file():
        try:
            builder.build(folder)
        except builder.NotBuilt as error:
            pytest.skip(f"the web chat cannot be built here: {error}")
        copied = tmp_path_factory.mktemp("axe") / "axe.min.js"
        shutil.copy(ROOT / "web/node_modules/axe-core/axe.min.js", copied)
        shutil.move(copied, folder / "axe.min.js")
        for old in cache.iterdir():  # but not what another checkout may be testing
            if len(old.name) == len(folder.name) and time.time() - old.stat().st_mtime > 86_400:
                shutil.rmtree(old, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def chat_server(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Serves the page with ``tiny``, ``other`` and ``base``, which cannot chat.

    A step takes long enough that an answer of thousands of tokens is still under way when a slow page is done with it.
    """
    folder = tmp_path_factory.mktemp("web")
    models = [
        tiny_model(folder / "tiny", context=8192),
        tiny_model(folder / "other", context=8192, seed=1),
        tiny_model(folder / "base", context=8192, chat=False),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "ASSETS", built)
        names, database = [str(model) for model in models], f"sqlite:///{folder / 'state.db'}"
        live = LiveServer(open=lambda known: slow(known, 0.004), models=names, database=database)
    yield live
    live.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, closed with each file: its driver keeps an event loop running in this thread."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    if not CHROMIUM.is_file():
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


Opener = Callable[..., Any]


@pytest.fixture
def open_chat(browser: Any, chat_server: LiveServer) -> Iterator[Opener]:
    """Opens the page in a fresh browser profile. Afterwards nothing may have gone wrong or elsewhere."""
    contexts: list[Any] = []
    elsewhere: list[str] = []
    errors: list[str] = []

    def note(request: Any) -> None:
        if not request.url.startswith((chat_server.url + "/", "data:", "blob:")):
            elsewhere.append(request.url)

    def opened(**options: Any) -> Any:
        context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1200, "height": 800}, **options})
        context.set_default_timeout(60_000)  # a busy machine is no failure
        context.on("request", note)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: errors.append(said.text) if "Content Security" in said.text else None)
        page.goto(chat_server.url)
        page.locator("header select:not([disabled])").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not elsewhere, "the page asked another host"
    assert not errors, "the page failed"


@pytest.fixture
def bend() -> Callable[..., list[dict[str, Any]]]:
    """Changes what the page asks, so that a random model says what a test needs, and notes what it asked."""

    def bent(page: Any, *texts: str, **changes: Any) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def change(route: Any) -> None:
            body = json.loads(route.request.post_data)
            text = texts[min(len(asked), len(texts) - 1)] if texts else None
            asked.append(dict(body))
            body |= {"structured_outputs": {"choice": [text]}} if text is not None else {}
            route.continue_(post_data=json.dumps(body | changes))

        page.route("**/v1/*completions", change)
        page.route("**/v1/chat/completions", change)
        return asked

    return bent
