// Server-sent events out of any slicing of their bytes. Source: HTML Living Standard, 9.2.6.

export interface ServerEvent {
  name: string;
  data: string;
}

/** Feed it decoded text as it comes; it returns the events that are complete. */
export class SseParser {
  #rest = "";
  #data: string[] = [];
  #name = "";

  push(text: string): ServerEvent[] {
    this.#rest += text;
    const events: ServerEvent[] = [];
    // A carriage return at the very end may be the first half of a line end.
    const usable = this.#rest.endsWith("\r") ? this.#rest.length - 1 : this.#rest.length;
    const lines = this.#rest.slice(0, usable).split(/\r\n|\n|\r/);
    this.#rest = (lines.pop() ?? "") + this.#rest.slice(usable);
    for (const line of lines) {
      const event = this.#line(line);
      if (event !== null) events.push(event);
    }
    return events;
  }

  #line(line: string): ServerEvent | null {
    if (line === "") {
      if (this.#data.length === 0) {
        this.#name = "";
        return null;
      }
      const event = { name: this.#name || "message", data: this.#data.join("\n") };
      this.#data = [];
      this.#name = "";
      return event;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    if (field === "event") this.#name = value;
    return null;
  }
}
