// The page of `traces console export`: one script and one style sheet, which Python puts into one file with its data.
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  build: {
    outDir: "../warehouse/console/static/export",
    emptyOutDir: true,
    cssCodeSplit: false,
    modulePreload: false,
    rolldownOptions: {
      input: "src/export/main.tsx",
      output: { format: "iife", entryFileNames: "export.js", assetFileNames: "export[extname]" },
    },
  },
});
