// The server as the page sees it. Addresses are relative to the page, so that it also works behind a path.

import { Failure, failureOf } from "./failure";
import { readGenerated, type Generated } from "./generated";
import { readModels, type Model } from "./model";
import { SseParser } from "./sse";
import type { Vote } from "./vote";

export interface WireMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface Asked {
  model: string;
  sampling: Record<string, number>;
  /** A conversation, or the text that a base model continues. */
  messages?: WireMessage[];
  prompt?: string;
  /** Whether the last message is the beginning of the answer. */
  continues?: boolean;
}

export type Fetch = (address: string, options?: RequestInit) => Promise<Response>;

const ALTERNATIVES = 5;

export class Client {
  readonly #fetch: Fetch;
  readonly #key: () => string;

  /** @param key gives the API key to send; "" for none. */
  constructor(key: () => string = () => "", fetch: Fetch = (address, options) => globalThis.fetch(address, options)) {
    this.#key = key;
    this.#fetch = fetch;
  }

  async models(signal?: AbortSignal): Promise<Model[]> {
    const answer = await this.#ask("v1/models", { ...(signal ? { signal } : {}) });
    return readModels(await answer.json());
  }

  async vote(vote: Vote): Promise<void> {
    await this.#ask("api/votes", { method: "POST", body: JSON.stringify(vote) });
  }

  /**
   * The pieces of an answer as they come.
   *
   * @throws Failure; an abort through the signal ends the pieces without one.
   */
  async *generate(asked: Asked, signal: AbortSignal): AsyncGenerator<Generated> {
    const plain = asked.prompt !== undefined;
    const body = {
      model: asked.model,
      ...(plain ? { prompt: asked.prompt, logprobs: ALTERNATIVES } : { messages: asked.messages }),
      ...(plain ? {} : { logprobs: true, top_logprobs: ALTERNATIVES }),
      ...(asked.continues ? { continue_final_message: true, add_generation_prompt: false } : {}),
      ...asked.sampling,
      stream: true,
      stream_options: { include_usage: true },
    };
    const path = plain ? "v1/completions" : "v1/chat/completions";
    try {
      const answer = await this.#ask(path, { method: "POST", body: JSON.stringify(body), signal });
      yield* this.#pieces(answer);
    } catch (error) {
      if (signal.aborted) return;
      throw error instanceof Failure ? error : new Failure("offline", String(error));
    }
  }

  async *#pieces(answer: Response): AsyncGenerator<Generated> {
    if (answer.body === null) throw new Failure("broken", "the answer has no body");
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    const parser = new SseParser();
    let whole = false;
    try {
      for (;;) {
        const { done, value } = await reader.read();
        for (const event of parser.push(done ? decoder.decode() : decoder.decode(value, { stream: true }))) {
          for (const piece of readGenerated(event)) {
            whole ||= piece.type === "done";
            yield piece;
          }
        }
        if (done) break;
      }
    } finally {
      await reader.cancel().catch(() => undefined);
    }
    if (!whole) throw new Failure("offline", "the answer broke off");
  }

  async #ask(address: string, options: RequestInit): Promise<Response> {
    const key = this.#key();
    const headers: Record<string, string> = { accept: "application/json" };
    if (options.body !== undefined) headers["content-type"] = "application/json";
    if (key !== "") headers["authorization"] = `Bearer ${key}`;
    let answer: Response;
    try {
      answer = await this.#fetch(address, { ...options, headers });
    } catch (error) {
      throw new Failure("offline", String(error));
    }
    if (answer.ok) return answer;
    const said: unknown = await answer.json().catch(() => null);
    throw failureOf(answer.status, said, answer.headers.get("retry-after"));
  }
}
