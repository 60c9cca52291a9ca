import type { ReactNode } from "react";
import type { Rows, Value } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { Choice } from "../../components/Choice";
import { DataTable } from "../../components/DataTable";
import { inShort, percent } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useKey } from "../../keys/keys";
import { withParams } from "../../url/codec";
import { currentPlace, go, update } from "../../url/place";

interface Props {
  answer: Answer<Rows>;
  run: string;
  example: string | undefined;
  show: string;
  order: string;
  chooser: ReactNode;
}

const ORDERS = [
  ["place", "place"],
  ["margin", "closest"],
  ["entropy", "least sure"],
  ["confidence", "most sure"],
] as const;
const COLUMNS = ["is_correct", "pred_label", "label", "pred_prob", "margin", "entropy", "text"];

interface Counts {
  all: number;
  right: number;
  wrong: number;
  unknown: number;
}

/** The questions of a run: which it got right, and how sure it was. */
export function QuestionsPanel({ answer, run, example, show, order, chooser }: Props) {
  const rows = answer.data;
  const counts = rows?.notes["counts"] as Counts | undefined;
  const parts = [
    ["all", `all ${inShort(counts?.all)}`],
    ["right", `right ${inShort(counts?.right)}`],
    ["wrong", `wrong ${inShort(counts?.wrong)}`],
    ...(counts && counts.unknown > 0 ? ([["unknown", `no key ${inShort(counts.unknown)}`]] as const) : []),
  ] as const;
  const at = rows ? Array.from({ length: rows.length }, (_, row) => row).find((row) => rows.text(row, "example_id") === example) : undefined;
  const choose = (row: number) => {
    if (rows && row >= 0 && row < rows.length) go(withParams({ ...currentPlace(), parts: [run, rows.text(row, "example_id")] }, {}));
  };
  useKey("ArrowDown", "the next question", () => choose((at ?? -1) + 1), rows !== undefined);
  useKey("ArrowUp", "the question before", () => choose((at ?? 1) - 1), rows !== undefined);
  return (
    <Panel
      title="Questions"
      name="questions"
      className="choices-list"
      note={rows ? noteOf(rows) : null}
      rows={() => rows}
      ways={{
        sql: rows?.notes.sql?.at(-1),
        python: `wh.sql("FROM mcq_predictions WHERE run_id = '${run}'").df()`,
        command: `traces sql --query mcq_scores --set run=${run}`,
      }}
      controls={
        <>
          {chooser}
          <Choice<string> label="which questions" of={parts} chosen={show} onChoose={(next) => update({ show: next === "all" ? undefined : next }, "replace")} />
          <Choice<string> label="order" of={ORDERS} chosen={order} onChoose={(next) => update({ order: next === "place" ? undefined : next }, "replace")} />
        </>
      }
    >
      <Show answer={answer}>
        {(found) =>
          found.length === 0 ? (
            <p className="padded muted">No question is among these.</p>
          ) : (
            <div className="diff-list">
              <p className="diff-note muted">{accuracyOf(found)}</p>
              <DataTable rows={found} label="Questions" columns={COLUMNS} chosen={at} onChoose={choose} render={RENDER} />
            </div>
          )
        }
      </Show>
    </Panel>
  );
}

const number = (value: Value) => (typeof value === "number" ? inShort(value) : "");
const RENDER = {
  is_correct: (value: Value) => (value === true ? <span className="good">right</span> : value === false ? <span className="bad">wrong</span> : "no key"),
  pred_prob: (value: Value) => (typeof value === "number" ? percent(value) : ""),
  margin: number,
  entropy: number,
};

function noteOf(rows: Rows): string {
  const total = rows.notes.total ?? rows.length;
  return total > rows.length ? `${rows.length.toLocaleString("en-US")} of ${total.toLocaleString("en-US")} shown` : total.toLocaleString("en-US");
}

function accuracyOf(rows: Rows): string {
  const of = rows.notes["accuracy"] as Record<string, number | string | null>;
  const part = (name: string) => (typeof of[name] === "number" ? percent(of[name]) : "");
  const decides = `The ${of["score"] === "head" ? "head" : String(of["score"])} score decides.`;
  if (of["accuracy"] === null) return `No key is known. ${decides}`;
  return `Accuracy ${part("accuracy")} (95 % interval ${part("low")} to ${part("high")}), guessing ${part("chance")}, mean confidence ${part("mean_confidence")}. ${decides}`;
}
