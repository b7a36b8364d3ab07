"""The web chat in a real browser, over the real server and engine; only the texts of the random models are arranged."""

import json
import re

from driving import LONG, Bend, Opener, answers, caught, expect, finished, send
from live import LiveServer


def test_a_message_is_answered_and_measured(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    asked = bend(page, "Hello **you**, `x`.")
    send(page, "Hi")
    answer = finished(page, "Hello you")
    expect(answer.locator("strong")).to_have_text("you")
    expect(answer.locator("[data-measures]")).to_have_text(re.compile(r"\d+ read, \d+ written\s*first after [\d.]+ s"))
    expect(page.locator("[data-context]")).to_have_attribute("title", re.compile("of 8,192 tokens of context used$"))
    assert asked[0]["messages"] == [{"role": "user", "content": "Hi"}]
    told = page.locator("[data-whisper]")
    expect(told, "screen readers are told the answer").to_contain_text("Hello **you**")


def test_a_long_answer_tells_its_speed_as_the_servers_count_over_the_time_it_took(
    open_chat: Opener, bend: Bend
) -> None:
    page = open_chat()
    bend(page, ignore_eos=True, max_tokens=1000)
    send(page, "Go")
    measures = answers(page).locator("[data-measures]")
    expect(measures).to_contain_text("1,000 written")
    rate = re.search(r"([\d.,]+) tokens/s", measures.inner_text())
    assert rate is not None
    assert 1 < float(rate[1].replace(",", "")) < 999 / 0.05


def test_a_second_turn_carries_the_first_and_the_system_prompt(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    asked = bend(page, "One.", "Two.")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Count.")
    page.get_by_label("Seed").fill("7")
    page.keyboard.press("Escape")
    send(page, "Go")
    finished(page, "One.")
    send(page, "On")
    finished(page, "Two.")
    assert [message["content"] for message in asked[1]["messages"]] == ["Count.", "Go", "One.", "On"]
    assert asked[1]["seed"] == 7


def test_stop_ends_the_answer_here_and_on_the_server(open_chat: Opener, bend: Bend, chat_server: LiveServer) -> None:
    page = open_chat()
    asked = bend(page, **LONG)
    send(page, "Go on for ever")
    page.locator("article.answer[aria-busy=true] .block").first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.").wait_for()
    chat_server.settle()
    page.get_by_role("button", name="Continue", exact=True).click()
    page.locator("article.answer[aria-busy=true]").wait_for()
    caught(page, asked, 2)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("Stopped.").wait_for()
    assert asked[1]["messages"][-1]["role"] == "assistant"
    assert asked[1]["continue_final_message"] is True


def test_edits_and_new_answers_are_branches(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    bend(page, "First.", "Second.", "Third.")
    send(page, "Question")
    finished(page, "First.")
    page.get_by_role("button", name="Answer again").click()
    finished(page, "Second.")
    expect(answers(page).get_by_role("group", name="Version 2 of 2")).to_be_visible()
    page.get_by_role("button", name="Previous version").click()
    expect(page.get_by_text("First.")).to_be_visible()
    page.locator(".said").hover()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Edit the message").fill("Better question")
    page.get_by_role("button", name="Send as a new branch").click()
    finished(page, "Third.")
    page.locator(".said").get_by_role("button", name="Previous version").click()
    expect(page.locator(".said .words")).to_have_text("Question")
    expect(page.get_by_text("First.")).to_be_visible()


def test_two_models_answer_side_by_side_and_the_choice_is_a_vote(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    asked = bend(page, "One way.", "Other way.")
    page.get_by_role("button", name="Compare").click()
    page.get_by_label("Second model").select_option("other")
    send(page, "Race")
    with page.expect_response("**/api/votes") as voted:
        page.get_by_role("button", name="B is better").click()
    vote = json.loads(voted.value.request.post_data)
    said = {body["model"]: text for body, text in zip(asked, ("One way.", "Other way."), strict=True)}
    assert vote == {
        "messages": [{"role": "user", "content": "Race"}], "chosen": said["other"], "rejected": said["tiny"],
        "models": {"chosen": "other", "rejected": "tiny"}, "language": "en",
    }  # fmt: skip
    assert voted.value.ok
    expect(answers(page)).to_have_count(1)
    expect(answers(page).locator(".model")).to_have_text("other")
    expect(answers(page).get_by_role("group", name="Version 2 of 2")).to_be_visible()


def test_a_thumb_is_a_vote(open_chat: Opener, bend: Bend) -> None:
    page = open_chat(locale="fr-FR")
    bend(page, "Voilà.")
    send(page, "Alors ?")
    finished(page, "Voilà.")
    with page.expect_response("**/api/votes") as voted:
        page.get_by_role("button", name="Mauvaise réponse").click()
    vote = json.loads(voted.value.request.post_data)
    assert vote == {
        "messages": [{"role": "user", "content": "Alors ?"}], "answer": "Voilà.", "liked": False, "model": "tiny",
        "language": "fr",
    }  # fmt: skip
    assert voted.value.ok
    page.locator("button[aria-label='Mauvaise réponse'][aria-pressed=true]").wait_for()


def test_a_base_model_continues_one_text(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    asked = bend(page, "calm.", max_tokens=4)
    page.get_by_label("Model", exact=True).select_option("base")
    page.get_by_text("This is a base model").wait_for()
    send(page, "The river is ")
    answers(page).wait_for()
    assert asked[0]["prompt"] == "The river is "
    said = page.locator("article.answer .prose").inner_text()
    send(page, " And")
    answers(page).nth(1).wait_for()
    assert asked[1]["prompt"].startswith("The river is " + said)
    assert asked[1]["prompt"].endswith(" And")


def test_text_files_go_along_and_others_do_not(open_chat: Opener, bend: Bend) -> None:
    page = open_chat()
    asked = bend(page, "Read.")
    page.locator("[data-attach]").set_input_files(
        [
            {"name": "notes.md", "mimeType": "text/markdown", "buffer": b"a\n```\nb\n```\n"},
            {"name": "picture.png", "mimeType": "image/png", "buffer": b"\x89PNG\0"},
        ]
    )
    page.get_by_text("picture.png is no text file.").wait_for()
    send(page, "Summarise")
    finished(page, "Read.")
    assert asked[0]["messages"][0]["content"] == "Summarise\n\nnotes.md:\n````\na\n```\nb\n```\n````"
