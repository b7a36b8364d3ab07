import { describe, expect, test } from "vitest";
import { newConversation, type Conversation } from "../src/conversation/conversation";
import { fileName, fromJson, toJson, toMarkdown } from "../src/conversation/export";
import { add, path } from "../src/conversation/tree";

function conversation(): Conversation {
  const made = newConversation(5);
  made.title = "Été";
  made.system = "Be brief.";
  made.sampling.seed = 3;
  const common = { created: 1, children: [], shown: null };
  add(made, { ...common, id: "u", parent: null, role: "user", text: "Hi", attachments: [{ name: "a.txt", text: "x" }] });
  add(made, { ...common, children: [], id: "a", parent: "u", role: "assistant", text: "Hello", model: "m", ending: "stop", rival: "b", verdict: "chosen" });
  add(made, { ...common, children: [], id: "b", parent: "u", role: "assistant", text: "Yo", model: "n", liked: false, rival: "a", verdict: "rejected" });
  made.messages["u"]!.shown = "a";
  return made;
}

const withoutIds = (one: Conversation) =>
  path(one).map(({ role, text, model, ending, verdict, attachments }) => ({ role, text, model, ending, verdict, attachments }));

describe("export and import", () => {
  test("JSON brings everything back, under new ids", () => {
    const before = conversation();
    const [after] = fromJson(toJson([before]));
    expect(after).toBeDefined();
    expect(withoutIds(after!)).toEqual(withoutIds(before));
    expect(after).toMatchObject({ title: "Été", system: "Be brief.", sampling: before.sampling });
    expect(after!.id).not.toBe(before.id);
    const [first] = path(after!).slice(1);
    expect(after!.messages[first!.rival!]).toMatchObject({ text: "Yo", liked: false, rival: first!.id });
  });

  test("what an answer took and why it failed come back, and damaged figures do not", () => {
    const before = conversation();
    const measures = { promptTokens: 3, generatedTokens: 5, cachedTokens: 0, firstToken: 0.1, generating: 0.4 };
    before.messages["a"]!.measures = measures;
    Object.assign(before.messages["b"]!, { ending: "failed", failure: "gone", failureKind: "offline" });
    const [after] = fromJson(toJson([before]));
    const read = Object.values(after!.messages);
    expect(read.find(({ text }) => text === "Hello")?.measures).toEqual(measures);
    expect(read.find(({ text }) => text === "Yo")).toMatchObject({ failure: "gone", failureKind: "offline" });
    const damaged = fromJson(toJson([before]).replace('"promptTokens": 3', '"promptTokens": "x"').replace("offline", "odd"));
    const found = Object.values(damaged[0]!.messages);
    expect(found.every(({ measures, failureKind }) => measures === undefined && failureKind === undefined)).toBe(true);
  });

  test("importing twice gives two conversations", () => {
    const text = toJson([conversation()]);
    expect(fromJson(text)[0]?.id).not.toBe(fromJson(text)[0]?.id);
  });

  test.each(["", "{}", "[]", '{"format":"cadran-conversations","version":2,"conversations":[]}', "null"])(
    "%j is refused",
    (text) => {
      expect(() => fromJson(text)).toThrow(SyntaxError);
    },
  );

  test("a circle of messages is refused", () => {
    const looped = conversation();
    looped.messages["u"]!.parent = "a";
    expect(() => fromJson(toJson([looped]))).toThrow("circles");
  });

  test("a file cannot bring what a message has not, nor values out of range", () => {
    const text = toJson([conversation()])
      .replace('"role": "user"', '"role": "user", "__proto__": {"evil": 1}, "html": "<b>"')
      .replace('"seed": 3', '"seed": -5');
    const [after] = fromJson(text);
    const [first] = path(after!);
    expect(first).not.toHaveProperty("html");
    expect(first).not.toHaveProperty("evil");
    expect(after!.sampling.seed).toBe(0);
  });

  test("Markdown is the branch that is looked at", () => {
    expect(toMarkdown([conversation()], { user: "You", untitled: "Untitled" })).toBe(
      "# Été\n\n> Be brief.\n\n## You\n\nHi\n\na.txt:\n```\nx\n```\n\n## m\n\nHello\n",
    );
  });

  test("a title becomes a harmless file name", () => {
    expect(fileName("../Où va l’été ?", "md")).toBe("Où-va-l-été.md");
    expect(fileName("", "json")).toBe("cadran.json");
  });
});
