// Rows as the server sends them: an Arrow stream, read column by column.

import { tableFromIPC, Type, type Column as ArrowColumn } from "@uwdata/flechette";

export type Value = string | number | boolean | Date | null | Value[] | { [key: string]: Value };
export type Kind = "number" | "text" | "truth" | "time" | "other";

export interface Notes {
  /** The statements that made the rows, as a reader could ask them. */
  sql?: string[];
  /** How many rows there are in all, where not all were sent. */
  total?: number;
  /** Why not all were sent. */
  rule?: string;
  [key: string]: unknown;
}

export class Rows {
  readonly length: number;
  readonly names: readonly string[];
  readonly notes: Notes;
  readonly #columns: Map<string, ArrayLike<Value>>;
  readonly #kinds: Map<string, Kind>;

  constructor(columns: [string, ArrayLike<Value>, Kind][], notes: Notes = {}) {
    this.#columns = new Map(columns.map(([name, values]) => [name, values]));
    this.#kinds = new Map(columns.map(([name, , kind]) => [name, kind]));
    this.names = columns.map(([name]) => name);
    this.length = columns[0]?.[1].length ?? 0;
    this.notes = notes;
  }

  has(name: string): boolean {
    return this.#columns.has(name);
  }

  kind(name: string): Kind {
    return this.#kinds.get(name) ?? "other";
  }

  column(name: string): ArrayLike<Value> {
    const values = this.#columns.get(name);
    if (!values) throw new Error(`The rows have no column ${name}.`);
    return values;
  }

  get(row: number, name: string): Value {
    return this.#columns.get(name)?.[row] ?? null;
  }

  number(row: number, name: string): number | null {
    const value = this.get(row, name);
    return typeof value === "number" ? value : null;
  }

  text(row: number, name: string): string {
    const value = this.get(row, name);
    return typeof value === "string" ? value : "";
  }

  row(row: number): Record<string, Value> {
    return Object.fromEntries(this.names.map((name) => [name, this.get(row, name)]));
  }
}

export function rowsFromArrow(bytes: ArrayBuffer): Rows {
  const table = tableFromIPC(bytes, { useDate: true, useProxy: false });
  const columns = table.schema.fields.map((field, place): [string, ArrayLike<Value>, Kind] => {
    const column: ArrowColumn<Value> = table.getChildAt(place);
    return [field.name, column.toArray(), kindOf(field.type.typeId)];
  });
  return new Rows(columns, notesOf(table.schema.metadata));
}

function notesOf(metadata: Map<string, string> | null | undefined): Notes {
  const text = metadata?.get("console");
  return text ? (JSON.parse(text) as Notes) : {};
}

function kindOf(type: number): Kind {
  switch (type) {
    case Type.Int:
    case Type.Float:
    case Type.Decimal:
      return "number";
    case Type.Utf8:
    case Type.LargeUtf8:
    case Type.Dictionary:
      return "text";
    case Type.Bool:
      return "truth";
    case Type.Timestamp:
    case Type.Date:
      return "time";
    default:
      return "other";
  }
}
