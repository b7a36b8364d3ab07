import { describe, expect, test } from "vitest";
import { Failure, failureOf } from "../src/api/failure";
import { readGenerated } from "../src/api/generated";
import { readModels } from "../src/api/model";
import { inkedText, probability, visibleText } from "../src/api/scored_token";

const read = (body: unknown) => readGenerated({ name: "message", data: JSON.stringify(body) });

describe("pieces of an answer", () => {
  test("text comes with the probabilities of its tokens", () => {
    const token = { token: "Hi", logprob: -0.5, bytes: [72, 105], top_logprobs: [{ token: "Yo", logprob: -1 }] };
    expect(read({ choices: [{ delta: { content: "Hi" }, logprobs: { content: [token] } }] })).toEqual([
      { type: "text", text: "Hi", tokens: [{ text: "Hi", logprob: -0.5, top: [{ text: "Yo", logprob: -1 }] }] },
    ]);
  });

  test("a plain completion is read like a chat, its alternatives sorted", () => {
    const logprobs = { tokens: ["a"], token_logprobs: [-1], top_logprobs: [{ a: -1, b: -0.2 }] };
    expect(read({ choices: [{ text: "a", logprobs }] })).toEqual([
      {
        type: "text",
        text: "a",
        tokens: [{ text: "a", logprob: -1, top: [{ text: "b", logprob: -0.2 }, { text: "a", logprob: -1 }] }],
      },
    ]);
  });

  test("reasoning, end and usage are told apart", () => {
    expect(read({ choices: [{ delta: { reasoning_content: "hm", reasoning: "hm" } }] })).toEqual([
      { type: "reasoning", text: "hm" },
    ]);
    expect(read({ choices: [{ delta: {}, finish_reason: "length" }] })).toEqual([{ type: "finished", reason: "length" }]);
    const usage = { prompt_tokens: 3, completion_tokens: 5, prompt_tokens_details: { cached_tokens: 2 } };
    expect(read({ choices: [], usage })).toEqual([
      { type: "usage", usage: { promptTokens: 3, generatedTokens: 5, cachedTokens: 2 } },
    ]);
    expect(readGenerated({ name: "message", data: "[DONE]" })).toEqual([{ type: "done" }]);
  });

  test("an empty first chunk says nothing", () => {
    expect(read({ choices: [{ delta: { role: "assistant", content: "" }, logprobs: null }] })).toEqual([]);
  });

  test("an error within the stream is a failure with the server's sentence", () => {
    expect(() => read({ error: { message: "the engine failed" } })).toThrow("the engine failed");
    expect(() => readGenerated({ name: "message", data: "no JSON" })).toThrow(Failure);
  });
});

describe("failures", () => {
  test.each([
    [401, "key"],
    [403, "refused"],
    [400, "refused"],
    [429, "overloaded"],
    [503, "overloaded"],
    [500, "broken"],
    [502, "offline"],
  ])("status %i means %s", (status, kind) => {
    expect(failureOf(status, { error: { message: "no" } }, null).kind).toBe(kind);
  });

  test("the time to wait is kept where it is a number", () => {
    expect(failureOf(429, null, "3").retryAfter).toBe(3);
    expect(failureOf(429, null, "soon").retryAfter).toBeNull();
  });
});

describe("models", () => {
  test("what the server does not say is not invented", () => {
    expect(readModels({ data: [{ id: "x" }, { object: "model" }, 3] })).toEqual([
      { id: "x", context: null, chats: true, parameters: null, explorer: null },
    ]);
    expect(readModels("nonsense")).toEqual([]);
  });

  test("a base model is known by its capabilities", () => {
    const chats = (capabilities: unknown) => readModels({ data: [{ id: "x", capabilities }] })[0]?.chats;
    expect(chats({ chat: { supported: false } })).toBe(false);
    expect(chats({ chat: false })).toBe(false);
    expect(chats(["completion"])).toBe(false);
    expect(chats({ chat: { supported: true } })).toBe(true);
  });

  test.each(["https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere.example", "javascript:alert(1)"])(
    "an explorer elsewhere is no explorer: %s",
    (explorer) => {
      expect(readModels({ data: [{ id: "x", capabilities: { explorer } }] })[0]?.explorer).toBeNull();
      expect(readModels({ data: [{ id: "x", capabilities: { explorer: "/explore" } }] })[0]?.explorer).toBe("/explore");
    },
  );
});

describe("tokens", () => {
  test("white space and broken characters can be seen", () => {
    expect(visibleText({ text: " a\n" })).toBe("␣a⏎");
    expect(visibleText({ text: "\uFFFD", bytes: [0xf0, 0x9f] })).toBe("⟨f0⟩⟨9f⟩");
  });

  test("every token within an answer can be pointed at", () => {
    expect(inkedText({ text: " a" })).toBe(" a");
    expect(inkedText({ text: "a\n\n" })).toBe("a⏎\n⏎\n");
    expect(inkedText({ text: "" })).toBe("∅");
    expect(inkedText({ text: "\uFFFD", bytes: [0xf0] })).toBe("⟨f0⟩");
  });

  test("a probability is at most 1", () => {
    expect(probability({ logprob: 0.0001 })).toBe(1);
    expect(probability({ logprob: Math.log(0.25) })).toBeCloseTo(0.25);
  });
});
