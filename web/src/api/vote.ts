// A judgement, as `POST /api/votes` takes it: one answer liked or not, or one of two preferred.

import type { WireMessage } from "./client";

interface Judged {
  messages: WireMessage[];
  language: string;
}

export interface Thumb extends Judged {
  answer: string;
  liked: boolean;
  model: string;
}

export interface Choice extends Judged {
  chosen: string;
  rejected: string;
  models: { chosen: string; rejected: string };
}

export type Vote = Thumb | Choice;
