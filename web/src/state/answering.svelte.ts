// Getting answers: asks the server, writes what comes into the tree, and measures it by the page's own clock.

import { SvelteMap, SvelteSet } from "svelte/reactivity";
import type { Asked, Client } from "../api/client";
import { Failure } from "../api/failure";
import type { Generated, Usage } from "../api/generated";
import { wireSampling } from "../api/sampling";
import type { ScoredToken } from "../api/scored_token";
import type { Conversation } from "../conversation/conversation";
import { freshId } from "../conversation/fresh_id";
import type { Attachment, Ending, Message } from "../conversation/message";
import { plainPrompt, wireMessages } from "../conversation/prompt";
import { add, show } from "../conversation/tree";
import type { Library } from "./library.svelte";
import type { Models } from "./models.svelte";
import type { Scores } from "./scores.svelte";
import type { Tabs } from "./tabs.svelte";

/** Milliseconds between two changes of the page: pieces that come faster are shown together. */
const FRAME = 40;

export class Answering {
  /** Why answers failed, by message; forgotten with the page, the kind and the sentence are kept in the message. */
  readonly failures = new SvelteMap<string, Failure>();
  /** Called with every answer that is over. */
  onend: (message: Message, conversation: Conversation) => void = () => undefined;
  readonly #client: Client;
  readonly #library: Library;
  readonly #models: Models;
  readonly #scores: Scores;
  readonly #tabs: Tabs;
  readonly #running = new SvelteSet<string>();
  readonly #stops = new Map<string, AbortController>();
  #leaving = false;

