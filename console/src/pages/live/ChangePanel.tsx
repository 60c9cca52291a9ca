import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { Legend } from "../../components/Legend";
import { inShort, visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { Strip } from "../../components/Strip";
import { TopK } from "../../components/TopK";
import { TokenTip } from "../../texts/TokenTip";
import { stripTokens } from "../../texts/tokens";
import { formatPlace, numberParam } from "../../url/codec";
import { update, usePlace } from "../../url/place";
import { byColumn, byDifference } from "../text/colouring";
import { useExpected } from "./useExpected";

interface Props {
  run: string;
  clean: string;
  example: string;
  interventions: readonly string[];
}

/** What a cut changed: each token by the difference of its loss, and what is expected after the chosen token, before and after. */
export function ChangePanel({ run, clean, example, interventions }: Props) {
  const cut = useRows("strip", { run, example, seq: 0 });
  const whole = useRows("strip", { run: clean, example, seq: 0 });
  return (
    <Panel
      title={`${run} − ${clean}`}
      name={`${run} against ${clean}`}
      note={interventions.join(", ")}
      main
      className="grow"
      rows={() => cut.data}
      ways={{
        sql: `SELECT a.pos, a.true_token, a.loss - b.loss AS more FROM next_token AS a JOIN next_token AS b USING (example_id, seq, pos) WHERE a.run_id = '${run}' AND b.run_id = '${clean}' AND a.example_id = '${example}' ORDER BY a.pos`,
        command: `traces sql --query disagreements --set run=${clean} --set other_run=${run}`,
      }}
      controls={
        <>
          <a href={formatPlace({ page: "diff", parts: [clean, run, example, "0"], params: {} })}>Diff</a>
          <a href={formatPlace({ page: "text", parts: [run, example, "0"], params: {} })}>Text with the cut</a>
          <a href={formatPlace({ page: "text", parts: [clean, example, "0"], params: {} })}>Text without</a>
        </>
      }
    >
      <Show answer={cut}>{(rows) => <Show answer={whole}>{(others) => <Changed run={run} clean={clean} example={example} rows={rows} others={others} />}</Show>}</Show>
    </Panel>
  );
}

interface ChangedProps {
  run: string;
  clean: string;
  example: string;
  rows: Rows;
  others: Rows;
}

function Changed({ run, clean, example, rows, others }: ChangedProps) {
  const chosen = Math.min(numberParam(usePlace(), "pos") ?? rows.length - 1, rows.length - 1);
  const before = useExpected(clean, example, others, chosen);
  const after = useExpected(run, example, rows, chosen);
  const tokens = useMemo(() => stripTokens(rows), [rows]);
  const colouring = useMemo(() => byDifference(rows, others, clean) ?? byColumn("none", rows), [rows, others, clean]);
  const sum = colouring.values.reduce((total, value) => total + (Number.isNaN(value) ? 0 : value), 0);
  const came = chosen + 1 < rows.length ? rows.text(chosen + 1, "token") : undefined;
  return (
    <div className="live-shown">
      <Legend scale={colouring.scale} label={colouring.label} />
      <p className="muted">With the cut, the text costs {inShort(sum)} nats more.</p>
      <Strip
        tokens={tokens}
        values={colouring.values}
        scale={colouring.scale}
        label={`Tokens coloured by ${colouring.label}`}
        chosen={chosen}
        tell={(pos) => <TokenTip rows={rows} pos={pos} value={[colouring.label, inShort(colouring.values[pos] ?? NaN)]} />}
        onChoose={(pos) => update({ pos })}
      />
      <h3>
        Expected after <code>{visible(rows.text(chosen, "token"))}</code>
        {came === undefined ? null : (
          <>
            {" "}
            (came <code>{visible(came)}</code>)
          </>
        )}
      </h3>
      <div className="columns live-both">
        <section aria-label="without the cut">
          <h4>as the model is</h4>
          <TopK guesses={before} actual={came} />
        </section>
        <section aria-label="with the cut">
          <h4>with the cut</h4>
          <TopK guesses={after} actual={came} />
        </section>
      </div>
    </div>
  );
}
