// What a stream of a completion says, piece by piece, whichever of the two endpoints it comes from.

import { Failure, messageOf } from "./failure";
import { readTokens, type ScoredToken } from "./scored_token";
import type { ServerEvent } from "./sse";

export type FinishReason = "stop" | "length" | "tool_calls";

export interface Usage {
  promptTokens: number;
  generatedTokens: number;
  cachedTokens: number;
}

export type Generated =
  | { type: "text"; text: string; tokens: ScoredToken[] }
  | { type: "reasoning"; text: string }
  | { type: "finished"; reason: FinishReason }
  | { type: "usage"; usage: Usage }
  | { type: "done" };

interface Chunk {
  choices?: {
    text?: string;
    delta?: { content?: string | null; reasoning_content?: string | null };
    logprobs?: unknown;
    finish_reason?: FinishReason | null;
  }[];
  usage?: {
    prompt_tokens?: number;
    completion_tokens?: number;
    prompt_tokens_details?: { cached_tokens?: number } | null;
  } | null;
}

/**
 * The pieces in one event.
 *
 * @throws Failure when the server says in the stream that something broke.
 */
export function readGenerated({ data }: ServerEvent): Generated[] {
  if (data === "[DONE]") return [{ type: "done" }];
  let body: unknown;
  try {
    body = JSON.parse(data);
  } catch {
    throw new Failure("broken", data.slice(0, 200));
  }
  const complaint = messageOf(body);
  if (complaint !== null) throw new Failure("broken", complaint);
  const { choices = [], usage } = body as Chunk;
  const pieces: Generated[] = [];
  for (const { text, delta, logprobs, finish_reason } of choices.slice(0, 1)) {
    if (delta?.reasoning_content) pieces.push({ type: "reasoning", text: delta.reasoning_content });
    const said = text ?? delta?.content ?? "";
    const tokens = readTokens(logprobs);
    if (said !== "" || tokens.length > 0) pieces.push({ type: "text", text: said, tokens });
    if (finish_reason) pieces.push({ type: "finished", reason: finish_reason });
  }
  if (usage) {
    pieces.push({
      type: "usage",
      usage: {
        promptTokens: usage.prompt_tokens ?? 0,
        generatedTokens: usage.completion_tokens ?? 0,
        cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
      },
    });
  }
  return pieces;
}
