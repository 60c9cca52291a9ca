// What a view holds, as files: rows as CSV, a drawn part of the page as PNG.

import type { Rows } from "../api/rows";
import { asCsv } from "./csv";

export function saveCsv(rows: Rows, name: string): void {
  save(new Blob([asCsv(rows)], { type: "text/csv;charset=utf-8" }), `${name}.csv`);
}

export async function savePng(element: HTMLElement, name: string): Promise<void> {
  const { toBlob } = await import("html-to-image");
  const blob = await toBlob(element, {
    pixelRatio: 2,
    skipFonts: true,
    backgroundColor: getComputedStyle(document.body).backgroundColor,
    filter: (node) => !(node instanceof HTMLElement && node.dataset["unsaved"] !== undefined),
  });
  if (blob) save(blob, `${name}.png`);
}

function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\w.-]+/g, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
