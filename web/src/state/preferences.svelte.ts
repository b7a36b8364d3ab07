// What a reader has set for all conversations.

import { keepSetting, readSetting } from "../storage/setting";

export type Appearance = "auto" | "light" | "dark";

export class Preferences {
  #appearance = $state<Appearance>("auto");
  #probabilities = $state(readSetting("probabilities") === "on");
  #key = $state(readSetting("key") ?? "");

  constructor() {
    const kept = readSetting("appearance");
    this.appearance = kept === "light" || kept === "dark" ? kept : "auto";
  }

  get appearance(): Appearance {
    return this.#appearance;
  }

  set appearance(appearance: Appearance) {
    this.#appearance = appearance;
    keepSetting("appearance", appearance === "auto" ? "" : appearance);
    if (appearance === "auto") delete document.documentElement.dataset["appearance"];
    else document.documentElement.dataset["appearance"] = appearance;
  }

  /** Whether tokens are coloured by their probability. */
  get probabilities(): boolean {
    return this.#probabilities;
  }

  set probabilities(on: boolean) {
    this.#probabilities = on;
    keepSetting("probabilities", on ? "on" : "");
  }

  get key(): string {
    return this.#key;
  }

  set key(key: string) {
    this.#key = key.trim();
    keepSetting("key", this.#key);
  }
}
