import { Tooltip } from "../components/Tooltip";
import { scheme, toggleScheme } from "../env/scheme";
import { useStore } from "../env/store";
import { go, usePlace } from "../url/place";
import type { Shown } from "./data";
import { ExampleView } from "./ExampleView";

/** The page of an exported file: one example at a time, the place in the address as in the console: #/example/0?pos=23 */
export function ExportPage({ shown }: { shown: Shown }) {
  const { parts } = usePlace();
  const dark = useStore(scheme) === "dark";
  const at = Number(parts[0] ?? 0);
  const example = shown.examples[at] ?? shown.examples[0];
  const { run_id: run, model, dtype, dataset, split, created_at: made, weights_hash: weights } = shown.run;
  return (
    <>
      <header className="top export-top">
        <span className="brand">traces</span>
        <h1>{run}</h1>
        <span className="muted">
          {model} ({dtype}, weights {weights?.slice(0, 8)}) over {dataset}
          {split ? ` (${split})` : ""}, {made?.slice(0, 10)}; trace-warehouse {shown.version}
        </span>
        <span className="grow" />
        {shown.examples.length > 1 ? (
          <label className="field">
            <span className="muted">text</span>
            <select value={example ? shown.examples.indexOf(example) : 0} onChange={(event) => go({ page: "example", parts: [event.target.value], params: {} })}>
              {shown.examples.map((each, place) => (
                <option key={each.example_id} value={place}>
                  {each.text.slice(0, 60)}
                </option>
              ))}
            </select>
          </label>
        ) : null}
        <button type="button" className="quiet" onClick={toggleScheme} aria-label={dark ? "Light colours" : "Dark colours"}>
          {dark ? "☀" : "☾"}
        </button>
      </header>
      <main>{example ? <ExampleView key={example.example_id} example={example} /> : null}</main>
      <Tooltip />
    </>
  );
}
