import { describe, expect, test } from "vitest";
import { withAttachments } from "../src/conversation/attachment";
import { matches, newConversation, titleOf, type Conversation } from "../src/conversation/conversation";
import type { Message } from "../src/conversation/message";
import { speed } from "../src/conversation/message";
import { plainPrompt, wireMessages } from "../src/conversation/prompt";
import { above, add, branches, leaf, openRival, path, show, turn } from "../src/conversation/tree";

function put(conversation: Conversation, id: string, parent: string | null, text = id): Message {
  const role = id.startsWith("u") ? "user" : "assistant";
  return add(conversation, { id, parent, role, text, created: 0, children: [], shown: null });
}

/** u1 → a1 → u2 → a2, a1 has a second version b1 under u1. */
function grown(): Conversation {
  const conversation = newConversation(0);
  put(conversation, "u1", null);
  put(conversation, "a1", "u1");
  put(conversation, "u2", "a1");
  put(conversation, "a2", "u2");
  put(conversation, "b1", "u1");
  return conversation;
}

const ids = (messages: Message[]) => messages.map(({ id }) => id);

describe("the tree of messages", () => {
  test("a new answer is a branch that is looked at; the old one keeps what was said after it", () => {
    const conversation = grown();
    expect(ids(path(conversation))).toEqual(["u1", "b1"]);
    expect(branches(conversation, "b1")).toEqual(["a1", "b1"]);
    turn(conversation, "b1", -1);
    expect(ids(path(conversation))).toEqual(["u1", "a1", "u2", "a2"]);
  });

  test("turning past either end changes nothing", () => {
    const conversation = grown();
    turn(conversation, "b1", 1);
    expect(leaf(conversation)?.id).toBe("b1");
    turn(conversation, "a1", -1);
    expect(leaf(conversation)?.id).toBe("a2");
  });

  test("editing the first message branches at the root", () => {
    const conversation = grown();
    put(conversation, "u1b", null);
    expect(ids(path(conversation))).toEqual(["u1b"]);
    expect(branches(conversation, "u1b")).toEqual(["u1", "u1b"]);
  });

  test("a hidden message is shown with all that lies above it", () => {
    const conversation = grown();
    put(conversation, "u1b", null);
    show(conversation, "a2");
    expect(ids(path(conversation))).toEqual(["u1", "a1", "u2", "a2"]);
  });

  test("what lies above a message does not depend on what is looked at", () => {
    expect(ids(above(grown(), "a2"))).toEqual(["u1", "a1", "u2"]);
  });

  test("two answers stand side by side until one is chosen", () => {
    const conversation = grown();
    const first = conversation.messages["a1"]!;
    first.rival = "b1";
    expect(openRival(conversation, first)?.id).toBe("b1");
    first.verdict = "chosen";
    expect(openRival(conversation, first)).toBeNull();
  });
});

describe("what a model is sent", () => {
  test("the branch above the answer, the system prompt first, empty answers left out", () => {
    const conversation = grown();
    conversation.system = " Be brief. ";
    conversation.messages["a1"]!.text = "";
    expect(wireMessages(conversation, "a2")).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "u1" },
      { role: "user", content: "u2" },
    ]);
  });

  test("a base model gets one text with nothing put between", () => {
    expect(plainPrompt(grown(), "a2")).toBe("u1a1u2");
  });

  test("a file cannot end its own fence", () => {
    const content = withAttachments("Look:", [{ name: "a`b\n.md", text: "```js\nx\n```\n" }]);
    expect(content).toBe("Look:\n\na b .md:\n````\n```js\nx\n```\n````");
  });
});

describe("conversations", () => {
  test("a title is the beginning, cut between words", () => {
    expect(titleOf("  Hello\nthere ")).toBe("Hello there");
    const title = titleOf("word ".repeat(40));
    expect(title.endsWith("word…")).toBe(true);
    expect(title.length).toBeLessThanOrEqual(61);
  });

  test("the search knows no case and no accents, and wants every word", () => {
    const conversation = grown();
    conversation.messages["u1"]!.text = "L’Été à la rivière";
    expect(matches(conversation, "riviere ete")).toBe(true);
    expect(matches(conversation, "rivière hiver")).toBe(false);
    expect(matches(conversation, " ")).toBe(true);
  });

  test("no speed is told where none was measured", () => {
    const measures = { promptTokens: 1, cachedTokens: 0, firstToken: 1, generatedTokens: 1, generating: 0 };
    expect(speed(measures)).toBeNull();
    expect(speed({ ...measures, generatedTokens: 100, generating: 0.001 })).toBeNull();
    expect(speed({ ...measures, generatedTokens: 11, generating: 2 })).toBe(5);
  });
});
