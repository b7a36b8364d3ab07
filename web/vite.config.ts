// How the page is built: everything from this origin, nothing inline (the Content-Security-Policy forbids it), flat
// hashed files that the server lets browsers keep for ever. `CADRAN_SERVER` names the server that `npm run dev` asks.
import { svelte } from "@sveltejs/vite-plugin-svelte";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const server = process.env["CADRAN_SERVER"] ?? "http://127.0.0.1:8000";

// Every browser that runs this page reads WOFF2: KaTeX's other two copies of each font stay away.
const onlyWoff2: Plugin = {
  name: "only-woff2",
  enforce: "pre",
  transform(code, id) {
    return /katex.*\.css/.test(id) ? code.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("\w+"\)/g, "") : null;
  },
};

export default defineConfig({
  plugins: [svelte(), onlyWoff2],
  base: "./",
  build: {
    outDir: process.env["CADRAN_WEB_OUT"] ?? "../src/cadran/serve/web_assets",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700,
  },
  server: { proxy: { "/v1": server, "/api": server, "/health": server } },
  // One process for all: starting one for each file takes longer than the tests.
  test: { include: ["tests/**/*.test.ts"], isolate: false, fileParallelism: false },
});
