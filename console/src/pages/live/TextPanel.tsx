import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { Legend } from "../../components/Legend";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { Strip } from "../../components/Strip";
import { TopK } from "../../components/TopK";
import { TokenTip } from "../../texts/TokenTip";
import { stripTokens } from "../../texts/tokens";
import { formatPlace } from "../../url/codec";
import { go } from "../../url/place";
import { byColumn } from "../text/colouring";
import { useExpected } from "./useExpected";

interface Props {
  run: string;
  example: string;
  note: string;
  main: boolean;
}

/** A text of a live run, coloured by the loss of each token, and what the model expects after it. */
export function TextPanel({ run, example, note, main }: Props) {
  const answer = useRows("strip", { run, example, seq: 0 });
  const parts = [run, example, "0"];
  return (
    <Panel
      title={run}
      name={`${run} ${example}`}
      note={note}
      main={main}
      rows={() => answer.data}
      ways={{
        sql: answer.data?.notes.sql?.[0],
        python: `wh.run("${run}").query("FROM next_token WHERE example_id = '${example}' ORDER BY pos").df()`,
        command: `traces sql "FROM token_diagnostics WHERE run_id = '${run}' AND example_id = '${example}' ORDER BY pos"`,
      }}
      controls={
        <>
          <a href={formatPlace({ page: "text", parts, params: {} })}>Text</a>
          <a href={formatPlace({ page: "attention", parts, params: {} })}>Attention</a>
        </>
      }
    >
      <Show answer={answer}>{(rows) => <Shown rows={rows} run={run} example={example} />}</Show>
    </Panel>
  );
}

function Shown({ rows, run, example }: { rows: Rows; run: string; example: string }) {
  const expected = useExpected(run, example, rows, rows.length - 1);
  const tokens = useMemo(() => stripTokens(rows), [rows]);
  const colouring = useMemo(() => byColumn("loss", rows), [rows]);
  return (
    <div className="live-shown">
      <Legend scale={colouring.scale} label={colouring.label} ends={colouring.ends} />
      <Strip
        tokens={tokens}
        values={colouring.values}
        scale={colouring.scale}
        label={`Tokens of ${run}, coloured by ${colouring.label}`}
        tell={(pos) => <TokenTip rows={rows} pos={pos} />}
        onChoose={(pos) => go({ page: "text", parts: [run, example, "0"], params: { pos: String(pos) } })}
      />
      {expected.length > 0 ? (
        <>
          <h3>Expected next</h3>
          <TopK guesses={expected} />
        </>
      ) : null}
    </div>
  );
}
