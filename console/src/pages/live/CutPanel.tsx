import { NumberField } from "../../components/NumberField";
import { Panel } from "../../components/Panel";
import { useStore } from "../../env/store";
import { change, draft, withCut } from "./draft";
import { written, type About, type Cut } from "./live";
import { useSubmit } from "./useSubmit";

interface Props {
  about: About | null;
  model: string;
  busy: boolean;
  run: string | undefined;
  example: string | undefined;
}

/** Parts of the model that are to add nothing while the text at hand is read again. */
export function CutPanel({ about, model, busy, run, example }: Props) {
  const { cuts, next } = useStore(draft);
  const { what, layer, head } = next;
  const set = (part: Partial<typeof next>) => change({ next: { ...next, ...part } });
  const [hand, problem] = useSubmit();
  const cut: Cut = what === "head" ? { what, layer, head } : { what, layer };
  const at = run !== undefined && example !== undefined ? { run, example } : null;
  const chosen = cuts.length > 0 ? cuts : [cut];
  const specs = chosen.map((each) => `"${written(each)}=zero"`).join(", ");
  return (
    <Panel
      title="Cut"
      name="cut"
      ways={at ? { python: `capture.next_token_under(capture.load(${JSON.stringify(model)}), "${at.run}", ${specs}, examples=["${at.example}"])` } : {}}
    >
      <div className="padded live-form">
        <div className="live-fields">
          <select aria-label="what is cut" value={what} onChange={(event) => set({ what: event.target.value as Cut["what"] })}>
            <option value="head">head</option>
            <option value="attention">attention</option>
            <option value="mlp">MLP</option>
          </select>
          <NumberField label="layer" value={layer} most={(about?.layers ?? 10000) - 1} onChange={(to) => set({ layer: to })} />
          {what === "head" ? <NumberField label="head" value={head} most={(about?.heads ?? 10000) - 1} onChange={(to) => set({ head: to })} /> : null}
          <button type="button" onClick={() => change({ cuts: withCut(cuts, cut) })}>
            Add
          </button>
        </div>
        {cuts.length > 0 ? (
          <div className="live-fields" role="group" aria-label="what is cut together">
            {cuts.map((each) => (
              <span key={written(each)} className="chip">
                <code>{written(each)}</code>
                <button type="button" className="quiet" aria-label={`Take ${written(each)} out`} onClick={() => change({ cuts: cuts.filter((other) => other !== each) })}>
                  ×
                </button>
              </span>
            ))}
          </div>
        ) : null}
        <p className="live-buttons">
          <button type="button" disabled={busy || !at} onClick={() => at && hand({ kind: "ablate", ...at, cuts: chosen })}>
            Read again without {chosen.map(written).join(", ")}
          </button>
          <span className="muted">{at ? `the text of ${at.run}` : "read a prompt first"}</span>
        </p>
        {problem ? (
          <p role="alert" className="bad">
            {problem}
          </p>
        ) : null}
      </div>
    </Panel>
  );
}
