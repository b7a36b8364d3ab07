import { describe, expect, test } from "vitest";
import { SseParser, type ServerEvent } from "../src/api/sse";

const STREAM = 'data: {"a":1}\n\n: ping\n\nevent: note\ndata: one\ndata: two\r\n\r\ndata:[DONE]\n\n';
const EVENTS: ServerEvent[] = [
  { name: "message", data: '{"a":1}' },
  { name: "note", data: "one\ntwo" },
  { name: "message", data: "[DONE]" },
];

describe("server-sent events", () => {
  test("any slicing of the stream gives the same events", () => {
    for (let size = 1; size <= STREAM.length; size++) {
      const parser = new SseParser();
      const events: ServerEvent[] = [];
      for (let at = 0; at < STREAM.length; at += size) events.push(...parser.push(STREAM.slice(at, at + size)));
      expect(events, `slices of ${size}`).toEqual(EVENTS);
    }
  });

  test("an event that is not complete is held back", () => {
    const parser = new SseParser();
    expect(parser.push("data: half")).toEqual([]);
    expect(parser.push(" done\n")).toEqual([]);
    expect(parser.push("\n")).toEqual([{ name: "message", data: "half done" }]);
  });

  test("only one space after the colon is dropped", () => {
    expect(new SseParser().push("data:  two\n\n")).toEqual([{ name: "message", data: " two" }]);
  });

  test("a name without data is no event and does not stick to the next one", () => {
    expect(new SseParser().push("event: lost\n\ndata: x\n\n")).toEqual([{ name: "message", data: "x" }]);
  });
});
