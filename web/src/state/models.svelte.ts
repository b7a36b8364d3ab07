// The server's models, and whether it can be reached at all. While it cannot, it is asked again by itself.

import type { Client } from "../api/client";
import { Failure } from "../api/failure";
import type { Model } from "../api/model";

export type Reach = "unknown" | "reached" | "offline" | "key";

const AGAIN = 4000;

export class Models {
  list = $state.raw<Model[]>([]);
  reach = $state<Reach>("unknown");
  readonly #client: Client;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(client: Client) {
    this.#client = client;
  }

  async load(): Promise<void> {
    clearTimeout(this.#timer);
    try {
      this.list = await this.#client.models();
      this.reach = "reached";
    } catch (error) {
      if (error instanceof Failure && error.kind === "key") this.reach = "key";
      else this.lost();
    }
  }

  /** The server did not answer. */
  lost(): void {
    this.reach = "offline";
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.load(), AGAIN);
  }

  find(id: string): Model | null {
    return this.list.find((model) => model.id === id) ?? null;
  }

  /** The model of that name; where it is gone, the first one that can chat. */
  orFirst(id: string): Model | null {
    return this.find(id) ?? this.list.find(({ chats }) => chats) ?? this.list[0] ?? null;
  }
}
