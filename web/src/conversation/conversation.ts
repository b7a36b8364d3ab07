// A conversation: a tree of messages and how its answers are made.

import { DEFAULT_SAMPLING, type Sampling } from "../api/sampling";
import { freshId } from "./fresh_id";
import type { Message } from "./message";

export interface Conversation {
  id: string;
  /** "" until it has one. */
  title: string;
  created: number;
  changed: number;
  /** Who answers; "" for whatever the server has. */
  model: string;
  /** Who answers beside it; null for nobody. */
  rival: string | null;
  system: string;
  sampling: Sampling;
  messages: Record<string, Message>;
  /** First messages, as `children` and `shown` of a message. */
  children: string[];
  shown: string | null;
}

export function newConversation(now: number, like?: Conversation): Conversation {
  return {
    id: freshId(),
    title: "",
    created: now,
    changed: now,
    model: like?.model ?? "",
    rival: like?.rival ?? null,
    system: "",
    sampling: { ...DEFAULT_SAMPLING },
    messages: {},
    children: [],
    shown: null,
  };
}

const TITLE_LENGTH = 60;

/** The first words of a text, on one line. */
export function titleOf(text: string): string {
  const line = text.replace(/\s+/g, " ").trim();
  if (line.length <= TITLE_LENGTH) return line;
  const cut = line.slice(0, TITLE_LENGTH);
  const space = cut.lastIndexOf(" ");
  return `${space > TITLE_LENGTH / 2 ? cut.slice(0, space) : cut}…`;
}

/** Whether every word that is looked for occurs in the title or in a message, in any case and without accents. */
export function matches(conversation: Conversation, wanted: string): boolean {
  const words = plain(wanted).split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const texts = [conversation.title, ...Object.values(conversation.messages).map(({ text }) => text)];
  const content = plain(texts.join("\n"));
  return words.every((word) => content.includes(word));
}

function plain(text: string): string {
  return text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
}