  constructor(client: Client, library: Library, models: Models, scores: Scores, tabs: Tabs) {
    this.#client = client;
    this.#library = library;
    this.#models = models;
    this.#scores = scores;
    this.#tabs = tabs;
    tabs.onstop = (messages) => messages.forEach((id) => this.#stops.get(id)?.abort());
    // Browsers cut the answer off before they take the page away: that is no failure of the server's.
    addEventListener("beforeunload", () => {
      this.#leaving = true;
      setTimeout(() => (this.#leaving = false), 2000);
    });
  }

  /** Whether an answer is under way, here or in another tab. */
  runs(message: string): boolean {
    return this.#running.has(message) || this.#tabs.answers(message);
  }

  /** Whether the conversation has an answer under way. */
  busy(conversation: Conversation): boolean {
    return [...this.#running, ...this.#tabs.elsewhere].some((id) => id in conversation.messages);
  }

  stop(conversation: Conversation): void {
    for (const [id, stop] of this.#stops) if (id in conversation.messages) stop.abort();
    this.#tabs.stop(this.#tabs.elsewhere.filter((id) => id in conversation.messages));
  }

  /** Say something below a message (null for the beginning) and have it answered. */
  say(conversation: Conversation, parent: string | null, text: string, attachments: Attachment[]): void {
    const said = add(conversation, message("user", parent, text));
    if (attachments.length > 0) said.attachments = attachments;
    this.answer(conversation, said.id);
  }

  /** Have a message answered, beside the answers that it has: by one model, or by two side by side. */
  answer(conversation: Conversation, parent: string): void {
    const model = this.#models.orFirst(conversation.model)?.id ?? conversation.model;
    const first = add(conversation, { ...message("assistant", parent, ""), model });
    const rival = conversation.rival === null ? null : this.#models.find(conversation.rival);
    if (rival) {
      const second = add(conversation, { ...message("assistant", parent, ""), model: rival.id, rival: first.id });
      first.rival = second.id;
      show(conversation, first.id);
      void this.#run(conversation, second, false);
    }
    void this.#run(conversation, first, false);
    void this.#library.changed(conversation);
  }

  /** Try a failed answer again, in its place. */
  retry(conversation: Conversation, answer: Message): void {
    void this.#run(conversation, answer, answer.text !== "");
  }

  /** Go on with an answer that was cut or stopped. */
  goOn(conversation: Conversation, answer: Message): void {
    void this.#run(conversation, answer, answer.text !== "");
  }

  async #run(conversation: Conversation, answer: Message, continues: boolean): Promise<void> {
    const id = answer.id;
    if (this.runs(id)) return;
    const stop = new AbortController();
    this.#stops.set(id, stop);
    this.#running.add(id);
    this.#tabs.answering([...this.#running]);
    delete answer.ending;
    delete answer.failure;
    delete answer.failureKind;
    if (!continues) delete answer.reasoning;
    this.failures.delete(id);
    if (continues) await this.#scores.load(id);
    const writing = new Writing(answer, continues ? (this.#scores.of(id) ?? []) : [], this.#scores, () =>
      this.#library.keepSoon(conversation),
    );
    let ending: Ending = "stopped";
    try {
      for await (const piece of this.#client.generate(this.#asked(conversation, answer, continues), stop.signal)) {
        writing.take(piece);
        if (piece.type === "finished") ending = piece.reason;
      }
      if (stop.signal.aborted) ending = "stopped";
      if (this.#models.reach !== "reached") void this.#models.load();
    } catch (error) {
      if (this.#leaving) return;
      const failure = error instanceof Failure ? error : new Failure("broken", String(error));
      ending = "failed";
      this.failures.set(id, failure);
      answer.failure = failure.message;
      answer.failureKind = failure.kind;
      if (failure.kind === "offline") this.#models.lost();
    } finally {
      writing.end();
      answer.ending = ending;
      this.#running.delete(id);
      this.#stops.delete(id);
      if (!this.#library.removed(conversation)) {
        this.onend(answer, conversation);
        await Promise.all([this.#library.changed(conversation), this.#scores.keep(id)]);
      }
      this.#tabs.answering([...this.#running]);
    }
  }

  #asked(conversation: Conversation, answer: Message, continues: boolean): Asked {
    const model = answer.model ?? "";
    const sampling = wireSampling(conversation.sampling);
    const begun = continues ? answer.text : "";
    if (this.#models.find(model)?.chats === false) {
      return { model, sampling, prompt: plainPrompt(conversation, answer.id) + begun };
    }
    const messages = wireMessages(conversation, answer.id);
    if (begun !== "") messages.push({ role: "assistant", content: begun });
    return { model, sampling, messages, continues: begun !== "" };
  }
}

/** Collects pieces and puts them into the message a few times a second. */
class Writing {
  readonly #answer: Message;
  readonly #tokens: ScoredToken[];
  readonly #scores: Scores;
  readonly #shown: () => void;
  readonly #begun = performance.now();
  #first: number | null = null;
  #last = 0;
  #text = "";
  #reasoning = "";
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(answer: Message, tokens: ScoredToken[], scores: Scores, shown: () => void) {
    this.#answer = answer;
    this.#tokens = [...tokens];
    this.#scores = scores;
    this.#shown = shown;
  }

  take(piece: Generated): void {
    if (piece.type === "usage") this.#measure(piece.usage);
    if (piece.type !== "text" && piece.type !== "reasoning") return;
    this.#last = performance.now();
    this.#first ??= this.#last;
    if (piece.type === "reasoning") this.#reasoning += piece.text;
    else {
      this.#text += piece.text;
      this.#tokens.push(...piece.tokens);
    }
    this.#timer ??= setTimeout(() => this.#show(), FRAME);
  }

  end(): void {
    this.#show();
  }

  #show(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#reasoning !== "") this.#answer.reasoning = (this.#answer.reasoning ?? "") + this.#reasoning;
    this.#answer.text += this.#text;
    this.#text = this.#reasoning = "";
    this.#scores.set(this.#answer.id, [...this.#tokens]);
    this.#shown();
  }

  #measure({ promptTokens, generatedTokens, cachedTokens }: Usage): void {
    const first = this.#first ?? this.#last;
    this.#answer.measures = {
      promptTokens,
      generatedTokens,
      cachedTokens,
      firstToken: Math.max(0, first - this.#begun) / 1000,
      generating: Math.max(0, this.#last - first) / 1000,
    };
  }
}

function message(role: Message["role"], parent: string | null, text: string): Message {
  return { id: freshId(), parent, role, text, created: Date.now(), children: [], shown: null };
}

