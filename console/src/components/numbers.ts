// Numbers and tokens as text.

import type { Value } from "../api/rows";

/** A number in at most `digits` significant digits; nothing for null. */
export function inShort(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined) return "";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(digits - 1).replace("-", "−");
  return String(Number(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(size)) + 1)))).replace("-", "−");
}

/** A part of 1 in per cent; what is nearly none or nearly all is never told as 0 or 100. */
export function percent(part: number | null | undefined): string {
  if (part === null || part === undefined) return "";
  if (part > 0 && part < 0.001) return "< 0.1 %";
  if (part > 0.999 && part < 1) return "> 99.9 %";
  return `${(part * 100).toFixed(part === 1 || (part >= 0.0995 && part < 0.995) ? 0 : 1)} %`;
}

const UNITS = ["B", "KB", "MB", "GB", "TB"];

/** A number of bytes in the unit that fits, by thousands. */
export function inBytes(bytes: number): string {
  const unit = Math.min(Math.max(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), 0), UNITS.length - 1);
  const part = bytes / 1000 ** unit;
  return `${unit === 0 || part >= 100 ? Math.round(part) : part.toFixed(1)} ${UNITS[unit] ?? ""}`;
}

/** A value of any column, as one line. */
export function asText(value: Value): string {
  if (value === null) return "";
  if (typeof value === "number") return inShort(value, 5);
  if (typeof value === "string") return value;
  if (typeof value === "boolean") return value ? "true" : "false";
  if (value instanceof Date) return value.toISOString().replace("T", " ").slice(0, 19);
  if (Array.isArray(value)) return `[${value.map(asText).join(", ")}]`;
  return JSON.stringify(value, (_, part: unknown) => (typeof part === "bigint" ? String(part) : part));
}

/** A token with its white space and control characters made visible. */
export function visible(token: string): string {
  return token === "" ? "∅" : Array.from(token, (character) => SHOWN[character] ?? (HIDDEN.test(character) ? escaped(character) : character)).join("");
}

const SHOWN: Record<string, string> = { "\n": "↵", "\t": "⇥", "\r": "␍", " ": "·" };
const HIDDEN = /\p{Cc}|\p{Cf}/u;

function escaped(character: string): string {
  return `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`;
}
