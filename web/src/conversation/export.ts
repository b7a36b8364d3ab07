// Conversations as files: JSON keeps everything and can be read back, Markdown is for people.

import { FAILURE_KINDS } from "../api/failure";
import { SAMPLING_FIELDS, DEFAULT_SAMPLING, type Sampling } from "../api/sampling";
import { withAttachments } from "./attachment";
import type { Conversation } from "./conversation";
import { freshId } from "./fresh_id";
import type { Attachment, Measures, Message } from "./message";
import { path } from "./tree";

const FORMAT = "cadran-conversations";
const VERSION = 1;

export function toJson(conversations: readonly Conversation[]): string {
  return `${JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1)}\n`;
}

export interface Headings {
  user: string;
  untitled: string;
}

/** The branch that is looked at, as a document. */
export function toMarkdown(conversations: readonly Conversation[], headings: Headings): string {
  return conversations.map((conversation) => document(conversation, headings)).join("\n\n---\n\n");
}

function document(conversation: Conversation, headings: Headings): string {
  const parts = [`# ${conversation.title || headings.untitled}`];
  if (conversation.system.trim() !== "") parts.push(conversation.system.trim().replace(/^/gm, "> "));
  for (const message of path(conversation)) {
    parts.push(`## ${message.role === "user" ? headings.user : (message.model ?? "")}`);
    parts.push(withAttachments(message.text, message.attachments ?? []));
  }
  return `${parts.join("\n\n")}\n`;
}

/** A file name made of a title. */
export function fileName(title: string, ending: string): string {
  const name = title.normalize("NFC").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  return `${name || "cadran"}.${ending}`;
}

/**
 * The conversations of a file that `toJson` wrote, under new ids. Whatever else stands in it is ignored.
 *
 * @throws SyntaxError when it is no such file.
 */
export function fromJson(text: string): Conversation[] {
  const body: unknown = JSON.parse(text);
  if (!isObject(body) || body["format"] !== FORMAT || !Array.isArray(body["conversations"])) {
    throw new SyntaxError("no conversations of Cadran");
  }
  if (body["version"] !== VERSION) throw new SyntaxError("a version that is not known here");
  return body["conversations"].map(readConversation);
}

function readConversation(value: unknown): Conversation {
  if (!isObject(value) || !isObject(value["messages"])) throw new SyntaxError("a conversation is damaged");
  const messages: Record<string, Message> = Object.create(null) as Record<string, Message>;
  const renamed = new Map(Object.keys(value["messages"]).map((id) => [id, freshId()]));
  const rename = (id: unknown): string | null => (typeof id === "string" ? (renamed.get(id) ?? null) : null);
  for (const [id, message] of Object.entries(value["messages"])) {
    const read = readMessage(message, rename(id) as string, rename);
    messages[read.id] = read;
  }
  const conversation: Conversation = {
    id: freshId(),
    title: asText(value["title"]),
    created: asNumber(value["created"]) ?? 0,
    changed: asNumber(value["changed"]) ?? 0,
    model: asText(value["model"]),
    rival: typeof value["rival"] === "string" ? value["rival"] : null,
    system: asText(value["system"]),
    sampling: readSampling(value["sampling"]),
    messages: { ...messages },
    children: [],
    shown: rename(value["shown"]),
  };
  hang(conversation);
  return conversation;
}

// The branches are made anew from the parents, so that no file can bring a circle or a dangling end.
function hang(conversation: Conversation): void {
  const { messages } = conversation;
  for (const message of Object.values(messages)) message.children = [];
  for (const message of Object.values(messages)) {
    if (message.parent === null) conversation.children.push(message.id);
    else messages[message.parent]?.children.push(message.id);
  }
  const reached = new Set<string>();
  const waiting = [...conversation.children];
  for (let id = waiting.pop(); id !== undefined; id = waiting.pop()) {
    reached.add(id);
    waiting.push(...(messages[id]?.children ?? []));
  }
  if (reached.size !== Object.keys(messages).length) throw new SyntaxError("a conversation goes in circles");
  for (const fork of [conversation, ...Object.values(messages)]) {
    if (fork.shown === null || !fork.children.includes(fork.shown)) fork.shown = fork.children.at(-1) ?? null;
  }
}

function readMessage(value: unknown, id: string, rename: (id: unknown) => string | null): Message {
  if (!isObject(value)) throw new SyntaxError("a message is damaged");
  const message: Message = {
    id,
    parent: rename(value["parent"]),
    role: value["role"] === "user" ? "user" : "assistant",
    text: asText(value["text"]),
    created: asNumber(value["created"]) ?? 0,
    children: [],
    shown: rename(value["shown"]),
  };
  if (Array.isArray(value["attachments"])) message.attachments = value["attachments"].filter(isAttachment);
  if (typeof value["model"] === "string") message.model = value["model"];
  if (typeof value["reasoning"] === "string") message.reasoning = value["reasoning"];
  if (typeof value["liked"] === "boolean") message.liked = value["liked"];
  const { ending, verdict } = value;
  if (ending === "stop" || ending === "length" || ending === "stopped" || ending === "failed") message.ending = ending;
  if (typeof value["failure"] === "string") message.failure = value["failure"];
  const kind = FAILURE_KINDS.find((known) => known === value["failureKind"]);
  if (kind !== undefined) message.failureKind = kind;
  const measures = readMeasures(value["measures"]);
  if (measures !== null) message.measures = measures;
  const rival = rename(value["rival"]);
  if (rival !== null) message.rival = rival;
  if (verdict === "chosen" || verdict === "rejected" || verdict === "equal") message.verdict = verdict;
  return message;
}

const MEASURES = ["promptTokens", "generatedTokens", "cachedTokens", "firstToken", "generating"] as const;

function readMeasures(value: unknown): Measures | null {
  if (!isObject(value)) return null;
  const numbers = MEASURES.map((name) => [name, asNumber(value[name])] as const);
  return numbers.every(([, number]) => number !== null && number >= 0) ? (Object.fromEntries(numbers) as unknown as Measures) : null;
}

function readSampling(value: unknown): Sampling {
  const sampling = { ...DEFAULT_SAMPLING };
  if (!isObject(value)) return sampling;
  for (const { name, min, max } of SAMPLING_FIELDS) {
    const number = asNumber(value[name]);
    sampling[name] = number === null ? null : Math.min(max, Math.max(min, number));
  }
  return sampling;
}

function isAttachment(value: unknown): value is Attachment {
  return isObject(value) && typeof value["name"] === "string" && typeof value["text"] === "string";
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function asText(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function asNumber(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}
