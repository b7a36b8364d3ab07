"""What the tests of the web chat do again and again."""

import json
from collections.abc import Callable
from typing import Any

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright").expect
"""Asks again and again until it holds: a page shows what happened when it gets to it."""
expect.set_options(timeout=60_000)  # a busy machine is no failure

LONG = {"ignore_eos": True, "max_tokens": 8000}
"""An answer that is still under way when somebody stops it; see ``chat_server``."""

Opener = Callable[..., Any]
Bend = Callable[..., list[dict[str, Any]]]


def send(page: Any, text: str) -> None:
    """Write and press Enter."""
    page.locator("#message").fill(text)
    page.locator("#message").press("Enter")


def answers(page: Any) -> Any:
    """All answers that are complete."""
    return page.locator("article.answer:not([aria-busy=true])")


def finished(page: Any, text: str) -> Any:
    """The answer with that text, once it is complete."""
    answer = answers(page).filter(has_text=text).last
    answer.locator("[data-measures]").wait_for()
    return answer


def until(page: Any, expression: str) -> None:
    """Wait until it is true in the page; the page's policy forbids ``wait_for_function`` with an expression."""
    _wait(page, lambda: page.evaluate(expression), expression)


def caught(page: Any, requests: list[Any], count: int = 1) -> None:
    """Wait until a route's handler has been given so many requests."""
    _wait(page, lambda: len(requests) >= count, f"{count} requests")


def _wait(page: Any, holds: Callable[[], bool], what: str) -> None:
    for _ in range(1200):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {what}")


def stream(page: Any, *pieces: dict[str, str] | str) -> None:
    """Have the next answer be these pieces: deltas, or the data of an event. Without "[DONE]" it breaks off."""
    chunks = [each if isinstance(each, str) else json.dumps({"choices": [{"delta": each}]}) for each in pieces]
    body = "".join(f"data: {chunk}\n\n" for chunk in chunks)
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"), times=1
    )


_KEPT = """text => new Promise((resolve) => {
  indexedDB.open("cadran").onsuccess = ({ target: { result: database } }) => {
    database.transaction("conversations").objectStore("conversations").getAll().onsuccess = ({ target }) => {
      database.close();
      const messages = target.result.flatMap((conversation) => Object.values(conversation.messages));
      resolve(messages.some((message) => message.text === text && message.ending));
    };
  };
})"""


def kept(page: Any, text: str) -> None:
    """Waits until the browser has stored that answer, complete: another tab that hears of nothing finds it then."""
    page.wait_for_function(_KEPT, arg=text)
