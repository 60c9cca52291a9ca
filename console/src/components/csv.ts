import type { Rows, Value } from "../api/rows";

/** Rows as RFC 4180 has them: full precision, quotes where a value needs them. */
export function asCsv(rows: Rows): string {
  const lines = [rows.names.map(field).join(",")];
  for (let row = 0; row < rows.length; row += 1) {
    lines.push(rows.names.map((name) => field(plain(rows.get(row, name)))).join(","));
  }
  return `${lines.join("\r\n")}\r\n`;
}

function plain(value: Value): string {
  if (value === null) return "";
  if (value instanceof Date) return value.toISOString();
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}

function field(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}
