// The reader's language: the browser's until another is chosen. Numbers follow it.

import { keepSetting, readSetting } from "../storage/setting";
import { english, type Dictionary } from "./english";
import { french } from "./french";

export type Code = "en" | "fr";

export const DICTIONARIES: Readonly<Record<Code, Dictionary>> = { en: english, fr: french };

export class Language {
  #code = $state<Code>(chosenOrBrowser());
  readonly t: Dictionary = $derived(DICTIONARIES[this.#code]);

  get code(): Code {
    return this.#code;
  }

  set code(code: Code) {
    this.#code = code;
    keepSetting("language", code);
  }

  number(value: number, digits = 0): string {
    return value.toLocaleString(this.#code, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  }

  /** 0.873 as 87 %; what is not quite nothing is not called 0. */
  percent(share: number): string {
    if (share > 0 && share < 0.001) return `< ${this.percent(0.001)}`;
    const digits = share > 0 && share < 0.1 ? 1 : 0;
    return share.toLocaleString(this.#code, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits });
  }

  /** 134515008 as 135 M. */
  short(value: number): string {
    return value.toLocaleString(this.#code, { notation: "compact", maximumSignificantDigits: 3 });
  }
}

function chosenOrBrowser(): Code {
  const kept = readSetting("language");
  if (kept === "en" || kept === "fr") return kept;
  const wanted = navigator.languages.find((tag) => /^(en|fr)\b/i.test(tag)) ?? "en";
  return wanted.toLowerCase().startsWith("fr") ? "fr" : "en";
}
