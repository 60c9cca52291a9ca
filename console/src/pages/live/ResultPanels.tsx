import { useJson, useRows } from "../../api/useRows";
import { Problem } from "../../components/Empty";
import { Show } from "../../components/Show";
import { ChangePanel } from "./ChangePanel";
import { TextPanel } from "./TextPanel";

interface Props {
  run: string | undefined;
  example: string | undefined;
  vs: string | undefined;
}

interface Manifest {
  manifest: { kind: string; options: { interventions?: string[]; coefficients?: number[] } };
}

/** How many texts of a run are shown below each other: a live run has one or two. */
const MOST = 4;

/** The run that came last, or the one of the address: its texts, or what a cut changed. */
export function ResultPanels({ run, example, vs }: Props) {
  const manifest = useJson<Manifest>("manifest", run === undefined ? null : { run });
  const examples = useRows("examples", run === undefined ? null : { run, limit: MOST });
  if (run === undefined)
    return (
      <section className="panel grow" aria-label="result">
        <p className="padded muted">What the model reads or writes appears here, and stays as a run of the warehouse.</p>
      </section>
    );
  if (manifest.error) return <Problem error={manifest.error} />;
  const { interventions, coefficients } = manifest.data?.manifest.options ?? {};
  if (vs !== undefined && example !== undefined) return <ChangePanel run={run} clean={vs} example={example} interventions={interventions ?? []} />;
  return (
    <Show answer={examples}>
      {(rows) => {
        const all = Array.from({ length: rows.length }, (_, row) => rows.text(row, "example_id"));
        const total = rows.notes.total ?? all.length;
        const shown = total <= MOST || example === undefined ? all : [example];
        return (
          <>
            {shown.map((id, at) => (
              <TextPanel key={`${run} ${id}`} run={run} example={id} note={noteOf(coefficients, at)} main={at === 0} />
            ))}
            {shown.length < total ? (
              <p className="muted">
                {shown.length} of {total.toLocaleString("en-US")} texts shown
              </p>
            ) : null}
          </>
        );
      }}
    </Show>
  );
}

/** What was added to the model for one of the texts of a steered run. */
function noteOf(coefficients: number[] | undefined, at: number): string {
  const coefficient = coefficients?.[at];
  if (coefficient === undefined) return "";
  return coefficient === 0 ? "as the model is" : `steered, coefficient ${coefficient}`;
}
