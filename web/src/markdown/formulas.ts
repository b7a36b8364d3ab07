// Sets the marked formulas within an element. Through the DOM, because inline styles in HTML are forbidden here, and
// only when there is one, because KaTeX is larger than the rest of the page.

type Katex = typeof import("katex").default;

let katex: Katex | null = null;
let coming: Promise<void> | null = null;

/** Set every formula that is still source; a formula that cannot be understood stays as it was written. */
export function setFormulas(element: Element): void {
  const waiting = element.querySelectorAll<HTMLElement>(".formula:not([data-set])");
  if (waiting.length === 0) return;
  if (katex === null) {
    coming ??= load();
    void coming.then(() => setFormulas(element));
    return;
  }
  for (const formula of waiting) {
    formula.dataset["set"] = "";
    const source = formula.textContent ?? "";
    try {
      katex.render(source, formula, {
        displayMode: formula.classList.contains("formula-display"),
        throwOnError: true,
        trust: false,
        strict: "ignore",
        maxSize: 20,
        maxExpand: 200,
      });
    } catch {
      formula.textContent = source;
    }
  }
}

async function load(): Promise<void> {
  const [module] = await Promise.all([import("katex"), import("katex/dist/katex.min.css")]);
  katex = module.default;
}
