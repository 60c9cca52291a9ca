// The page is built into the server's folder: wheels ship it, git does not.
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  plugins: [react()],
  build: {
    outDir: "../warehouse/console/static",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the page's security policy allows no inline scripts
    chunkSizeWarningLimit: 400,
  },
});
