// What a model is sent: the branch above the answer, in the form that it understands.

import type { WireMessage } from "../api/client";
import { withAttachments } from "./attachment";
import type { Conversation } from "./conversation";
import type { Message } from "./message";
import { above } from "./tree";

/** The conversation above an answer; failed answers and empty ones are left out. */
export function wireMessages(conversation: Conversation, answer: string): WireMessage[] {
  const messages: WireMessage[] = above(conversation, answer)
    .map((message) => ({ role: message.role, content: textOf(message) }))
    .filter(({ role, content }) => role === "user" || content !== "");
  const system = conversation.system.trim();
  return system === "" ? messages : [{ role: "system", content: system }, ...messages];
}

/** The text that a base model continues: everything above, in one piece. */
export function plainPrompt(conversation: Conversation, answer: string): string {
  return above(conversation, answer).map(textOf).join("");
}

function textOf({ text, attachments = [] }: Message): string {
  return withAttachments(text, attachments);
}
