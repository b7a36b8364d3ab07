// The tree of messages: every edit and every new answer is a branch beside the old one, and nothing is lost.
// The functions change the conversation that they are given.

import type { Conversation } from "./conversation";
import type { Message } from "./message";

interface Fork {
  children: string[];
  shown: string | null;
}

function forkOf(conversation: Conversation, parent: string | null): Fork {
  return parent === null ? conversation : messageOf(conversation, parent);
}

/** @throws RangeError when there is no such message. */
export function messageOf(conversation: Conversation, id: string): Message {
  const message = conversation.messages[id];
  if (message === undefined) throw new RangeError(`there is no message ${id}`);
  return message;
}

/** Put a message below its parent and look at it. */
export function add(conversation: Conversation, message: Message): Message {
  const fork = forkOf(conversation, message.parent);
  conversation.messages[message.id] = message;
  fork.children.push(message.id);
  fork.shown = message.id;
  return messageOf(conversation, message.id);
}

/** The messages that are looked at, from the first to the last. */
export function path(conversation: Conversation): Message[] {
  const found: Message[] = [];
  let next = conversation.shown;
  while (next !== null) {
    const message = messageOf(conversation, next);
    found.push(message);
    next = message.shown;
  }
  return found;
}

/** The messages above one, from the first to its parent. */
export function above(conversation: Conversation, id: string): Message[] {
  const found: Message[] = [];
  let parent = messageOf(conversation, id).parent;
  while (parent !== null) {
    const message = messageOf(conversation, parent);
    found.unshift(message);
    parent = message.parent;
  }
  return found;
}

/** The branches at a message's place, itself among them. */
export function branches(conversation: Conversation, id: string): string[] {
  return forkOf(conversation, messageOf(conversation, id).parent).children;
}

/** Look at the branch that is so many places further; at the ends nothing happens. */
export function turn(conversation: Conversation, id: string, places: number): void {
  const fork = forkOf(conversation, messageOf(conversation, id).parent);
  fork.shown = fork.children[fork.children.indexOf(id) + places] ?? id;
}

/** Look at this message. */
export function show(conversation: Conversation, id: string): void {
  let message = messageOf(conversation, id);
  for (;;) {
    forkOf(conversation, message.parent).shown = message.id;
    if (message.parent === null) return;
    message = messageOf(conversation, message.parent);
  }
}

/** The last message that is looked at. */
export function leaf(conversation: Conversation): Message | null {
  return path(conversation).at(-1) ?? null;
}

/** The other answer, where two stand side by side and nobody has chosen yet. */
export function openRival(conversation: Conversation, message: Message): Message | null {
  if (message.rival === undefined || message.verdict !== undefined) return null;
  return conversation.messages[message.rival] ?? null;
}
