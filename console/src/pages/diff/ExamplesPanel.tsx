import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { Choice } from "../../components/Choice";
import { DataTable } from "../../components/DataTable";
import { inShort, visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { withParams } from "../../url/codec";
import { currentPlace, go, update } from "../../url/place";
import { RunPair } from "./RunPair";

interface Props {
  answer: Answer<Rows>;
  a: string;
  b: string;
  example: string | undefined;
  order: string;
}

const ORDERS = [
  ["difference", "mean"],
  ["token", "one token"],
  ["place", "place"],
] as const;
const SAME = ["difference", "a_loss", "b_loss", "largest", "at_token", "text"];
const OTHER = ["difference", "a_bits", "b_bits", "text", "a_tokens", "b_tokens", "same_tokens"];

/** The examples that both runs have, those that differ most first. */
export function ExamplesPanel({ answer, a, b, example, order }: Props) {
  const rows = answer.data;
  const query = { run: a, other_run: b };
  return (
    <Panel
      title="Examples in both"
      name="examples in both"
      className="diff-examples"
      note={rows ? countOf(rows) : null}
      rows={() => rows}
      ways={{
        sql: rows?.notes.sql?.at(-1),
        python: `wh.query("compare_runs", ${Object.entries(query).map(([name, run]) => `${name}="${run}"`).join(", ")}).df()`,
        command: `traces sql --query compare_runs ${Object.entries(query).map(([name, run]) => `--set ${name}=${run}`).join(" ")}`,
      }}
      controls={
        <>
          <RunPair a={a} b={b} />
          <label className="field">
            <span className="muted">by</span>
            <Choice label="order" of={ORDERS} chosen={ORDERS.map(([name]) => name).find((name) => name === order) ?? "difference"} onChoose={(next) => update({ order: next }, "replace")} />
          </label>
        </>
      }
    >
      <Show answer={answer}>
        {(found) => (
          <div className="diff-list">
            <p className="diff-note muted">{unitOf(found, a, b)}</p>
            <DataTable
              rows={found}
              label="Examples in both"
              columns={found.notes["all_same"] === true ? SAME : OTHER}
              render={{ ...NUMBERS, at_token: (value) => (typeof value === "string" ? visible(value) : ""), same_tokens: (value) => (value === true ? "yes" : "no") }}
              chosen={Array.from({ length: found.length }, (_, row) => row).find((row) => found.text(row, "example_id") === example)}
              onChoose={(row) => go(withParams({ ...currentPlace(), parts: [a, b, found.text(row, "example_id")] }, { pos: undefined }))}
            />
          </div>
        )}
      </Show>
    </Panel>
  );
}

const NUMBERS = Object.fromEntries(
  ["difference", "a_loss", "b_loss", "a_bits", "b_bits", "largest"].map((name) => [
    name,
    (value: unknown) => (typeof value === "number" ? inShort(value) : ""),
  ]),
);

function countOf(rows: Rows): string {
  const total = rows.notes.total ?? rows.length;
  return total > rows.length ? `${rows.length.toLocaleString("en-US")} of ${total.toLocaleString("en-US")}: ${rows.notes.rule ?? ""}` : total.toLocaleString("en-US");
}

function unitOf(rows: Rows, a: string, b: string): string {
  const what = rows.notes["all_same"] === true ? "Mean loss and largest difference of one token, nats" : "Bits by byte of text, which models with different tokenizers share";
  return `${what}; difference: ${a} − ${b}, above 0 where the text costs ${a} more.`;
}
