import { describe, expect, test } from "vitest";
import { newConversation, type Conversation } from "../src/conversation/conversation";
import type { Message } from "../src/conversation/message";
import { become, merged, same } from "../src/conversation/merge";
import { add, branches, messageOf, path } from "../src/conversation/tree";

function put(conversation: Conversation, id: string, parent: string | null): Message {
  const role = id.startsWith("u") ? "user" : "assistant";
  return add(conversation, { id, parent, role, text: id, created: 0, children: [], shown: null });
}

function begun(): Conversation {
  const conversation = newConversation(0);
  put(conversation, "u1", null);
  put(conversation, "a1", "u1");
  return conversation;
}

const both = () => {
  const base = begun();
  return { base, mine: structuredClone(base), theirs: structuredClone(base) };
};

describe("one conversation changed in two tabs", () => {
  test("keeps what each of them said, as branches", () => {
    const { base, mine, theirs } = both();
    put(mine, "u2", "a1");
    put(theirs, "u3", "a1");
    put(theirs, "a3", "u3");
    const one = merged(base, mine, theirs);
    expect(Object.keys(one.messages).sort()).toEqual(["a1", "a3", "u1", "u2", "u3"]);
    expect(branches(one, "u2")).toEqual(["u3", "u2"]);
    expect(path(one).map(({ id }) => id)).toEqual(["u1", "a1", "u2"]);
    expect(mine.messages["a3"]).toBeUndefined();
  });

  test("takes each field from the one who changed it, also when it went away", () => {
    const { base, mine, theirs } = both();
    messageOf(base, "a1").ending = messageOf(mine, "a1").ending = messageOf(theirs, "a1").ending = "stopped";
    mine.system = "Be brief.";
    mine.sampling.seed = 7;
    theirs.title = "Renamed";
    theirs.sampling.topK = 5;
    delete messageOf(theirs, "a1").ending;
    messageOf(theirs, "a1").text = "longer";
    const one = merged(base, mine, theirs);
    expect(one).toMatchObject({ system: "Be brief.", title: "Renamed" });
    expect(one.sampling).toMatchObject({ seed: 7, topK: 5 });
    expect(messageOf(one, "a1")).toEqual({ ...messageOf(base, "a1"), text: "longer", ending: undefined });
    expect("ending" in messageOf(one, "a1")).toBe(false);
  });

  test("is mine where both changed the same", () => {
    const { base, mine, theirs } = both();
    [mine.title, theirs.title] = ["mine", "theirs"];
    expect(merged(base, mine, theirs).title).toBe("mine");
    expect(merged(undefined, mine, theirs).title).toBe("mine");
  });

  test("is theirs where I changed nothing, and mine where they did not", () => {
    const { base, mine, theirs } = both();
    put(theirs, "u3", "a1");
    expect(merged(base, mine, theirs)).toEqual(theirs);
    expect(merged(base, theirs, mine)).toEqual(theirs);
  });

  test("comes into the page without replacing a message that somebody holds", () => {
    const { mine, theirs } = both();
    const held = messageOf(mine, "a1");
    put(theirs, "u3", "a1");
    messageOf(theirs, "a1").text = "grown";
    delete (theirs as Partial<Conversation>).system;
    become(mine, theirs);
    expect(messageOf(mine, "a1")).toBe(held);
    expect(held.text).toBe("grown");
    expect(same(mine, theirs)).toBe(true);
  });
});
