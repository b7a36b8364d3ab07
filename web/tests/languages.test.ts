import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { english } from "../src/language/english";
import { french } from "../src/language/french";

function sources(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf-8" })
    .filter((name) => /\.(ts|svelte)$/.test(name))
    .map((name) => join(folder, name));
}

describe("languages", () => {
  test("both say the same things, with as many arguments", () => {
    expect(Object.keys(french).sort()).toEqual(Object.keys(english).sort());
    for (const [name, said] of Object.entries(english)) {
      const other = french[name as keyof typeof french];
      expect(typeof other, name).toBe(typeof said);
      if (typeof said === "function" && typeof other === "function") expect(other.length, name).toBe(said.length);
      if (Array.isArray(said)) expect((other as unknown[]).length, name).toBe(said.length);
    }
  });

  test("every sentence is used", () => {
    const text = sources("src").map((file) => readFileSync(file, "utf-8")).join("\n");
    const indirect = /^(temperature|topP|topK|minP|repetitionPenalty|maxTokens|seed)(Hint)?$|^name$/;
    for (const name of Object.keys(english)) {
      if (!indirect.test(name)) expect(text.includes(`t.${name}`), name).toBe(true);
    }
  });

  test("no number that is shown is drawn at random", () => {
    for (const file of sources("src")) expect(readFileSync(file, "utf-8"), file).not.toContain("Math.random");
  });
});
