import type { Rows } from "../../api/rows";
import { inShort, percent, visible } from "../../components/numbers";

/** What both runs make of a segment, side by side. */
export function SegmentTip({ rows, segment, a, b }: { rows: Rows; segment: number; a: string; b: string }) {
  return (
    <div className="segment-tip">
      <p>
        <code>{visible(rows.text(segment, "text"))}</code>
      </p>
      <SegmentTable rows={rows} segment={segment} a={a} b={b} />
    </div>
  );
}

export function SegmentTable({ rows, segment, a, b }: { rows: Rows; segment: number; a: string; b: string }) {
  const value = (name: string, unit = "") => {
    const of = (side: string) => {
      const number = rows.number(segment, `${side}_${name}`);
      return number === null ? "none" : name === "prob" ? percent(number) : `${inShort(number)}${unit}`;
    };
    const difference = rows.number(segment, `${name}_difference`);
    return [of("a"), of("b"), difference === null ? "" : inShort(difference)] as const;
  };
  const lines: (readonly [string, readonly [string, string, string]])[] = [
    ["loss, nats", value("loss")],
    ["entropy, nats", value("entropy")],
    ["probability", value("prob")],
    ["rank", [inShort(rows.number(segment, "a_rank")), inShort(rows.number(segment, "b_rank")), ""]],
    ["predicted", [predicted(rows, segment, "a"), predicted(rows, segment, "b"), rows.get(segment, "top1_changed") === true ? "another token" : ""]],
  ];
  const kl = rows.number(segment, "kl");
  if (kl !== null) lines.push(["KL, nats", ["", "", inShort(kl)]]);
  return (
    <table className="compared">
      <thead>
        <tr>
          <td />
          <th scope="col">{a}</th>
          <th scope="col">{b}</th>
          <th scope="col">difference</th>
        </tr>
      </thead>
      <tbody>
        {lines.map(([name, values]) => (
          <tr key={name}>
            <th scope="row">{name}</th>
            {values.map((text, at) => (
              <td key={at}>{text}</td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function predicted(rows: Rows, segment: number, side: "a" | "b"): string {
  const token = rows.get(segment, `${side}_pred_token`);
  return typeof token === "string" ? visible(token) : "";
}
