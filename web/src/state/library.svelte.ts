// All conversations of this browser and which one is open. What changes is kept soon after, and at once when the page
// goes away; what other tabs have kept comes in, so that two tabs on one conversation lose nothing of each other's.

import { matches, newConversation, titleOf, type Conversation } from "../conversation/conversation";
import { become, merged, same } from "../conversation/merge";
import type { Database } from "../storage/database";
import { isLeft } from "../storage/left";
import { keepPlace, readPlace } from "../storage/setting";
import type { Tabs } from "./tabs.svelte";

const SOON = 400;

export class Library {
  /** Latest first. A conversation comes in with its first message. */
  all = $state<Conversation[]>([]);
  current = $state<Conversation>(newConversation(Date.now()));
  /** False when something could not be kept. */
  keeps = $state(true);
  readonly #database: Database;
  readonly #tabs: Tabs;
  /** Every conversation as this tab last saw it in the store. */
  readonly #known = new Map<string, Conversation>();
  readonly #unkept = new Map<string, Conversation>();
  /** Being written or waiting for it, one list each time: a page that goes away in the middle would lose them. */
  readonly #underway = new Set<Conversation[]>();
  readonly #removed = new Set<string>();
  /** The store is read and written one after the other. */
  #queue: Promise<void> = Promise.resolve();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(database: Database, tabs: Tabs, conversations: Conversation[]) {
    this.#database = database;
    this.#tabs = tabs;
    for (const conversation of conversations) this.#known.set(conversation.id, structuredClone(conversation));
    this.all = conversations.sort((one, other) => other.changed - one.changed);
    const last = readPlace("current");
    const found = this.all.find(({ id }) => id === last);
    if (found) this.current = found;
    else if (this.all[0]) this.current = newConversation(Date.now(), this.all[0]);
    tabs.onkept = (ids) => this.#inTurn(() => this.#fetch(ids));
    addEventListener("pagehide", () => this.#leave());
    addEventListener("pageshow", ({ persisted }) => void (persisted && this.#takeLast()));
    addEventListener("storage", (event) => void (isLeft(event) && this.#takeLast()));
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden") void this.#flush();
    });
  }

  open(conversation: Conversation): void {
    this.current = conversation;
    keepPlace("current", conversation.id);
  }

  begin(): void {
    if (this.current.children.length > 0) this.open(newConversation(Date.now(), this.current));
  }

  /** Whether it has been deleted; answers may still be coming in. */
  removed({ id }: Conversation): boolean {
    return this.#removed.has(id);
  }

  /** Keep a conversation now: something was sent, answered or decided. Empty ones are not kept. */
  async changed(conversation: Conversation): Promise<void> {
    if (conversation.children.length === 0 || this.removed(conversation)) return;
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
      keepPlace("current", this.current.id);
    }
    this.#unkept.set(conversation.id, conversation);
    await this.#flush();
  }

  /** Keep it within a moment: for what changes many times a second. */
  keepSoon(conversation: Conversation): void {
    if (conversation.children.length === 0 || this.removed(conversation)) return;
    this.#unkept.set(conversation.id, conversation);
    this.#timer ??= setTimeout(() => void this.#flush(), SOON);
  }

  rename(conversation: Conversation, title: string): void {
    conversation.title = titleOf(title) || conversation.title;
    this.keepSoon(conversation);
  }

  async remove(conversation: Conversation): Promise<void> {
    this.drop(conversation.id);
    await this.#inTurn(() => this.#database.forget($state.snapshot(conversation) as Conversation));
    this.#tabs.forgotten(conversation.id);
  }

  /** Show it no more: it was deleted, here or in another tab. */
  drop(gone: string): void {
    this.#removed.add(gone);
    this.#unkept.delete(gone);
    this.#known.delete(gone);
    this.all = this.all.filter(({ id }) => id !== gone);
    if (this.current.id === gone) this.open(newConversation(Date.now(), this.current));
  }

  /** Add conversations from a file. */
  take(conversations: Conversation[]): void {
    this.#add(conversations);
    for (const { id } of conversations) {
      const held = this.all.find((conversation) => conversation.id === id);
      if (held) this.keepSoon(held);
    }
  }

  found(wanted: string): Conversation[] {
    return this.all.filter((conversation) => matches(conversation, wanted));
  }

  #add(conversations: Conversation[]): void {
    this.all = [...this.all, ...conversations].sort((one, other) => other.changed - one.changed);
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#queue.then(work);
    this.#queue = done.catch(() => undefined);
    return done;
  }

  #flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const waiting = [...this.#unkept.values()];
    this.#unkept.clear();
    this.#underway.add(waiting);
    return this.#inTurn(async () => {
      try {
        await Promise.all(waiting.map((one) => this.#keep(one)));
        this.#tabs.kept(waiting.map(({ id }) => id));
      } catch {
        this.keeps = false;
      } finally {
        this.#underway.delete(waiting);
      }
    });
  }

  async #keep(conversation: Conversation): Promise<void> {
    const { id } = conversation;
    if (this.#removed.has(id)) return;
    const mine = $state.snapshot(conversation) as Conversation;
    const kept = await this.#database.keep(mine, this.#known.get(id));
    if (kept === null) this.drop(id);
    else this.#see(conversation, mine, kept);
  }

  /** Take what stands in the store into a conversation, which may have changed since it was `before`. */
  #see(conversation: Conversation, before: Conversation | undefined, stored: Conversation): void {
    this.#known.set(conversation.id, stored);
    if (same(before, stored)) return;
    become(conversation, merged(before, $state.snapshot(conversation) as Conversation, structuredClone(stored)));
  }

  async #fetch(ids: string[]): Promise<void> {
    for (const id of ids) {
      const stored = await this.#database.conversation(id);
      if (stored === undefined || this.#removed.has(id)) continue;
      const held = this.all.find((conversation) => conversation.id === id);
      if (held) this.#see(held, this.#known.get(id), stored);
      else {
        this.#known.set(id, structuredClone(stored));
        this.#add([stored]);
      }
    }
    this.#add([]);
  }

  #leave(): void {
    const last = new Set([...[...this.#underway].flat(), ...this.#unkept.values()]);
    for (const one of last) {
      if (this.removed(one)) continue;
      this.#database.keepLast($state.snapshot(one) as Conversation, this.#known.get(one.id));
    }
  }

  #takeLast(): Promise<void> {
    const taken = this.#inTurn(async () => this.#fetch(await this.#database.takeLast()));
    return taken.catch(() => undefined); // it stands where it was, for the next page
  }
}
