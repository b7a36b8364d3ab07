// All conversations of this browser and which one is open. What changes is kept soon after, and at once when the page
// goes away.

import { matches, newConversation, titleOf, type Conversation } from "../conversation/conversation";
import type { Database } from "../storage/database";
import { keepSetting, readSetting } from "../storage/setting";

const SOON = 400;

export class Library {
  /** Latest first. A conversation comes in with its first message. */
  all = $state<Conversation[]>([]);
  current = $state<Conversation>(newConversation(Date.now()));
  /** False when something could not be kept. */
  keeps = $state(true);
  readonly #database: Database;
  readonly #unkept = new Map<string, Conversation>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(database: Database, conversations: Conversation[]) {
    this.#database = database;
    this.all = conversations.sort((one, other) => other.changed - one.changed);
    const last = readSetting("current");
    const found = this.all.find(({ id }) => id === last);
    if (found) this.current = found;
    else if (this.all[0]) this.current = newConversation(Date.now(), this.all[0]);
    addEventListener("pagehide", () => void this.#flush());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden") void this.#flush();
    });
  }

  open(conversation: Conversation): void {
    this.current = conversation;
    keepSetting("current", conversation.id);
  }

  begin(): void {
    if (this.current.children.length > 0) this.open(newConversation(Date.now(), this.current));
  }

  /** Keep a conversation now: something was sent, answered or decided. Empty ones are not kept. */
  changed(conversation: Conversation): void {
    if (conversation.children.length === 0) return;
    conversation.changed = Date.now();
    if (conversation.title === "") {
      const first = conversation.messages[conversation.children[0] ?? ""];
      conversation.title = titleOf(first?.text || (first?.attachments?.[0]?.name ?? ""));
    }
    const place = this.all.findIndex(({ id }) => id === conversation.id);
    if (place !== 0) {
      if (place > 0) this.all.splice(place, 1);
      this.all.unshift(conversation);
      const held = this.all[0];
      if (held && this.current.id === held.id) this.current = held;
      keepSetting("current", this.current.id);
    }
    this.#unkept.set(conversation.id, conversation);
    void this.#flush();
  }

  /** Keep it within a moment: for what changes many times a second. */
  keepSoon(conversation: Conversation): void {
    if (conversation.children.length === 0) return;
    this.#unkept.set(conversation.id, conversation);
    this.#timer ??= setTimeout(() => void this.#flush(), SOON);
  }

  rename(conversation: Conversation, title: string): void {
    conversation.title = titleOf(title) || conversation.title;
    this.keepSoon(conversation);
  }

  async remove(conversation: Conversation): Promise<void> {
    this.#unkept.delete(conversation.id);
    this.all = this.all.filter(({ id }) => id !== conversation.id);
    if (this.current.id === conversation.id) this.open(newConversation(Date.now(), conversation));
    await this.#database.forget($state.snapshot(conversation) as Conversation);
  }

  /** Add conversations from a file. */
  take(conversations: Conversation[]): void {
    this.all = [...this.all, ...conversations].sort((one, other) => other.changed - one.changed);
    for (const { id } of conversations) {
      const held = this.all.find((conversation) => conversation.id === id);
      if (held) this.keepSoon(held);
    }
  }

  found(wanted: string): Conversation[] {
    return this.all.filter((conversation) => matches(conversation, wanted));
  }

  async #flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const waiting = [...this.#unkept.values()];
    this.#unkept.clear();
    try {
      await Promise.all(waiting.map((one) => this.#database.keep($state.snapshot(one) as Conversation)));
    } catch {
      this.keeps = false;
    }
  }
}
