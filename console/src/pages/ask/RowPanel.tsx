import type { Rows } from "../../api/rows";
import { Facts } from "../../components/Facts";
import { asText, visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { linksOf } from "../../selection/places";
import { PREDICTIONS } from "./Cards";
import { KEYS, keyOf } from "../../selection/selection";
import { commonOf, formatPlace } from "../../url/codec";
import { usePlace, update } from "../../url/place";

/** One row in full, and the pages that its keys lead to. */
export function RowPanel({ rows, row }: { rows: Rows; row: number }) {
  const place = usePlace();
  const kept = commonOf(place);
  const key = keyOf(rows, row);
  const links = linksOf(key, kept);
  const named = KEYS.flatMap((name) => (key[name] === undefined ? [] : [[name, String(key[name])] as const]));
  const others = rows.names.filter((name) => !(name in key));
  return (
    <Panel
      title={`Row ${(row + 1).toLocaleString("en-US")}`}
      name="row"
      controls={
        <button type="button" className="quiet" aria-label="Close the row" onClick={() => update({ row: undefined }, "replace")}>
          ✕
        </button>
      }
    >
      <div className="padded row-detail">
        {links.length > 0 ? (
          <nav aria-label="Where this row is">
            {links.map(({ title, place }) => (
              <a key={title} href={formatPlace(place)}>
                {title}
              </a>
            ))}
          </nav>
        ) : null}
        {named.length > 0 ? <Facts of={named} /> : null}
        <hr />
        {key.pos !== undefined && PREDICTIONS.some((name) => rows.has(name)) ? (
          <p className="muted">What is predicted at a position, and the loss there, are of the token after it.</p>
        ) : null}
        <Facts of={others.map((name) => [name, visibleIn(name, asText(rows.get(row, name)))] as const)} />
      </div>
    </Panel>
  );
}

function visibleIn(name: string, text: string): string {
  return name.endsWith("token") ? visible(text) : text;
}
