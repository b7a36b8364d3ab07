// What the browser keeps: conversations, and apart from them the tokens' probabilities, which are large and seldom read.
// Without IndexedDB (some private windows) everything is kept in memory until the page is closed.

import type { ScoredToken } from "../api/scored_token";
import type { Conversation } from "../conversation/conversation";
import { merged } from "../conversation/merge";
import { allLeft, dropLeft, leave } from "./left";

const NAME = "cadran";
const VERSION = 1;

export interface Database {
  conversations(): Promise<Conversation[]>;
  /** Undefined when it was never kept, or forgotten since. */
  conversation(id: string): Promise<Conversation | undefined>;
  /**
   * Keep a conversation together with what other tabs have kept since.
   *
   * @param known what this tab last saw of it in the store, undefined when it is new.
   * @returns what is kept now; null when another tab has forgotten it, and then it stays forgotten.
   */
  keep(conversation: Conversation, known: Conversation | undefined): Promise<Conversation | null>;
  /** Keep it at once: the page is going away, and nothing that is read now would still come. */
  keepLast(conversation: Conversation, known: Conversation | undefined): void;
  /**
   * Take in what pages that have gone away have kept last.
   *
   * @returns the ids of these conversations.
   */
  takeLast(): Promise<string[]>;
  /** Forget a conversation and the tokens of its messages. */
  forget(conversation: Conversation): Promise<void>;
  tokens(message: string): Promise<ScoredToken[]>;
  keepTokens(message: string, tokens: ScoredToken[]): Promise<void>;
}

export async function openDatabase(): Promise<Database> {
  try {
    return new Stored(await opened());
  } catch {
    return new Remembered();
  }
}

function opened(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open(NAME, VERSION);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("conversations", { keyPath: "id" });
      opening.result.createObjectStore("tokens");
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error ?? new Error("no database"));
    opening.onblocked = () => reject(new Error("the database is in use"));
  });
}

class Stored implements Database {
  readonly #database: IDBDatabase;

  constructor(database: IDBDatabase) {
    this.#database = database;
  }

  conversations(): Promise<Conversation[]> {
    return this.#read("conversations", (store) => store.getAll() as IDBRequest<Conversation[]>);
  }

  conversation(id: string): Promise<Conversation | undefined> {
    return this.#read("conversations", (store) => store.get(id) as IDBRequest<Conversation | undefined>);
  }

  // One transaction, so that no other tab can write between the reading and the writing.
  keep(conversation: Conversation, known: Conversation | undefined): Promise<Conversation | null> {
    return new Promise((resolve, reject) => {
      let kept: Conversation | null = null;
      const transaction = this.#database.transaction("conversations", "readwrite");
      transaction.oncomplete = () => resolve(kept);
      transaction.onabort = () => reject(transaction.error ?? new Error("not written"));
      const store = transaction.objectStore("conversations");
      const reading = store.get(conversation.id) as IDBRequest<Conversation | undefined>;
      reading.onsuccess = () => {
        const theirs = reading.result;
        if (theirs === undefined && known !== undefined) return;
        kept = theirs === undefined ? conversation : merged(known, conversation, theirs);
        store.put(kept);
      };
    });
  }

  keepLast(conversation: Conversation, known: Conversation | undefined): void {
    if (leave(conversation, known)) return;
    void this.#write(["conversations"], (transaction) => {
      transaction.objectStore("conversations").put(conversation);
    }).catch(() => undefined);
  }

  // Dropped only once it stands in the store: the page that takes it may be going away too.
  async takeLast(): Promise<string[]> {
    const left = allLeft();
    for (const one of left) {
      await this.keep(one.conversation, one.known);
      dropLeft(one);
    }
    return left.map(({ conversation }) => conversation.id);
  }

  forget(conversation: Conversation): Promise<void> {
    return this.#write(["conversations", "tokens"], (transaction) => {
      transaction.objectStore("conversations").delete(conversation.id);
      for (const id of Object.keys(conversation.messages)) transaction.objectStore("tokens").delete(id);
    });
  }

  async tokens(message: string): Promise<ScoredToken[]> {
    const read = (store: IDBObjectStore) => store.get(message) as IDBRequest<ScoredToken[] | undefined>;
    return (await this.#read("tokens", read)) ?? [];
  }

  keepTokens(message: string, tokens: ScoredToken[]): Promise<void> {
    return this.#write(["tokens"], (transaction) => {
      transaction.objectStore("tokens").put(tokens, message);
    });
  }

  #read<T>(store: string, ask: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const asking = ask(this.#database.transaction(store).objectStore(store));
      asking.onsuccess = () => resolve(asking.result);
      asking.onerror = () => reject(asking.error ?? new Error("not read"));
    });
  }

  #write(stores: string[], work: (transaction: IDBTransaction) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction(stores, "readwrite");
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error("not written"));
      work(transaction);
      transaction.commit(); // the page may be going away: nothing waits for another turn of its loop
    });
  }
}

class Remembered implements Database {
  readonly #tokens = new Map<string, ScoredToken[]>();

  async conversations(): Promise<Conversation[]> {
    return [];
  }

  async conversation(): Promise<undefined> {}

  async keep(conversation: Conversation): Promise<Conversation> {
    return conversation;
  }

  keepLast(): void {}

  async takeLast(): Promise<string[]> {
    return [];
  }

  async forget(): Promise<void> {}

  async tokens(message: string): Promise<ScoredToken[]> {
    return this.#tokens.get(message) ?? [];
  }

  async keepTokens(message: string, tokens: ScoredToken[]): Promise<void> {
    this.#tokens.set(message, tokens);
  }
}
