// CommonMark with tables and mathematics, as HTML that a stranger may have written.
//
// A model's text is hostile input. Raw HTML is shown, not obeyed; pictures become links, because loading one would tell
// another host what was said; what comes out passes a sanitiser all the same (`sanitise.ts`).

import MarkdownIt, { type MarkdownIt as Parser, type RendererRule } from "markdown-it";
import { highlighted } from "./highlight";
import { mathematics } from "./mathematics";

export function makeParser(): Parser {
  const parser = new MarkdownIt({ html: false, linkify: true, breaks: false });
  parser.use(mathematics);
  parser.validateLink = (address) => /^(https?:|mailto:|#)/i.test(address.trim());
  parser.renderer.rules["image"] = (tokens, index) => {
    const token = tokens[index];
    const address = String(token?.attrGet("src") ?? "");
    const text = parser.utils.escapeHtml(token?.content || address);
    return `<a href="${parser.utils.escapeHtml(address)}" ${AWAY}>${text}</a>`;
  };
  const link: RendererRule = (tokens, index, options, _env, renderer) => {
    const token = tokens[index];
    for (const [name, value] of AWAY_ATTRIBUTES) token?.attrSet(name, value);
    return renderer.renderToken(tokens, index, options);
  };
  parser.renderer.rules["link_open"] = link;
  const code: RendererRule = (tokens, index) => {
    const token = tokens[index];
    const language = (token?.info ?? "").trim().split(/\s+/)[0] ?? "";
    return codeBlock(token?.content ?? "", language, parser.utils.escapeHtml);
  };
  parser.renderer.rules["fence"] = code;
  parser.renderer.rules["code_block"] = code;
  // The parser aligns columns with inline styles, which are forbidden here.
  const cell: RendererRule = (tokens, index, options, _env, renderer) => {
    const token = tokens[index];
    const side = /right|center/.exec(String(token?.attrGet("style") ?? ""))?.[0];
    if (token) token.attrs = side ? [["class", side]] : null;
    return renderer.renderToken(tokens, index, options);
  };
  parser.renderer.rules["th_open"] = cell;
  parser.renderer.rules["td_open"] = cell;
  parser.renderer.rules["table_open"] = () => '<div class="table" tabindex="0"><table>';
  parser.renderer.rules["table_close"] = () => "</table></div>";
  return parser;
}

const AWAY_ATTRIBUTES: readonly [string, string][] = [
  ["target", "_blank"],
  ["rel", "noopener noreferrer nofollow"],
];
const AWAY = AWAY_ATTRIBUTES.map(([name, value]) => `${name}="${value}"`).join(" ");

// The button gets its name in the reader's language when it is shown.
function codeBlock(content: string, language: string, escape: (text: string) => string): string {
  const name = escape(language);
  return (
    `<div class="code"><div class="code-head"><span>${name}</span><button type="button" class="code-copy"></button></div>` +
    `<pre tabindex="0"><code>${highlighted(content, language) ?? escape(content)}</code></pre></div>`
  );
}
