"""Two tabs on the same conversations: neither loses what the other has kept, and both show it."""

import re
from typing import Any

from driving import LONG, Bend, Opener, answers, caught, expect, finished, kept, send
from live import LiveServer


def beside(page: Any) -> Any:
    """A second tab in the same browser."""
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("header select:not([disabled])").wait_for()
    return other


def delete(page: Any) -> None:
    page.locator("nav li").get_by_role("button", name=re.compile("Options of")).first.click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("menuitem", name="Delete").click()


def test_what_is_said_in_one_tab_appears_in_the_other_and_stays(open_chat: Opener, bend: Bend) -> None:
    one = open_chat()
    bend(one, "First.", "Third.")
    send(one, "Begin")
    finished(one, "First.")
    two = beside(one)
    finished(two, "First.")
    bend(two, "Second.")
    send(two, "Go on")
    finished(two, "Second.")
    finished(one, "Second.")
    send(one, "And on")
    finished(one, "Third.")
    finished(two, "Third.")
    for page in (one, two):
        page.reload()
        finished(page, "Third.")
        expect(page.locator(".prose")).to_have_text(["First.", "Second.", "Third."])
        expect(page.locator("nav li")).to_have_count(1)


def test_tabs_that_hear_nothing_of_each_other_overwrite_nothing(open_chat: Opener, bend: Bend) -> None:
    one = open_chat()
    one.context.add_init_script("delete globalThis.BroadcastChannel")
    one.reload()
    bend(one, "First.", "Mine.")
    send(one, "Begin")
    finished(one, "First.")
    kept(one, "First.")
    two = beside(one)
    bend(two, "Yours.")
    send(two, "Other way")
    finished(two, "Yours.")
    kept(two, "Yours.")
    send(one, "One way")
    finished(one, "Mine.")
    kept(one, "Mine.")
    two.reload()
    finished(two, "Mine.")
    two.locator(".said").last.get_by_role("button", name="Previous version").click()
    expect(two.locator(".said .words").last).to_have_text("Other way")
    expect(two.locator(".prose").last).to_have_text("Yours.")


def test_an_answer_grows_in_both_tabs_and_either_stops_it(
    open_chat: Opener, bend: Bend, chat_server: LiveServer
) -> None:
    one = open_chat()
    bend(one, **LONG)
    send(one, "Go on for ever")
    one.locator("article.answer[aria-busy=true] .block").first.wait_for()
    two = beside(one)
    two.locator("article.answer[aria-busy=true]").wait_for()
    expect(two.get_by_text("Interrupted.")).to_have_count(0)
    two.get_by_role("button", name="Stop", exact=True).click()
    one.get_by_text("Stopped.").wait_for()
    two.get_by_text("Stopped.").wait_for()
    chat_server.settle()
    expect(answers(one).locator(".prose")).not_to_be_empty()
    text = answers(one).locator(".prose").inner_text()
    expect(answers(two).locator(".prose")).to_have_text(text, use_inner_text=True)
    two.keyboard.press("Alt+p")
    two.locator("[data-token]").first.wait_for()


def test_a_conversation_deleted_in_one_tab_is_gone_in_the_other(
    open_chat: Opener, bend: Bend, chat_server: LiveServer
) -> None:
    one = open_chat()
    bend(one, **LONG)
    send(one, "Go on for ever")
    one.locator("article.answer[aria-busy=true] .block").first.wait_for()
    two = beside(one)
    two.locator("article.answer").wait_for()
    delete(two)
    for page in (two, one):
        page.get_by_role("heading", name="What shall we try?").wait_for()
    chat_server.settle()
    for page in (two, one):
        page.wait_for_timeout(600)
        page.reload()
        page.get_by_role("heading", name="What shall we try?").wait_for()
        expect(page.locator("nav li")).to_have_count(0)


def test_what_is_deleted_while_it_is_answered_does_not_come_back(
    open_chat: Opener, bend: Bend, chat_server: LiveServer
) -> None:
    page = open_chat()
    bend(page, **LONG)
    send(page, "Go on for ever")
    page.locator("article.answer[aria-busy=true] .block").first.wait_for()
    delete(page)
    page.get_by_role("heading", name="What shall we try?").wait_for()
    chat_server.settle()
    page.wait_for_timeout(600)
    expect(page.locator("nav li")).to_have_count(0)
    page.reload()
    page.get_by_role("heading", name="What shall we try?").wait_for()
    expect(page.locator("nav li")).to_have_count(0)


def test_each_tab_comes_back_to_its_own_conversation(open_chat: Opener, bend: Bend) -> None:
    one = open_chat()
    bend(one, "First.")
    send(one, "Begin")
    finished(one, "First.")
    two = beside(one)
    bend(two, "Second.")
    two.keyboard.press("Control+Shift+O")
    send(two, "Elsewhere")
    finished(two, "Second.")
    one.locator("nav li").nth(1).wait_for()
    for page, text in ((one, "First."), (two, "Second.")):
        page.reload()
        finished(page, text)


def test_a_thumb_is_kept_also_when_the_reader_has_gone_elsewhere(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, "First.", "Second.")
    send(page, "Begin")
    finished(page, "First.")
    page.keyboard.press("Control+Shift+O")
    send(page, "Elsewhere")
    finished(page, "Second.")
    votes: list[Any] = []
    page.route("**/api/votes", lambda route: votes.append(route))
    with page.expect_request("**/api/votes"):
        page.get_by_role("button", name="Good answer").click()
    page.locator("nav li").get_by_text("Begin").click()
    finished(page, "First.")
    caught(page, votes)
    votes.pop().continue_()
    page.get_by_text("Noted.").wait_for()
    page.reload()
    page.locator("nav li").get_by_text("Elsewhere").click()
    page.locator("button[aria-label='Good answer'][aria-pressed=true]").wait_for()
