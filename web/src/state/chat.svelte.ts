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
    this.library = new Library(database, conversations);
    this.scores = new Scores(database);
    this.answering = new Answering(this.client, this.library, this.models, this.scores);
    this.#voting = new Voting(this.client);
    this.answering.onend = (message) => {
      if (message.ending !== "failed") this.notices.whisper = `${this.language.t.answered} ${message.text}`;
    };
  }

  static async open(): Promise<Chat> {
    const database = await openDatabase();
    const chat = new Chat(database, await database.conversations().catch(() => []));
    void chat.models.load();
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
    await this.#vote(this.#voting.thumb(this.conversation, answer, liked, this.language.code));
  }

  async choose(answer: Message, verdict: Verdict): Promise<void> {
    const conversation = this.conversation;
    const said = this.#voting.choose(conversation, answer, verdict, this.language.code);
    this.library.changed(conversation);
    await this.#vote(said);
  }

  async #vote(vote: Promise<boolean>): Promise<void> {
    try {
      const told = await vote;
      this.library.changed(this.conversation);
      if (told) this.notices.say(this.language.t.voted);
    } catch {
      this.notices.say(this.language.t.notVoted);
    }
  }
}

export const [useChat, provideChat] = createContext<Chat>();
