import { useState } from "react";
import { getRows } from "../../api/client";
import { useServerState, type SavedQuery } from "../../api/state";
import { useAnswer } from "../../api/useAnswer";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useStore } from "../../env/store";
import { useKey } from "../../keys/keys";
import { ask, asked, askSaved, letGo } from "../../selection/asked";
import { Conditions } from "./Conditions";
import { conditionsAsText, conditionsIn } from "../../selection/conditions";
import { focus } from "../../selection/selection";
import { usePlace, update } from "../../url/place";
import { ColumnPanel } from "./ColumnPanel";
import { Examples } from "./Examples";
import { History } from "./History";
import { rememberQuestion } from "./history";
import { RowPanel } from "./RowPanel";
import { RowsPanel } from "./RowsPanel";
import { SavedQueries } from "./SavedQueries";
import { SqlEditor } from "./SqlEditor";

/** Questions: written in SQL or saved, their rows, how a column of them is distributed, and where each row leads. */
export function AskPage() {
  const { params } = usePlace();
  const question = useStore(asked);
  const row = useStore(focus);
  const state = useServerState();
  const runs = useAnswer("runs", (signal) => getRows("runs", {}, signal));
  const [side, setSide] = useState<"saved" | "history">("saved");
  const [draft, setDraft] = useDraft(params["q"] ?? "");
  const conditions = conditionsIn(params["where"]);

  const askText = (sql: string) => {
    if (sql.trim() === "") return;
    rememberQuestion(sql);
    setDraft(sql);
    if (sql === params["q"] && conditions.length === 0) void ask(sql);
    else update({ q: sql, where: undefined, row: undefined, col: undefined, log: undefined });
  };
  const askSavedQuery = async (query: SavedQuery, values: Record<string, string>) => {
    const sql = await askSaved(query.name, values);
    if (sql === undefined) return;
    rememberQuestion(sql);
    setDraft(sql);
    update({ q: sql, where: undefined, row: undefined, col: undefined, log: undefined });
  };
  const narrow = (changed: readonly string[]) => update({ where: conditionsAsText([...new Set(changed)]), row: undefined });
  useKey("Ctrl+Enter", "ask the question", () => askText(draft));

  const shown = params["q"] === undefined && question?.saved === undefined ? null : question;
  const rows = shown?.rows;
  const column = params["col"];
  const chosen = rows && row >= 0 && row < rows.length ? row : undefined;
  const showColumn = rows && column !== undefined && rows.has(column);
  return (
    <div className="columns ask">
      <Panel
        title={<Tabs side={side} onSide={setSide} />}
        name="saved queries"
        className="ask-side"
      >
        {side === "history" ? (
          <History onAsk={askText} />
        ) : (
          <Show answer={state}>
            {({ queries }) => <SavedQueries queries={queries} runs={runs.data} onAsk={(query, values) => void askSavedQuery(query, values)} />}
          </Show>
        )}
      </Panel>
      <div className="stack grow">
        <Panel
          title="Question"
          name="question"
          className="question"
          controls={
            <>
              {params["q"] === undefined ? null : (
                <button
                  type="button"
                  className="quiet"
                  onClick={() => {
                    letGo();
                    setDraft("");
                    update({ q: undefined, where: undefined, row: undefined, col: undefined, log: undefined });
                  }}
                >
                  Clear
                </button>
              )}
              <button type="button" className="primary" onClick={() => askText(draft)} title="Ctrl+Enter" disabled={draft.trim() === ""}>
                Ask
              </button>
            </>
          }
        >
          <SqlEditor text={draft} onText={setDraft} onAsk={() => askText(draft)} schema={state.data?.schema ?? []} error={shown?.error} />
        </Panel>
        <Conditions conditions={conditions} onChange={narrow} />
        <RowsPanel
          asked={shown}
          chosen={chosen}
          onChoose={(at) => update({ row: at }, "replace")}
          onColumn={(name) => update({ col: name === column ? undefined : name, log: undefined }, "replace")}
        >
          <Examples onAsk={askText} />
        </RowsPanel>
      </div>
      {showColumn || chosen !== undefined ? (
        <div className="stack ask-detail">
          {showColumn ? <ColumnPanel key={column} rows={rows} name={column} onNarrow={(condition) => narrow([...conditions, condition])} /> : null}
          {chosen !== undefined ? <RowPanel rows={rows as NonNullable<typeof rows>} row={chosen} /> : null}
        </div>
      ) : null}
    </div>
  );
}

function Tabs({ side, onSide }: { side: "saved" | "history"; onSide: (side: "saved" | "history") => void }) {
  return (
    <span className="choice">
      {(["saved", "history"] as const).map((name) => (
        <button type="button" key={name} aria-pressed={side === name} onClick={() => onSide(name)}>
          {name === "saved" ? "Saved" : "History"}
        </button>
      ))}
    </span>
  );
}

/** The text of the editor: what is being written, until the address has another question. */
function useDraft(question: string): [string, (text: string) => void] {
  const [draft, setDraft] = useState({ of: question, text: question });
  if (draft.of !== question) setDraft({ of: question, text: question });
  return [draft.of === question ? draft.text : question, (text) => setDraft({ of: question, text })];
}

