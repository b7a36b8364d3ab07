// Probabilities of the tokens of answers; read from the browser's store when an answer is looked at.

import { SvelteMap } from "svelte/reactivity";
import type { ScoredToken } from "../api/scored_token";
import type { Database } from "../storage/database";

export class Scores {
  readonly #database: Database;
  readonly #tokens = new SvelteMap<string, ScoredToken[]>();

  constructor(database: Database) {
    this.#database = database;
  }

  /** Null while they are not loaded. */
  of(message: string): ScoredToken[] | null {
    return this.#tokens.get(message) ?? null;
  }

  async load(message: string): Promise<void> {
    if (this.#tokens.has(message)) return;
    const tokens = await this.#database.tokens(message).catch(() => []);
    if (!this.#tokens.has(message)) this.#tokens.set(message, tokens);
  }

  /** Have them read again: another tab has written them. */
  unload(messages: string[]): void {
    for (const message of messages) this.#tokens.delete(message);
  }

  /** Replace them; a new list, so that readers notice. */
  set(message: string, tokens: ScoredToken[]): void {
    this.#tokens.set(message, tokens);
  }

  async keep(message: string): Promise<void> {
    const tokens = this.#tokens.get(message);
    if (tokens && tokens.length > 0) await this.#database.keepTokens(message, tokens).catch(() => undefined);
  }
}
