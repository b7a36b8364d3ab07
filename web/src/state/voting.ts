// What a reader thinks of answers, sent to the server as preferences.

import type { Client } from "../api/client";
import type { Conversation } from "../conversation/conversation";
import type { Message } from "../conversation/message";
import { wireMessages } from "../conversation/prompt";
import { messageOf, show } from "../conversation/tree";

export type Verdict = "this" | "other" | "equal";

export class Voting {
  readonly #client: Client;

  constructor(client: Client) {
    this.#client = client;
  }

  /** @throws Failure when the server does not take it; then nothing is marked. */
  async thumb(conversation: Conversation, answer: Message, liked: boolean, language: string): Promise<true> {
    await this.#client.vote({
      messages: wireMessages(conversation, answer.id),
      answer: answer.text,
      liked,
      model: answer.model ?? "",
      language,
    });
    answer.liked = liked;
    return true;
  }

  /**
   * Choose between an answer and the one beside it; the conversation goes on with the better one. That both are equally
   * good, or the same, is kept here and teaches the server nothing.
   *
   * @returns whether the server was told.
   * @throws Failure when the server does not take it; the choice holds here all the same.
   */
  async choose(conversation: Conversation, answer: Message, verdict: Verdict, language: string): Promise<boolean> {
    const other = messageOf(conversation, answer.rival ?? "");
    const [chosen, rejected] = verdict === "other" ? [other, answer] : [answer, other];
    chosen.verdict = verdict === "equal" ? "equal" : "chosen";
    rejected.verdict = verdict === "equal" ? "equal" : "rejected";
    show(conversation, chosen.id);
    if (verdict === "equal" || chosen.text === rejected.text) return false;
    await this.#client.vote({
      messages: wireMessages(conversation, chosen.id),
      chosen: chosen.text,
      rejected: rejected.text,
      models: { chosen: chosen.model ?? "", rejected: rejected.model ?? "" },
      language,
    });
    return true;
  }
}
