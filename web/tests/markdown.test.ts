// @vitest-environment jsdom
import { describe, expect, test } from "vitest";
import { BlockRenderer } from "../src/markdown/blocks";
import { sanitise } from "../src/markdown/sanitise";

function rendered(text: string): HTMLElement {
  const element = document.createElement("div");
  element.innerHTML = new BlockRenderer().render(text).map(({ html }) => html).join("");
  return element;
}

const HOSTILE = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "<svg/onload=alert(1)>",
  "<iframe src='https://elsewhere.example'></iframe>",
  "<a href='javascript:alert(1)'>x</a>",
  "<style>*{background:url(https://elsewhere.example)}</style>",
  "<form action='https://elsewhere.example'><input></form>",
  "[x](javascript:alert(1))",
  "[x](JaVaScRiPt:alert(1))",
  "[x](java\tscript:alert(1))",
  "[x](&#106;avascript:alert(1))",
  "[x](data:text/html;base64,PHNjcmlwdD4=)",
  "[x](vbscript:msgbox)",
  "![x](javascript:alert(1))",
  "![x](https://elsewhere.example/pixel.png?secret)",
  "<https://ok.example/\"onmouseover=alert(1)>",
  "[x](https://ok.example \"title\\\" onmouseover=alert(1)\")",
  "```html\"><img src=x onerror=alert(1)>\n<script>alert(1)</script>\n```",
  "`<img src=x onerror=alert(1)>`",
  "$\\href{javascript:alert(1)}{x}$ and $<img src=x onerror=alert(1)>$",
  "| <img src=x onerror=alert(1)> |\n|---|\n| [x](javascript:alert(1)) |",
  "[ref]\n\n[ref]: javascript:alert(1)",
  "<math><mtext></table><style><img src=x onerror=alert(1)>",
];

describe("hostile text", () => {
  test.each(HOSTILE)("%j leaves nothing that runs or loads", (text) => {
    const element = rendered(text);
    expect(element.querySelector("script, img, svg, iframe, style, form, input, object, embed, link, math")).toBeNull();
    for (const one of element.querySelectorAll("*")) {
      for (const { name, value } of one.attributes) {
        expect(name).not.toMatch(/^on|^style$|^src|^id$|^name$/);
        if (name === "href") expect(value).toMatch(/^(https?:|mailto:|#)/);
      }
    }
  });

  test("the sanitiser holds alone", () => {
    const html = '<p onclick="x()" style="color:red" id="y">a<script>1</script><img src=x onerror=1><a href="javascript:1">b</a></p>';
    expect(sanitise(html)).toBe("<p>a<a>b</a></p>");
  });

  test("links open elsewhere and take nothing along", () => {
    const link = rendered("[x](https://ok.example)").querySelector("a");
    expect(link?.getAttribute("rel")).toContain("noopener");
    expect(link?.getAttribute("rel")).toContain("noreferrer");
    expect(link?.getAttribute("target")).toBe("_blank");
  });

  test("a picture becomes a link to it", () => {
    expect(rendered("![a sun](https://ok.example/sun.png)").querySelector("a")?.textContent).toBe("a sun");
  });
});

describe("what models write", () => {
  test("code is coloured and can be copied as it was", () => {
    const element = rendered("```python\ndef f():\n    return '<b>'\n```");
    expect(element.querySelector("code")?.textContent).toBe("def f():\n    return '<b>'\n");
    expect(element.querySelector(".hljs-keyword")?.textContent).toBe("def");
    expect(element.querySelector("button.code-copy")).not.toBeNull();
  });

  test("columns are aligned without styles", () => {
    const cells = rendered("| a | b |\n|---|--:|\n| 1 | 2 |").querySelectorAll("td");
    expect(Array.from(cells, (cell) => cell.className)).toEqual(["", "right"]);
    expect(cells[1]?.hasAttribute("style")).toBe(false);
  });

  test.each([
    ["$x^2$", "x^2", false],
    ["\\(a_1 * b_2\\)", "a_1 * b_2", false],
    ["$$\\frac{1}{2}$$", "\\frac{1}{2}", true],
    ["\\[\nE = mc^2\n\\]", "E = mc^2", true],
  ])("%j is a formula", (text, source, display) => {
    const formula = rendered(text).querySelector(".formula");
    expect(formula?.textContent).toBe(source);
    expect(formula?.classList.contains("formula-display")).toBe(display);
  });

  test.each(["It costs $5 and $6.", "from $ 1 to $ 2", "`$x$`", "\\$x$"])("%j is no formula", (text) => {
    expect(rendered(text).querySelector(".formula")).toBeNull();
  });
});

describe("a growing text", () => {
  const TEXT = "# Title\n\nFirst *paragraph*.\n\n- one\n- two\n\n```js\nlet x = 1;\n\nlet y;\n```\n\nLast $x$ [ref].\n\n[ref]: https://ok.example\n";

  test("ends as the same page as the whole text at once", () => {
    const renderer = new BlockRenderer();
    for (let length = 0; length <= TEXT.length; length++) renderer.render(TEXT.slice(0, length));
    const link = renderer.render(TEXT).map(({ html }) => html);
    expect(link).toEqual(new BlockRenderer().render(TEXT).map(({ html }) => html));
  });

  test("leaves the blocks alone that are complete", () => {
    const renderer = new BlockRenderer();
    const before = renderer.render("# Title\n\nFirst.\n\nSec");
    const after = renderer.render("# Title\n\nFirst.\n\nSecond and more");
    expect(after[0]).toBe(before[0]);
    expect(after[1]).toBe(before[1]);
    expect(after[2]).not.toBe(before[2]);
  });

  test("carriage returns change nothing", () => {
    const html = (text: string) => new BlockRenderer().render(text).map((block) => block.html);
    expect(html("a\r\n\r\nb")).toEqual(html("a\n\nb"));
  });
});
