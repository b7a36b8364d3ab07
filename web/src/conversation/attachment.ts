// Text files that go along with a message, each in a fenced block below it.

import type { Attachment } from "./message";

export const LARGEST_FILE = 256 * 1024;
export const LARGEST_SUM = 512 * 1024;
export const MOST_FILES = 8;

export type Rejection = "large" | "many" | "binary";

/** The text of a file, or why it cannot go along. */
export async function readAttachment(file: File, already: readonly Attachment[]): Promise<Attachment | Rejection> {
  if (already.length >= MOST_FILES) return "many";
  const sum = already.reduce((total, { text }) => total + text.length, 0);
  if (file.size > LARGEST_FILE || sum + file.size > LARGEST_SUM) return "large";
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes.includes(0)) return "binary";
  try {
    return { name: file.name, text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) };
  } catch {
    return "binary";
  }
}

/** The message as the model reads it. A fence is longer than any within the file. */
export function withAttachments(text: string, attachments: readonly Attachment[]): string {
  const blocks = attachments.map(({ name, text: content }) => {
    const longest = Math.max(2, ...Array.from(content.matchAll(/`{3,}/g), ([ticks]) => ticks.length));
    const fence = "`".repeat(longest + 1);
    return `${name.replace(/[\r\n`]/g, " ")}:\n${fence}\n${content.replace(/\n$/, "")}\n${fence}`;
  });
  return [text, ...blocks].filter(Boolean).join("\n\n");
}
