"""A page that goes away while it writes: nothing that was seen is lost, and other tabs get it."""

from typing import Any

from driving import Bend, Opener, finished, send, stream

# A browser loses the writing that waits for another when its page goes away: here every writing takes a second.
SLOW_STORE = """
const get = IDBObjectStore.prototype.get;
IDBObjectStore.prototype.get = function (key) {
  const reading = get.call(this, key);
  if (this.transaction.mode !== "readwrite") return reading;
  const end = Date.now() + 1000;
  let done;
  Object.defineProperty(reading, "onsuccess", { set: (given) => (done = given) });
  const again = () =>
    Date.now() < end ? get.call(this, key).addEventListener("success", again) : done.call(reading);
  reading.addEventListener("success", again);
  return reading;
};
"""


def slow(page: Any) -> None:
    page.add_init_script(SLOW_STORE)
    page.reload()
    page.locator("header select:not([disabled])").wait_for()


def test_what_was_being_stored_is_there_after_a_reload(open_chat: Opener) -> None:
    page = open_chat()
    slow(page)
    for text, later in (("First half", 1000), ("Second half", 0)):  # between two writings, and before
        stream(page, {"content": text})
        send(page, "Begin")
        page.get_by_role("alert").last.wait_for()
        page.wait_for_timeout(later)
        page.reload()
        page.locator(".prose").get_by_text(text, exact=True).wait_for()
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('cadran.left.'))") == []


def test_what_was_being_stored_comes_to_the_other_tab(open_chat: Opener, bend: Bend) -> None:
    one = open_chat()
    bend(one, "First.", "Second.")
    send(one, "Begin")
    finished(one, "First.")
    two = one.context.new_page()
    two.goto(one.url)
    finished(two, "First.")
    slow(one)
    finished(one, "First.")
    send(one, "Go on")
    finished(one, "Second.")
    one.goto("about:blank")
    finished(two, "Second.")
