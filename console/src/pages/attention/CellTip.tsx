import { useTile } from "../../api/useRows";
import type { Cell } from "../../components/Heatmap";
import { inShort, visible } from "../../components/numbers";
import type { StripToken } from "../../components/Strip";
import { asked, titleOf, type Head } from "./head";
import { probability, tokensOf, type Picture } from "./picture";

interface Props {
  picture: Picture;
  cell: Cell;
  /** Whose exact values are asked for the row: one head, or two that are compared. */
  heads: readonly Head[];
  rowTokens: readonly StripToken[];
  colTokens: readonly StripToken[];
}

/** What a cell says: which token looks at which, and how much, exactly. Of several tokens, the largest. */
export function CellTip({ picture, cell, heads, rowTokens, colTokens }: Props) {
  const [row, rowEnd] = tokensOf(picture.rows, picture.cell[0], cell.row);
  const [col, colEnd] = tokensOf(picture.cols, picture.cell[1], cell.col);
  const value = probability(picture, cell.row * picture.shape[1] + cell.col);
  if (rowEnd - row > 1 || colEnd - col > 1) {
    return (
      <p>
        rows {row}–{rowEnd - 1} look at columns {col}–{colEnd - 1}: {heads.length > 1 ? "the largest differ by" : "at most"} {inShort(value)}
      </p>
    );
  }
  return (
    <>
      <p>
        <code>{visible(rowTokens[row]?.text ?? "")}</code> <span className="muted">{row}</span> looks at <code>{visible(colTokens[col]?.text ?? "")}</code>{" "}
        <span className="muted">{col}</span>
      </p>
      {heads.map((head) => (
        <Exact key={titleOf(head, heads[0])} head={head} row={row} col={col} named={heads.length > 1} />
      ))}
      {heads.length > 1 ? <p>difference {inShort(value)}</p> : null}
    </>
  );
}

function Exact({ head, row, col, named }: { head: Head; row: number; col: number; named: boolean }) {
  const { data, current } = useTile("attn/row", { ...asked(head), pos: row });
  const value = current ? data?.values[col] : undefined;
  return (
    <p>
      {named ? `${head.run} L${head.layer}H${head.head}: ` : ""}
      <span className="number">{value === undefined ? "…" : inShort(value, 4)}</span>
    </p>
  );
}
