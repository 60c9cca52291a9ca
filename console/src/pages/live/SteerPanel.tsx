import { useRows } from "../../api/useRows";
import type { Rows } from "../../api/rows";
import { Empty } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useStore } from "../../env/store";
import { change, draft, sampling } from "./draft";
import { Field } from "./SamplingFields";
import { useSubmit } from "./useSubmit";

/** A trait's vector that is added while the model goes on with the prompt. */
export function SteerPanel({ busy }: { busy: boolean }) {
  const traits = useRows("live/traits", {});
  return (
    <Panel title="Steer" name="steer">
      <Show answer={traits}>
        {(rows) =>
          rows.length === 0 ? (
            <Empty command="traces trait run --help">No trait has vectors in this warehouse.</Empty>
          ) : (
            <Form rows={rows} busy={busy} />
          )
        }
      </Show>
    </Panel>
  );
}

function Form({ rows, busy }: { rows: Rows; busy: boolean }) {
  const of = useStore(draft);
  const [hand, problem] = useSubmit();
  const traits = Array.from({ length: rows.length }, (_, at) => rows.text(at, "trait"));
  const row = Math.max(traits.indexOf(of.trait), 0);
  const trait = rows.text(row, "trait");
  const layers = Array.from(rows.get(row, "layers") as ArrayLike<number>);
  const layer = of.layer !== null && layers.includes(of.layer) ? of.layer : (layers[Math.floor(layers.length / 2)] ?? 0);
  const prompt = !of.chat && of.prompt.trim() ? of.prompt : undefined;
  return (
    <div className="padded live-form">
      <div className="live-fields">
        <label className="field">
          <span className="muted">trait</span>
          <select value={trait} onChange={(event) => change({ trait: event.target.value, layer: null })}>
            {traits.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <label className="field">
          <span className="muted">layer</span>
          <select value={layer} onChange={(event) => change({ layer: Number(event.target.value) })}>
            {layers.map((each) => (
              <option key={each}>{each}</option>
            ))}
          </select>
        </label>
        <Field label="coefficient" value={of.coefficient} least={-100} most={100} step={0.5} onChange={(value) => change({ coefficient: value })} />
      </div>
      <p className="live-buttons">
        <button
          type="button"
          disabled={busy || !prompt || of.coefficient === 0}
          onClick={() => prompt && hand({ kind: "steer", prompt, trait, layer, coefficient: of.coefficient, ...sampling(of) })}
        >
          Go on, steered
        </button>
        <span className="muted">beside the same without it; 1 is the distance of the trait’s means</span>
      </p>
      {problem ? (
        <p role="alert" className="bad">
          {problem}
        </p>
      ) : null}
    </div>
  );
}
