// What can go wrong between the page and the server, in the few kinds that a person can do something about.

export const FAILURE_KINDS = ["offline", "overloaded", "key", "refused", "broken"] as const;
export type FailureKind = (typeof FAILURE_KINDS)[number];

export class Failure extends Error {
  readonly kind: FailureKind;
  /** Seconds after which the server asks to be tried again. */
  readonly retryAfter: number | null;

  constructor(kind: FailureKind, message: string, retryAfter: number | null = null) {
    super(message);
    this.name = "Failure";
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

/** The failure that a status and its body stand for. */
export function failureOf(status: number, body: unknown, retryAfter: string | null): Failure {
  const seconds = retryAfter === null ? null : Number.parseFloat(retryAfter);
  const wait = seconds === null || Number.isNaN(seconds) ? null : Math.max(0, seconds);
  const message = messageOf(body) ?? `HTTP ${status}`;
  if (status === 401) return new Failure("key", message);
  if (status === 429 || status === 503 || status === 529) return new Failure("overloaded", message, wait);
  if (status === 502 || status === 504) return new Failure("offline", message, wait);
  return new Failure(status >= 500 ? "broken" : "refused", message);
}

/** The sentence of an error body, whichever API's style it has. */
export function messageOf(body: unknown): string | null {
  if (typeof body !== "object" || body === null) return null;
  const { error, detail } = body as { error?: unknown; detail?: unknown };
  if (typeof error === "string") return error;
  if (typeof error === "object" && error !== null) {
    const { message } = error as { message?: unknown };
    if (typeof message === "string") return message;
  }
  return typeof detail === "string" ? detail : null;
}
