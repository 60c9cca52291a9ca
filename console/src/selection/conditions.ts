// A question and the conditions that narrow its rows, as SQL and as the address carries them.

import type { Value } from "../api/rows";

/** A question with its conditions as one statement. */
export function narrowed(question: string, conditions: readonly string[]): string {
  if (conditions.length === 0) return question;
  const inner = question.trim().replace(/;+$/, "");
  return `SELECT * FROM (\n${inner}\n) WHERE ${conditions.map((condition) => `(${condition})`).join(" AND ")}`;
}

/** The conditions of an address: one a line. */
export function conditionsIn(text: string | undefined): string[] {
  return (text ?? "").split("\n").filter((line) => line.trim() !== "");
}

export function conditionsAsText(conditions: readonly string[]): string | undefined {
  return conditions.length === 0 ? undefined : conditions.join("\n");
}

/** Numbers from `low` on, up to `high`: which is one of them where `closed` is set. */
export function between(column: string, low: string, high: string, closed: boolean): string {
  return closed ? `${quoted(column)} BETWEEN ${low} AND ${high}` : `${quoted(column)} >= ${low} AND ${quoted(column)} < ${high}`;
}

export function equals(column: string, value: Value): string {
  return value === null ? `${quoted(column)} IS NULL` : `${quoted(column)} = ${literal(value)}`;
}

function quoted(name: string): string {
  return `"${name.replace(/"/g, '""')}"`;
}

/** A value as SQL has it, on one line. */
export function literal(value: Value): string {
  if (value === null) return "NULL";
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : `'${value}'::DOUBLE`;
  if (typeof value === "boolean") return String(value);
  if (value instanceof Date) return `TIMESTAMP '${value.toISOString().replace("T", " ").replace("Z", "")}'`;
  const text = typeof value === "string" ? value : JSON.stringify(value);
  if (!/[\n\r]/.test(text)) return `'${text.replace(/'/g, "''")}'`;
  return `E'${text.replace(/[\\']/g, "\\$&").replace(/\n/g, "\\n").replace(/\r/g, "\\r")}'`;
}
