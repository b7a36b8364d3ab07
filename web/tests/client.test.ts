import { describe, expect, test } from "vitest";
import { Client } from "../src/api/client";
import { Failure } from "../src/api/failure";
import { DEFAULT_SAMPLING, readValue, SAMPLING_FIELDS, wireSampling } from "../src/api/sampling";

interface Sent {
  address: string;
  headers: Record<string, string>;
  body: Record<string, unknown>;
}

function server(answer: () => Response): { sent: Sent[]; client: Client } {
  const sent: Sent[] = [];
  const client = new Client(
    () => "sesame",
    async (address, options) => {
      const body = options?.body ? (JSON.parse(String(options.body)) as Record<string, unknown>) : {};
      sent.push({ address, headers: options?.headers as Record<string, string>, body });
      return answer();
    },
  );
  return { sent, client };
}

async function all(client: Client, asked: Parameters<Client["generate"]>[0]): Promise<string[]> {
  const types: string[] = [];
  for await (const piece of client.generate(asked, new AbortController().signal)) types.push(piece.type);
  return types;
}

const STREAM = 'data: {"choices":[{"delta":{"content":"é"}}]}\n\ndata: [DONE]\n\n';

describe("the client", () => {
  test("asks for a conversation with usage and alternatives, and shows its key", async () => {
    const { sent, client } = server(() => new Response(STREAM));
    const messages = [{ role: "user" as const, content: "Hi" }];
    expect(await all(client, { model: "m", sampling: { temperature: 0 }, messages })).toEqual(["text", "done"]);
    expect(sent[0]).toMatchObject({
      address: "v1/chat/completions",
      headers: { authorization: "Bearer sesame" },
      body: { model: "m", messages, temperature: 0, logprobs: true, top_logprobs: 5, stream_options: { include_usage: true } },
    });
  });

  test("continues a text, and an answer that was begun", async () => {
    const { sent, client } = server(() => new Response(STREAM));
    await all(client, { model: "m", sampling: {}, prompt: "Once" });
    await all(client, { model: "m", sampling: {}, messages: [], continues: true });
    expect(sent[0]).toMatchObject({ address: "v1/completions", body: { prompt: "Once", logprobs: 5 } });
    expect(sent[0]?.body).not.toHaveProperty("messages");
    expect(sent[1]?.body).toMatchObject({ continue_final_message: true });
  });

  test("a stream that breaks off is a failure, not a short answer", async () => {
    const { client } = server(() => new Response(STREAM.replace("data: [DONE]\n\n", "")));
    await expect(all(client, { model: "m", sampling: {}, messages: [] })).rejects.toThrow("broke off");
  });

  test("no server, a busy one and one that refuses are told apart", async () => {
    const gone = new Client(() => "", async () => Promise.reject(new TypeError("Failed to fetch")));
    await expect(gone.models()).rejects.toMatchObject({ kind: "offline" });
    const busy = server(() => new Response("{}", { status: 429, headers: { "retry-after": "2" } }));
    await expect(busy.client.models()).rejects.toMatchObject({ kind: "overloaded", retryAfter: 2 });
    const odd = server(() => new Response("<html>", { status: 418 }));
    await expect(odd.client.models()).rejects.toBeInstanceOf(Failure);
  });

  test("an abort ends the pieces quietly", async () => {
    const stop = new AbortController();
    const client = new Client(() => "", async () => Promise.reject(new DOMException("aborted", "AbortError")));
    stop.abort();
    const pieces: unknown[] = [];
    for await (const piece of client.generate({ model: "m", sampling: {}, messages: [] }, stop.signal)) pieces.push(piece);
    expect(pieces).toEqual([]);
  });
});

describe("sampling", () => {
  test("what is empty is left to the server", () => {
    expect(wireSampling({ ...DEFAULT_SAMPLING, maxTokens: null, seed: 7 })).toEqual({
      temperature: 0.7,
      top_p: 0.95,
      repetition_penalty: 1.1,
      seed: 7,
    });
  });

  test("what is typed ends within the range", () => {
    for (const field of SAMPLING_FIELDS) {
      expect(readValue(field, "-1e9")).toBe(field.min);
      expect(readValue(field, "1e99")).toBe(field.max);
      expect(readValue(field, "")).toBeNull();
    }
    expect(readValue(SAMPLING_FIELDS[0]!, "0,5")).toBe(0.5);
  });
});
