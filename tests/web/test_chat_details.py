"""What readers would call bugs of the web chat: things hidden, doubled, lost, or said in the wrong words."""

import json
import re
from typing import Any

import pytest
from driving import LONG, Bend, Opener, answers, expect, finished, send, stream, until

BELOW = "(main => main.scrollHeight - main.scrollTop - main.clientHeight)(document.querySelector('main'))"
RESTS = """(async (main) => {
  const before = main.scrollTop;
  await new Promise((later) => setTimeout(later, 150));
  return main.scrollTop === before;
})(document.querySelector('main'))"""
END = json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]})


def box(page: Any, selector: str) -> dict[str, float]:
    found: dict[str, float] = page.locator(selector).first.bounding_box()
    return found


def test_an_answer_that_broke_off_is_continued_where_it_ended(open_chat: Opener, bend: Bend) -> None:
    page = open_chat(locale="fr-FR")
    stream(page, {"content": "Half of"})
    send(page, "Begin")
    page.get_by_role("alert").get_by_text("Le serveur est injoignable.").wait_for()
    page.reload()
    expect(page.locator(".prose")).to_have_text("Half of")
    page.get_by_role("alert").get_by_text("Le serveur est injoignable.").wait_for()
    asked = bend(page, " it.")
    page.get_by_role("alert").get_by_role("button", name="Réessayer").click()
    finished(page, "Half of it.")
    assert asked[0]["messages"][-1] == {"role": "assistant", "content": "Half of"}
    assert asked[0]["continue_final_message"] is True
    expect(page.get_by_role("alert")).to_have_count(0)


def test_reasoning_that_broke_off_is_not_there_twice(open_chat: Opener) -> None:
    page = open_chat()
    stream(page, {"reasoning_content": "Let me see."})
    send(page, "Think")
    page.get_by_role("alert").wait_for()
    stream(page, {"reasoning_content": "Let me see."}, {"content": "Seen."}, END, "[DONE]")
    page.get_by_role("alert").get_by_role("button", name="Try again").click()
    answers(page).get_by_text("Seen.").wait_for()
    assert answers(page).inner_text().count("Reasoning") == 1
    assert (answers(page).text_content() or "").count("Let me see.") == 1


def test_an_empty_answer_says_that_it_is_empty(open_chat: Opener) -> None:
    page = open_chat()
    usage = {"prompt_tokens": 9, "completion_tokens": 0}
    stream(page, END, json.dumps({"usage": usage}), "[DONE]")
    send(page, "Hi")
    answers(page).get_by_text("The model had nothing to say.").wait_for()
    expect(answers(page).locator("[data-measures]")).to_have_text("9 read, 0 written")


def test_the_page_follows_a_fast_answer_to_its_end_and_stays_where_a_reader_scrolls(
    open_chat: Opener, bend: Bend
) -> None:
    page = open_chat(viewport={"width": 360, "height": 640})
    main = page.locator("main")
    lines = "\n\n".join(f"Line {number}." for number in range(60))
    for turn in (1, 2, 3):
        stream(page, *({"content": f"{line}\n\n"} for line in lines.split("\n\n")), END, "[DONE]")
        send(page, "Tell me")
        expect(answers(page)).to_have_count(turn)
        answers(page).last.get_by_text("Line 59.").wait_for()
        until(page, f"{BELOW} < 2")
    page.keyboard.press("Control+Shift+O")
    bend(page, **LONG)
    send(page, "Long")
    until(page, "document.querySelector('main').scrollTop > 300")
    main.hover()
    page.mouse.wheel(0, -200)
    until(page, f"{BELOW} > 100")
    until(page, RESTS)
    place, height = main.evaluate("main => [main.scrollTop, main.scrollHeight]")
    until(page, f"document.querySelector('main').scrollHeight > {height + 60}")
    assert main.evaluate("main => main.scrollTop") == pytest.approx(place, abs=2)


def test_the_last_conversations_menu_is_seen_whole(open_chat: Opener, bend: Bend) -> None:
    page = open_chat(viewport={"width": 1200, "height": 500})
    page.locator("[data-import]").set_input_files(
        {"name": "many.json", "mimeType": "application/json", "buffer": json.dumps(conversations(30)).encode()}
    )
    page.locator("nav li").nth(29).wait_for()
    last = page.locator("nav li").last
    last.scroll_into_view_if_needed()
    last.hover()
    last.get_by_role("button", name=re.compile("Options of")).click()
    expect(page.locator("nav [role=menu]")).to_be_in_viewport(ratio=0.99)
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("menuitem", name="Delete")).to_be_focused()


def conversations(count: int) -> dict[str, Any]:
    """A file of so many conversations."""
    said = {"parent": None, "role": "user", "text": "Hi", "children": [], "shown": None, "created": 1}
    each = [{"title": f"Talk {number}", "changed": number, "messages": {"u": said}} for number in range(count)]
    return {"format": "cadran-conversations", "version": 1, "conversations": each}


def test_a_file_that_is_too_large_hides_none_that_goes_along(open_chat: Opener) -> None:
    page = open_chat(viewport={"width": 360, "height": 640})
    text = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"x" * 2000}
    large = {"name": "large.txt", "mimeType": "text/plain", "buffer": b"x" * 2_000_000}
    page.locator("[data-attach]").set_input_files([text, large])
    page.get_by_text("large.txt is too large").wait_for()
    notice, files = box(page, ".notice"), box(page, ".composer ul")
    assert notice["y"] + notice["height"] <= files["y"]
    expect(page.locator(".composer li")).to_have_count(1)


def test_escape_stops_the_answer_also_after_a_search(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, **LONG)
    send(page, "Go on for ever")
    page.locator("article.answer[aria-busy=true] .block").first.wait_for()
    page.keyboard.press("Control+k")
    until(page, "document.activeElement.id === 'search'")
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.").wait_for()


def test_a_table_on_a_phone_breaks_no_word(open_chat: Opener, bend: Bend) -> None:
    page = open_chat(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    bend(page, "| column | value | another column | last |\n|---|---|---|---|\n| a | unbreakable | b | c |")
    page.locator("#message").fill("Table")
    page.get_by_role("button", name="Send").tap()
    answers(page).locator("[data-measures]").wait_for()
    page.evaluate("document.fonts.ready.then(() => null)")
    heights = page.locator("tbody td").evaluate_all("cells => cells.map(cell => cell.getBoundingClientRect().height)")
    assert max(heights) < 45
    assert page.evaluate("document.querySelector('main').scrollWidth") <= 360


def test_models_that_came_meanwhile_are_found_when_the_reader_comes_back(open_chat: Opener) -> None:
    page = open_chat()
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": []}), times=1)
    page.reload()
    page.get_by_text("cadran pull smollm2").wait_for()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.get_by_text("cadran pull smollm2").wait_for(state="detached")
    expect(page.locator("header select option")).to_have_count(3)
