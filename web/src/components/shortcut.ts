// What keys do wherever the focus is.

import type { Chat } from "../state/chat.svelte";

/** Where the conversations are a drawer over the page. */
export const NARROW = "(max-width: 52rem)";

export function shortcut(event: KeyboardEvent, chat: Chat): void {
  if (event.defaultPrevented || event.isComposing) return;
  const command = event.ctrlKey || event.metaKey;
  const action = command ? commands(event, chat) : plain(event, chat);
  if (action === null) return;
  event.preventDefault();
  action();
}

type Action = (() => void) | null;

function commands({ key, shiftKey }: KeyboardEvent, chat: Chat): Action {
  const pressed = key.toLowerCase();
  if (pressed === "k") return () => search(chat);
  if (pressed === "o" && shiftKey) return () => begin(chat);
  return null;
}

function plain({ key, code, altKey, target }: KeyboardEvent, chat: Chat): Action {
  if (key === "Escape") {
    if (document.querySelector("dialog[open]") !== null) return null;
    if (chat.drawer) return () => (chat.drawer = false);
    return chat.answering.busy(chat.conversation) ? () => chat.answering.stop(chat.conversation) : null;
  }
  if (altKey) return code === "KeyP" ? () => (chat.preferences.probabilities = !chat.preferences.probabilities) : null;
  if (target instanceof HTMLElement && target.closest("input, textarea, select, dialog") !== null) return null;
  if (key === "/") return () => document.getElementById("message")?.focus();
  if (key === "?") return () => (chat.panel = "shortcuts");
  return null;
}

function search(chat: Chat): void {
  chat.drawer = matchMedia(NARROW).matches;
  setTimeout(() => document.getElementById("search")?.focus());
}

/** A new conversation, ready to be written in. */
export function begin(chat: Chat): void {
  chat.library.begin();
  chat.drawer = false;
  setTimeout(() => document.getElementById("message")?.focus());
}

/** Whether a key sends what is written. Keyboards on glass have no Shift+Enter: there Enter begins a line. */
export function sends({ key, isComposing, shiftKey, ctrlKey }: KeyboardEvent): boolean {
  if (key !== "Enter" || isComposing || shiftKey) return false;
  return ctrlKey || !matchMedia("(hover: none)").matches;
}
