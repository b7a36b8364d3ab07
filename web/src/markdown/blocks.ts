// A growing text as blocks of HTML. Only the blocks whose source has changed are made anew, so that what stands on the
// page already is never touched again: no flicker, no lost selection, and cost that does not grow with the answer.

import type { Env, MarkdownIt } from "markdown-it";
import { makeParser } from "./parser";
import { sanitise } from "./sanitise";

export interface Block {
  source: string;
  html: string;
}

export class BlockRenderer {
  readonly #parser: MarkdownIt = makeParser();
  #blocks: Block[] = [];
  #references = "";

  /** The blocks of a text; those that are as before are the same objects. */
  render(written: string): Block[] {
    const text = written.replace(/\r\n?/g, "\n");
    const env: Env = {};
    const lines = text.split("\n");
    const blocks: Block[] = [];
    const ranges = this.#ranges(text, env);
    // A definition of a link may stand below the block that uses it: a new one can change any of them.
    const references = JSON.stringify(env.references ?? {});
    if (references !== this.#references) this.#blocks = [];
    this.#references = references;
    for (const [begin, end] of ranges) {
      const source = lines.slice(begin, end).join("\n");
      const before = this.#blocks[blocks.length];
      blocks.push(before?.source === source ? before : { source, html: this.#html(source, env) });
    }
    this.#blocks = blocks;
    return blocks;
  }

  #html(source: string, { references = {} }: Env): string {
    return sanitise(this.#parser.render(source, { references: { ...references } }));
  }

  #ranges(text: string, env: Env): [number, number][] {
    const ranges: [number, number][] = [];
    for (const { level, nesting, map } of this.#parser.parse(text, env)) {
      if (level === 0 && nesting >= 0 && map) ranges.push([map[0], map[1]]);
    }
    return ranges;
  }
}
