"""The web chat when something goes wrong: reloads, a server that is gone or busy, hostile answers; and what is kept."""

import json
import re
from pathlib import Path
from typing import Any

from driving import LONG, Bend, Opener, answers, caught, expect, finished, send

HOSTILE = (
    "<script>hacked=1</script><img src=x onerror=hacked=1> [link](javascript:hacked=1) "
    "![picture](https://elsewhere.example/p.png) **bold** $x^2$"
)


def test_a_reload_keeps_conversations_their_branches_and_what_was_cut(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, "First.", "Second.")
    send(page, "Remember the lighthouse")
    finished(page, "First.")
    page.get_by_role("button", name="Answer again").click()
    finished(page, "Second.")
    page.reload()
    finished(page, "Second.")
    page.get_by_role("button", name="Previous version").click()
    expect(page.get_by_text("First.")).to_be_visible()
    page.keyboard.press("Control+Shift+O")
    page.get_by_role("heading", name="What shall we try?").wait_for()
    page.get_by_label("Search").fill("lighthouse")
    expect(page.locator("nav li")).to_have_count(1)
    page.get_by_label("Search").fill("elephant")
    expect(page.locator("nav li")).to_have_count(0)
    page.unroute_all()
    bend(page, **LONG)
    send(page, "Long")
    page.locator("article.answer[aria-busy=true] .block").first.wait_for()
    page.reload()
    answer = answers(page)
    answer.wait_for()
    expect(answer.locator(".prose")).not_to_be_empty()
    expect(answer).to_contain_text(re.compile("Interrupted|Stopped"))


def test_conversations_are_renamed_exported_deleted_and_imported(open_chat: Opener, bend: Bend, tmp_path: Path) -> None:
    page = open_chat()
    bend(page, "Kept.")
    send(page, "Keep me")
    finished(page, "Kept.")

    def option(name: str) -> None:
        page.locator("nav li").get_by_role("button", name=re.compile("Options of")).click()
        page.get_by_role("menuitem", name=name).click()

    option("Rename")
    page.get_by_label("Title").fill("Precious")
    page.keyboard.press("Enter")
    page.locator("nav li").get_by_text("Precious").wait_for()
    with page.expect_download() as markdown:
        option("Export as Markdown")
    assert markdown.value.suggested_filename == "Precious.md"
    assert Path(markdown.value.path()).read_text() == "# Precious\n\n## You\n\nKeep me\n\n## tiny\n\nKept.\n"
    with page.expect_download() as exported:
        option("Export as JSON")
    file = tmp_path / "one.json"
    exported.value.save_as(file)
    page.once("dialog", lambda dialog: dialog.accept())
    option("Delete")
    page.get_by_role("heading", name="What shall we try?").wait_for()
    expect(page.locator("nav li")).to_have_count(0)
    page.locator("[data-import]").set_input_files(file)
    page.get_by_text("One conversation imported.").wait_for()
    page.locator("nav li").get_by_text("Precious").click()
    expect(page.locator("article.answer .prose")).to_have_text("Kept.")


def test_a_server_that_is_gone_loses_nothing_and_is_found_again(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, "Back.")
    page.context.set_offline(True)
    send(page, "Anybody?")
    page.get_by_role("alert").get_by_text("The server cannot be reached.").wait_for()
    page.get_by_text("it is tried again by itself").wait_for()
    expect(page.get_by_text("Anybody?").first).to_be_visible()
    page.context.set_offline(False)
    page.get_by_text("it is tried again by itself").wait_for(state="detached")
    page.get_by_role("alert").get_by_role("button", name="Try again").click()
    finished(page, "Back.")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_what_is_sent_before_the_models_are_known_goes_out_when_they_are(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, "Here.")
    held: list[Any] = []
    page.route("**/v1/models", lambda route: held.append(route))
    with page.expect_request("**/v1/models"):
        page.reload()
    send(page, "Early")
    caught(page, held)
    expect(page.locator("#message")).to_have_value("Early")
    held.pop().continue_()
    finished(page, "Here.")
    expect(page.locator("#message")).to_have_value("")
    expect(page.locator(".said .words")).to_have_text(["Early"])


def test_a_busy_server_is_told_from_one_that_refuses(open_chat: Opener) -> None:
    page = open_chat()
    statuses = [429, 400]

    def refuse(route: Any) -> None:
        body = json.dumps({"error": {"message": "the prompt is too long"}})
        route.fulfill(status=statuses.pop(0), headers={"retry-after": "3"}, body=body, content_type="application/json")

    page.route("**/v1/chat/completions", refuse)
    send(page, "Hi")
    page.get_by_text("The server is busy; it asks to wait 3 s.").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("The server refused: the prompt is too long").wait_for()


def test_hostile_markdown_does_nothing(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, HOSTILE)
    send(page, "Attack")
    answer = finished(page, "hacked=1")
    answer.locator(".formula .katex").wait_for()
    assert page.evaluate("typeof window.hacked") == "undefined"
    expect(answer.locator("script, .prose img")).to_have_count(0)
    links = answer.locator(".prose a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert links == ["https://elsewhere.example/p.png"]
    expect(answer.locator("strong")).to_have_text("bold")
