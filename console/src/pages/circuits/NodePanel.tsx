import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { DataTable } from "../../components/DataTable";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { formatPlace } from "../../url/codec";
import { update } from "../../url/place";
import type { Circuit } from "./chosenCircuit";
import { nodesOf } from "./graphNodes";

interface Props {
  circuit: Circuit;
  of: { run: string; circuit: string; selection: string; size: number };
  name: string;
  shown: Rows | undefined;
}

/** The edges into and out of a node of the circuit, those too that the picture leaves out; a click goes to the other end. */
export function NodePanel({ circuit, of, name, shown }: Props) {
  const answer = useRows("circuit/node", { ...of, name });
  const rows = answer.data;
  const node = shown ? nodesOf(shown).find((each) => each.name === name) : undefined;
  const head = node?.kind === "head" ? { l: String(node.layer), h: String(node.head) } : null;
  const first = useRows("examples", head ? { run: circuit.source, limit: 1 } : null);
  const example = first.data && first.data.length > 0 ? first.data.text(0, "example_id") : undefined;
  return (
    <Panel
      title={name}
      name="node"
      className="grow circuit-node"
      note={
        rows
          ? `${inShort(Number(rows.notes["n_in"]))} edges in, ${inShort(Number(rows.notes["n_out"]))} out; ${inShort(rows.length)} of ${inShort(rows.notes.total ?? rows.length)} shown, the largest scores first`
          : null
      }
      rows={() => rows}
      ways={{ sql: rows?.notes.sql?.[0] }}
      controls={
        head ? (
          <>
            {example === undefined ? null : <a href={formatPlace({ page: "attention", parts: [circuit.source, example, "0"], params: head })}>Attention</a>}
            <a href={formatPlace({ page: "heads", parts: [circuit.source], params: head })}>Heads</a>
            <a href={formatPlace({ page: "effects", parts: [circuit.source], params: head })}>Effects</a>
          </>
        ) : null
      }
    >
      <Show answer={answer}>
        {(found) => (
          <DataTable
            rows={found}
            label={`Edges of ${name}`}
            columns={["way", "source", "sink", "score", "low", "high", "rank", "selection_frequency", "exact_effect"].filter((column) => column !== "exact_effect" || someHave(found, column))}
            render={Object.fromEntries(["score", "low", "high", "exact_effect"].map((column) => [column, (value) => inShort(typeof value === "number" ? value : null)]))}
            onChoose={(row) => {
              const other = found.text(row, "way") === "in" ? found.text(row, "source") : (found.text(row, "sink").split(/[.–]/)[0] ?? "");
              update({ node: other, l: found.number(row, "layer") ?? undefined, h: found.number(row, "head") ?? undefined });
            }}
          />
        )}
      </Show>
    </Panel>
  );
}

function someHave(rows: Rows, column: string): boolean {
  return Array.from({ length: rows.length }, (_, row) => rows.get(row, column)).some((value) => value !== null);
}
