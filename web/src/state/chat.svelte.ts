// The whole page's state, handed to the components through one context.

import { createContext } from "svelte";
import { Client } from "../api/client";
import type { Conversation } from "../conversation/conversation";
import type { Message } from "../conversation/message";
import { Language } from "../language/language.svelte";
import { openDatabase, type Database } from "../storage/database";
import { Answering } from "./answering.svelte";
import { Library } from "./library.svelte";
import { Models } from "./models.svelte";
import { Notices } from "./notices.svelte";
import { Preferences } from "./preferences.svelte";
import { Scores } from "./scores.svelte";
import { Tabs } from "./tabs.svelte";
import { Voting, type Verdict } from "./voting";

export type Panel = "settings" | "shortcuts" | null;

export class Chat {
  readonly language = new Language();
  readonly preferences = new Preferences();
  readonly notices = new Notices();
  readonly client: Client;
  readonly models: Models;
  readonly library: Library;
  readonly scores: Scores;
  readonly answering: Answering;
  /** Of the conversations, on a narrow page. */
  drawer = $state(false);
  panel = $state<Panel>(null);
  readonly #voting: Voting;

  constructor(database: Database, conversations: Conversation[]) {
    this.client = new Client(() => this.preferences.key);
    this.models = new Models(this.client);
    const tabs = new Tabs();
    this.library = new Library(database, tabs, conversations);
    this.scores = new Scores(database);
    this.answering = new Answering(this.client, this.library, this.models, this.scores, tabs);
    tabs.onended = (messages) => this.scores.unload(messages);
    tabs.onforgotten = (id) => {
      const gone = this.library.all.find((conversation) => conversation.id === id);
      if (gone) this.answering.stop(gone);
      this.library.drop(id);
    };
    this.#voting = new Voting(this.client);
    this.answering.onend = (message) => {
      if (message.ending !== "failed") this.notices.whisper = `${this.language.t.answered} ${message.text}`;
    };
  }

  static async open(): Promise<Chat> {
    const database = await openDatabase();
    await database.takeLast().catch(() => []);
    const chat = new Chat(database, await database.conversations().catch(() => []));
    void chat.models.load();
    // A model may have been fetched meanwhile.
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") void chat.models.load();
    });
    return chat;
  }

  get conversation(): Conversation {
    return this.library.current;
  }

  /** Whether the model that would answer only continues texts. */
  get continuing(): boolean {
    return this.models.orFirst(this.conversation.model)?.chats === false;
  }

  async like(answer: Message, liked: boolean): Promise<void> {
    const conversation = this.conversation;
    await this.#vote(conversation, this.#voting.thumb(conversation, answer, liked, this.language.code));
  }

  async choose(answer: Message, verdict: Verdict): Promise<void> {
    const conversation = this.conversation;
    const said = this.#voting.choose(conversation, answer, verdict, this.language.code);
    void this.library.changed(conversation);
    await this.#vote(conversation, said);
  }

  async #vote(conversation: Conversation, vote: Promise<boolean>): Promise<void> {
    try {
      const told = await vote;
      void this.library.changed(conversation);
      if (told) this.notices.say(this.language.t.voted);
    } catch {
      this.notices.say(this.language.t.notVoted);
    }
  }
}

export const [useChat, provideChat] = createContext<Chat>();
