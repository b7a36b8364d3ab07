// Short sentences at the edge of the page, also for screen readers; they go away by themselves.

const SECONDS = 6;

export class Notices {
  text = $state("");
  /** For screen readers only. */
  whisper = $state("");
  #timer: ReturnType<typeof setTimeout> | undefined;

  say(text: string): void {
    this.text = text;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.clear(), SECONDS * 1000);
  }

  clear(): void {
    clearTimeout(this.#timer);
    this.text = "";
  }
}
