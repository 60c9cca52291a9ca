import { Empty } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import type { Site } from "./manifest";

/** The tensors that can be read of a run: stored ones, and those that follow from them. */
export function Arrays({ run, arrays, fill }: { run: string; arrays: readonly Site[]; fill: boolean }) {
  return (
    <Panel title="Arrays" name="arrays" className={fill ? "grow" : "run-arrays"} note={`${arrays.length}`} ways={{ python: `wh.run(${JSON.stringify(run)}).arrays()`, command: `traces runs show ${run}` }}>
      {arrays.length === 0 ? (
        <Empty>This run keeps no tensors.</Empty>
      ) : (
        <table className="plain" tabIndex={0}>
          <thead>
            <tr>
              {["site", "shape", "dtype", "origin", "side", "note"].map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {arrays.map((site) => (
              <tr key={`${site.side} ${site.site}`}>
                <td>
                  <code>{site.site}</code>
                </td>
                <td>
                  <code>{site.shape}</code>
                </td>
                <td>{site.dtype}</td>
                <td>{site.origin}</td>
                <td>{site.side}</td>
                <td>{site.note}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Panel>
  );
}
