// What the editor of questions proposes: tables, the columns of those that the question reads, words of SQL.

import type { Completion, CompletionContext, CompletionResult } from "@codemirror/autocomplete";
import type { Table } from "../../api/state";

/** Names after FROM and JOIN, in small letters. */
export function tablesIn(sql: string): string[] {
  const found = Array.from(sql.matchAll(/\b(?:from|join)\s+"?([a-z_]\w*)/gi), (match) => (match[1] ?? "").toLowerCase());
  return [...new Set(found)];
}

function ofTable(table: Table): Completion {
  return { label: table.name, type: table.kind === "view" ? "interface" : "class", detail: table.kind, info: table.comment };
}

function ofColumn(table: Table, boost: number): Completion[] {
  return table.columns.map((column) => ({
    label: column.name,
    type: "property",
    detail: column.type.toLowerCase(),
    info: [table.name, column.comment].filter(Boolean).join(": "),
    boost,
  }));
}

/** Proposes tables everywhere, and columns of the tables that the question reads, before others. */
export function schemaSource(schema: readonly Table[]): (context: CompletionContext) => CompletionResult | null {
  return (context) => {
    const text = context.state.doc.toString();
    const dotted = context.matchBefore(/"?[a-z_]\w*"?\.\w*/i);
    if (dotted) {
      const [owner = ""] = dotted.text.replace(/"/g, "").toLowerCase().split(".");
      const table = schema.find((each) => each.name === aliased(text, owner));
      return table ? { from: dotted.from + dotted.text.indexOf(".") + 1, options: ofColumn(table, 0), validFor: /^\w*$/ } : null;
    }
    const word = context.matchBefore(/\w+/);
    if (!word && !context.explicit) return null;
    const read = new Set(tablesIn(text));
    const columns = schema.filter((table) => read.has(table.name)).flatMap((table) => ofColumn(table, 2));
    const once = columns.filter((column, place) => columns.findIndex((other) => other.label === column.label) === place);
    return { from: word?.from ?? context.pos, options: [...once, ...schema.map(ofTable)], validFor: /^\w*$/ };
  };
}

/** The table that a name before a dot means: itself, or what `FROM table AS name` calls so. */
export function aliased(sql: string, name: string): string {
  for (const [, table = "", alias = ""] of sql.matchAll(/\b(?:from|join)\s+"?([a-z_]\w*)"?\s+(?:as\s+)?([a-z_]\w*)/gi)) {
    if (alias.toLowerCase() === name) return table.toLowerCase();
  }
  return name;
}
