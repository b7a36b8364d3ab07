/** 96 random bits; `crypto.randomUUID` is not there on a page from another machine without TLS. */
export function freshId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
