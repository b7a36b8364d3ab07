// A generated token with its probability and what else might have stood there.

export interface Alternative {
  text: string;
  logprob: number;
}

export interface ScoredToken extends Alternative {
  /** UTF-8 bytes, kept only for a token that is no whole character. */
  bytes?: number[];
  top: Alternative[];
}

interface WireToken {
  token?: unknown;
  logprob?: unknown;
  bytes?: unknown;
  top_logprobs?: unknown;
}

/** `choices[].logprobs` of a chat completion, or of a plain completion. */
export function readTokens(logprobs: unknown): ScoredToken[] {
  if (typeof logprobs !== "object" || logprobs === null) return [];
  const { content, tokens } = logprobs as { content?: unknown; tokens?: unknown };
  if (Array.isArray(content)) return content.map((token: WireToken) => chatToken(token));
  if (Array.isArray(tokens)) return plainTokens(logprobs as PlainLogprobs);
  return [];
}

function chatToken(wire: WireToken): ScoredToken {
  const bytes = Array.isArray(wire.bytes) ? (wire.bytes as number[]) : [];
  const top = Array.isArray(wire.top_logprobs) ? (wire.top_logprobs as WireToken[]) : [];
  const token: ScoredToken = {
    text: String(wire.token ?? ""),
    logprob: Number(wire.logprob ?? 0),
    top: top.map(({ token: text, logprob }) => ({ text: String(text ?? ""), logprob: Number(logprob ?? 0) })),
  };
  return token.text.includes("\uFFFD") ? { ...token, bytes } : token;
}

interface PlainLogprobs {
  tokens: unknown[];
  token_logprobs?: unknown[];
  top_logprobs?: unknown[];
}

function plainTokens({ tokens, token_logprobs = [], top_logprobs = [] }: PlainLogprobs): ScoredToken[] {
  return tokens.map((text, index) => ({
    text: String(text),
    logprob: Number(token_logprobs[index] ?? 0),
    top: Object.entries((top_logprobs[index] ?? {}) as Record<string, number>)
      .map(([other, logprob]) => ({ text: other, logprob }))
      .sort((one, other) => other.logprob - one.logprob),
  }));
}

/** Between 0 and 1. */
export function probability({ logprob }: { logprob: number }): number {
  return Math.min(1, Math.exp(logprob));
}

/** What a reader sees of a token: white space and broken characters have names. */
export function visibleText(token: { text: string; bytes?: number[] | undefined }): string {
  if (token.bytes !== undefined) {
    return token.bytes.map((byte) => `⟨${byte.toString(16).padStart(2, "0")}⟩`).join("");
  }
  return token.text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "∅";
}

/** The token within its answer: as written, with a mark for what would take no room to point at. */
export function inkedText(token: { text: string; bytes?: number[] | undefined }): string {
  return token.bytes !== undefined || token.text === "" ? visibleText(token) : token.text.replace(/\n/g, "⏎\n");
}
