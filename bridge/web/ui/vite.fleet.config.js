import { defineConfig } from "vite";

// The page for a fleet, which internal/fleetui serves: apart from the dashboard, whose bundle it leaves as it is.
export default defineConfig({
  root: "fleet",
  base: "./",
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: { outDir: "../../../../internal/fleetui/dist", emptyOutDir: true, assetsInlineLimit: 0, modulePreload: { polyfill: false }, target: "es2022" },
});
