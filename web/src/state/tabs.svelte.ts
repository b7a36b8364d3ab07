// The other tabs of this page in the same browser: they are told what was kept, forgotten and is being answered.
// A tab that is told nothing (no BroadcastChannel) is alone, and everything works as if it were.

import { SvelteMap } from "svelte/reactivity";
import { freshId } from "../conversation/fresh_id";

type Word =
  | { type: "kept"; conversations: string[] }
  | { type: "forgotten"; conversation: string }
  | { type: "answering"; tab: string; messages: string[] }
  | { type: "stop"; messages: string[] }
  | { type: "who" };

export class Tabs {
  onkept: (conversations: string[]) => void | Promise<void> = () => undefined;
  onforgotten: (conversation: string) => void = () => undefined;
  onstop: (messages: string[]) => void = () => undefined;
  /** Called with the messages whose answer is over in another tab, before they count as over. */
  onended: (messages: string[]) => void = () => undefined;
  readonly #id = freshId();
  readonly #channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("cadran") : null;
  /** Messages that are being answered, by tab. */
  readonly #elsewhere = new SvelteMap<string, string[]>();
  #here: string[] = [];
  #heard: Promise<void> = Promise.resolve();

  constructor() {
    // One after the other: an answer is over only once its end has been read.
    this.#channel?.addEventListener("message", ({ data }: MessageEvent<Word>) => {
      this.#heard = this.#heard.then(() => this.#hear(data)).catch(() => undefined);
    });
    addEventListener("pagehide", () => this.answering([]));
    this.#say({ type: "who" });
  }

  /** Whether another tab is having this message answered. */
  answers(message: string): boolean {
    return [...this.#elsewhere.values()].some((messages) => messages.includes(message));
  }

  /** All messages that other tabs are having answered. */
  get elsewhere(): string[] {
    return [...this.#elsewhere.values()].flat();
  }

  /** Tell which messages are being answered here. */
  answering(messages: string[]): void {
    this.#here = messages;
    this.#say({ type: "answering", tab: this.#id, messages });
  }

  kept(conversations: string[]): void {
    if (conversations.length > 0) this.#say({ type: "kept", conversations });
  }

  forgotten(conversation: string): void {
    this.#say({ type: "forgotten", conversation });
  }

  /** Have these answers stopped, whichever tab they are in; one that has crashed no longer counts. */
  stop(messages: string[]): void {
    if (messages.length === 0) return;
    this.#say({ type: "stop", messages });
    for (const [tab, theirs] of this.#elsewhere) {
      this.#elsewhere.set(tab, theirs.filter((message) => !messages.includes(message)));
    }
  }

  #say(word: Word): void {
    this.#channel?.postMessage(word);
  }

  async #hear(word: Word): Promise<void> {
    if (word.type === "kept") await this.onkept(word.conversations);
    else if (word.type === "forgotten") this.onforgotten(word.conversation);
    else if (word.type === "stop") this.onstop(word.messages);
    else if (word.type === "answering") {
      this.onended((this.#elsewhere.get(word.tab) ?? []).filter((message) => !word.messages.includes(message)));
      this.#elsewhere.set(word.tab, word.messages);
    } else if (this.#here.length > 0) this.answering(this.#here);
  }
}
