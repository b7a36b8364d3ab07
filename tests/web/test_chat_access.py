"""The web chat for everybody: screen readers, keyboards, fingers, small screens, two languages."""

import re
from pathlib import Path

import pytest
from driving import Bend, Opener, answers, expect, finished, send

RESTS = """Promise.allSettled(
  document.getAnimations().filter((one) => one.effect.getTiming().iterations < 100).map((one) => one.finished)
).then(() => null)"""


def test_every_token_shows_its_chances_to_pointer_and_keyboard(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, "calm river")
    send(page, "Hi")
    finished(page, "calm river")
    page.keyboard.press("Alt+p")
    tokens = page.locator("[data-token]")
    tokens.first.wait_for()
    assert "".join(tokens.all_inner_texts()).startswith("calm river")
    expect(tokens.first).to_have_attribute("aria-label", re.compile("%$"))
    tokens.nth(1).hover()
    page.locator("[data-card] .row").nth(4).wait_for()
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-token='1']")).to_be_focused()
    expect(page.locator("[data-card] .chosen")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("[data-card]")).to_have_count(0)


def test_a_line_end_can_be_pointed_at_too(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, "\n\none\n \ntwo")
    send(page, "Hi")
    finished(page, "two")
    page.keyboard.press("Alt+p")
    tokens = page.locator("[data-token]")
    tokens.first.wait_for()
    expect(tokens.first).to_contain_text("⏎")
    assert [one.inner_text() for one in tokens.all() if not one.is_visible()] == []


def test_the_page_speaks_the_browsers_language_until_told_otherwise(open_chat: Opener) -> None:
    page = open_chat(locale="fr-CA")
    expect(page.locator("html")).to_have_attribute("lang", "fr")
    expect(page.get_by_role("heading", name="Qu’essayons-nous ?")).to_be_visible()
    page.get_by_role("button", name="Réglages").click()
    page.get_by_label("Langue").select_option("en")
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    page.reload()
    page.get_by_role("heading", name="What shall we try?").wait_for()
    expect(page.locator("html")).to_have_attribute("lang", "en")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_chat: Opener, bend: Bend, built: Path, scheme: str) -> None:
    page = open_chat(color_scheme=scheme, reduced_motion="reduce")
    bend(page, "A `word`:\n\n```python\ndef f(x):  # why\n    return 'a', 1\n```\n\n| a | b |\n|---|---|\n| 1 | $x$ |")
    page.evaluate((built / "axe.min.js").read_text(encoding="utf-8"))
    found: list[str] = []

    def look(where: str) -> None:
        page.evaluate(RESTS)
        for violation in page.evaluate("axe.run()")["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [f"{node['html'][:120]} {node['failureSummary'][:200]}" for node in violation["nodes"][:2]]
                found.append(f"{where}: {violation['id']} {nodes}")

    look("welcome")
    send(page, "Show me")
    answers(page).locator("[data-measures]").wait_for()
    look("conversation")
    page.keyboard.press("Alt+p")
    page.locator("[data-token]").nth(3).hover()
    page.locator("[data-card]").wait_for()
    look("probabilities")
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("heading", name="Settings").wait_for()
    look("settings")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compare").click()
    send(page, "Again")
    page.get_by_role("button", name="Equally good").wait_for()
    look("compare")
    page.context.set_offline(True)
    send(page, "Gone")
    page.get_by_role("alert").first.wait_for()
    look("offline")
    assert not found


def test_nothing_is_wider_than_a_phone(open_chat: Opener, bend: Bend) -> None:
    page = open_chat(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True, locale="fr-FR")
    bend(page, "Voilà :\n\n```\n" + "x" * 120 + "\n```\n\n| a | b | c |\n|---|---|---|\n| " + "y" * 60 + " | 1 | 2 |")

    def fits(where: str) -> None:
        widths = page.evaluate(
            "[document.scrollingElement.scrollWidth, innerWidth, document.querySelector('main').scrollWidth]"
        )
        assert widths[0] <= 360 and widths[1] == 360 and widths[2] <= 360, (where, widths)

    fits("welcome")
    page.get_by_role("button", name="Comparer").click()
    page.locator("#message").fill("Bonjour")
    page.get_by_role("button", name="Envoyer").click()
    page.get_by_role("button", name="Aussi bonnes").wait_for()
    fits("compare")
    page.get_by_role("button", name="Ouvrir les conversations").click()
    page.locator("nav li").first.wait_for()
    fits("drawer")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Réglages").click()
    page.get_by_role("heading", name="Réglages").wait_for()
    fits("settings")


def test_a_finger_reaches_the_chances_of_a_token(open_chat: Opener, bend: Bend) -> None:
    page = open_chat(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    bend(page, "calm river")
    page.get_by_role("button", name="Probabilities").tap()
    page.locator("#message").fill("Hi")
    page.get_by_role("button", name="Send").tap()
    finished(page, "calm river")
    page.locator("[data-token]").nth(2).tap()
    page.locator("[data-card] .chosen").wait_for()
    expect(page.locator("[data-card]")).to_be_in_viewport(ratio=1)


def test_the_keyboard_alone_is_enough(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, "Done.")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the conversation")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Control+Enter")
    finished(page, "Done.")
    expect(page.locator(".said .words")).to_have_text("one\ntwo", use_inner_text=True)
    page.locator("main").focus()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keyboard shortcuts").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("heading", name="Keyboard shortcuts").wait_for(state="detached")
