// One turn of a conversation, and what is known about how it came to be.

import type { FailureKind } from "../api/failure";
import type { FinishReason } from "../api/generated";

/** How an answer ended: by itself, at the token limit, by the reader, or by a failure. */
export type Ending = FinishReason | "stopped" | "failed";

export interface Measures {
  promptTokens: number;
  generatedTokens: number;
  cachedTokens: number;
  /** Seconds from sending to the first piece. */
  firstToken: number;
  /** Seconds from the first piece to the last. */
  generating: number;
}

export interface Attachment {
  name: string;
  text: string;
}

export interface Message {
  id: string;
  parent: string | null;
  role: "user" | "assistant";
  text: string;
  /** Milliseconds since 1970. */
  created: number;
  /** Answers to it, or what was said after it: one branch each, oldest first. */
  children: string[];
  /** The branch that is looked at. */
  shown: string | null;
  attachments?: Attachment[];
  /** Of answers. */
  model?: string;
  reasoning?: string;
  ending?: Ending;
  failure?: string;
  failureKind?: FailureKind;
  measures?: Measures;
  liked?: boolean;
  /** The other answer that it stands beside until one of them is chosen. */
  rival?: string;
  /** How that was decided. */
  verdict?: "chosen" | "rejected" | "equal";
}

/** Seconds below which a rate says more about the network's packets than about the model. */
const SHORTEST = 0.05;

/** Tokens per second after the first one; null where there is too little to measure. */
export function speed({ generatedTokens, generating }: Measures): number | null {
  return generatedTokens < 2 || generating < SHORTEST ? null : (generatedTokens - 1) / generating;
}
