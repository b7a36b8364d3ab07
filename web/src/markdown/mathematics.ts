// Mathematics in Markdown: $…$, $$…$$, \(…\) and \[…\]. Only marks the formulas; `formulas.ts` sets them.
//
// A dollar opens a formula only where money cannot be meant: not before white space, and the closing one neither after
// white space nor before a digit. Source of that rule: Pandoc's tex_math_dollars.

import type { MarkdownIt } from "markdown-it";

export function mathematics(parser: MarkdownIt): void {
  const escape = parser.utils.escapeHtml;

  parser.inline.ruler.before("escape", "mathematics", (state, silent) => {
    const found = formulaAt(state.src, state.pos, state.posMax);
    if (found === null) return false;
    if (!silent) {
      const token = state.push("formula", "", 0);
      token.content = found.source;
      token.meta = { display: found.display };
    }
    state.pos = found.end;
    return true;
  });

  parser.block.ruler.before(
    "fence",
    "mathematics",
    (state, startLine, endLine, silent) => {
      const begin = (state.bMarks[startLine] ?? 0) + (state.tShift[startLine] ?? 0);
      const opening = state.src.slice(begin, begin + 2);
      const closing = opening === "$$" ? "$$" : opening === "\\[" ? "\\]" : null;
      if (closing === null) return false;
      for (let line = startLine; line < endLine; line++) {
        const from = line === startLine ? begin + 2 : (state.bMarks[line] ?? 0);
        const text = state.src.slice(from, state.eMarks[line] ?? 0);
        if (line > startLine && text.trim() === "") return false;
        const at = text.indexOf(closing);
        if (at < 0) continue;
        if (text.slice(at + 2).trim() !== "") return false;
        if (silent) return true;
        const token = state.push("formula", "", 0);
        token.content = state.src.slice(begin + 2, from + at).trim();
        token.meta = { display: true };
        token.map = [startLine, line + 1];
        token.block = true;
        state.line = line + 1;
        return true;
      }
      return false;
    },
    { alt: ["paragraph", "blockquote", "list"] },
  );

  parser.renderer.rules["formula"] = (tokens, index) => {
    const token = tokens[index];
    const display = (token?.meta as { display: boolean } | null)?.display === true;
    const name = display ? "formula formula-display" : "formula";
    return `<span class="${name}">${escape(token?.content ?? "")}</span>`;
  };
}

interface Found {
  source: string;
  display: boolean;
  end: number;
}

function formulaAt(text: string, start: number, end: number): Found | null {
  const two = text.slice(start, start + 2);
  const pairs: Record<string, string> = { "$$": "$$", "\\(": "\\)", "\\[": "\\]" };
  const closing = pairs[two];
  if (closing !== undefined) {
    const at = text.indexOf(closing, start + 2);
    const source = at < 0 ? "" : text.slice(start + 2, at).trim();
    if (at < 0 || at + 2 > end || source === "") return null;
    return { source, display: closing !== "\\)", end: at + 2 };
  }
  if (two[0] !== "$" || /\s/.test(two[1] ?? " ")) return null;
  for (let at = text.indexOf("$", start + 1); at >= 0 && at < end; at = text.indexOf("$", at + 1)) {
    if (text[at - 1] === "\\" || /\s/.test(text[at - 1] ?? "") || /\d/.test(text[at + 1] ?? "")) continue;
    const source = text.slice(start + 1, at);
    return source.includes("\n\n") ? null : { source, display: false, end: at + 1 };
  }
  return null;
}
