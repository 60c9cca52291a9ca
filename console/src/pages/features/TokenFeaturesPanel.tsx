import type { ReactNode } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { inShort, visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { commonOf, formatPlace, withParams } from "../../url/codec";
import { usePlace } from "../../url/place";
import type { Encoded, Token } from "./encoded";

interface Props {
  of: Encoded;
  feature: number | undefined;
  token: Token | undefined;
  tabs: ReactNode;
}

/** The features that are active at the chosen token, the strongest first; each leads to itself. */
export function TokenFeaturesPanel({ of, feature, token, tabs }: Props) {
  const place = usePlace();
  const answer = useRows("features/token", token ? { run: of.run, sae: of.sae, example: token.example, seq: token.seq, pos: token.pos } : null);
  const rows = answer.data;
  const text = rows?.notes["token"];
  const side: Record<string, string> = of.side === "dec" ? {} : { side: of.side };
  return (
    <Panel
      title="At a token"
      name="token"
      className="features-detail"
      note={rows ? `${inShort(rows.length)} of ${inShort(rows.notes.total ?? rows.length)} shown` : null}
      rows={() => rows}
      ways={{ sql: rows?.notes.sql?.at(-1) }}
    >
      <div className="told">{tabs}</div>
      {token === undefined ? (
        <p className="padded muted">Choose a token in a context: the features that are active at it are shown here.</p>
      ) : (
        <Show answer={answer}>
          {(found) => (
            <div className="padded">
              <p>
                <code>{typeof text === "string" ? visible(text) : ""}</code>{" "}
                <a href={formatPlace({ page: "text", parts: [of.source, token.example, String(token.seq)], params: { ...commonOf(place), ...side, pos: String(token.pos) } })}>
                  {token.example}, pos {token.pos}: open in Text
                </a>
              </p>
              {found.length === 0 ? <p className="muted">No feature is active here.</p> : <List rows={found} feature={feature} href={(f) => formatPlace(withParams(place, { f }))} />}
            </div>
          )}
        </Show>
      )}
    </Panel>
  );
}

function List({ rows, feature, href }: { rows: Rows; feature: number | undefined; href: (feature: number) => string }) {
  const most = rows.number(0, "activation") ?? 1;
  return (
    <ol className="topk" aria-label="Features of the token">
      {Array.from({ length: rows.length }, (_, row) => {
        const [each, activation] = [rows.number(row, "feature") ?? 0, rows.number(row, "activation") ?? 0];
        return (
          <li key={each} className={each === feature ? "actual" : undefined}>
            <a href={href(each)} aria-current={each === feature ? "true" : undefined}>
              {each}
            </a>
            <span className="bar" aria-hidden="true">
              <i style={{ width: `${Math.max((activation / most) * 100, 0)}%` }} />
            </span>
            <span className="number">{inShort(activation)}</span>
          </li>
        );
      })}
    </ol>
  );
}
