// What a page could no longer store when it went away. Browsers end a page's transactions with it and lose those that
// wait for another; what is written to localStorage stands there at once. The next page takes it into the store.

import type { Conversation } from "../conversation/conversation";
import { freshId } from "../conversation/fresh_id";

const PREFIX = "cadran.left.";

export interface Left {
  key: string;
  conversation: Conversation;
  /** As the page last saw it in the store, undefined when it was new. */
  known: Conversation | undefined;
}

/** @returns false when there is no room or it is forbidden. */
export function leave(conversation: Conversation, known: Conversation | undefined): boolean {
  try {
    localStorage.setItem(PREFIX + freshId(), JSON.stringify({ conversation, known }));
    return true;
  } catch {
    return false;
  }
}

/** Whether a change of localStorage in another tab is one of these. */
export function isLeft({ key, newValue }: StorageEvent): boolean {
  return newValue !== null && key !== null && key.startsWith(PREFIX);
}

export function allLeft(): Left[] {
  try {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    return keys.map((key) => ({ key, ...(JSON.parse(localStorage.getItem(key) ?? "") as Omit<Left, "key">) }));
  } catch {
    return [];
  }
}

export function dropLeft({ key }: Left): void {
  localStorage.removeItem(key);
}
