import { Facts } from "../../components/Facts";
import { inBytes, inShort } from "../../components/numbers";
import { bytesByFolder, saidIn, type Manifest } from "./manifest";

/** Parts of a model's description that are long, and told elsewhere or of no use to a reader. */
const LONG = ["attention", "missing", "layer_heads"];

/** A run's manifest to be read: what it is, its counts, bytes, model, data, options and versions. */
export function ManifestFacts({ manifest }: { manifest: Manifest }) {
  const { counts } = manifest;
  const made = new Date(manifest.created_at);
  return (
    <div className="manifest padded" tabIndex={0}>
      <Facts
        of={[
          ["made", made.toISOString().replace("T", " ").slice(0, 19)],
          ["took", `${inShort(manifest.seconds)} s`],
          ["bytes", inBytes(manifest.bytes)],
          ...(manifest.mean_loss === null ? [] : [["mean loss", `${inShort(manifest.mean_loss, 4)} nats a token`] as const]),
          ...(manifest.perplexity === null ? [] : [["perplexity", inShort(manifest.perplexity, 4)] as const]),
        ]}
      />
      <h3>Counts</h3>
      <Facts of={saidIn(counts, ["rows"])} />
      <h3>Bytes</h3>
      <table className="plain">
        <thead>
          <tr>
            <th scope="col">table</th>
            <th scope="col" className="number">
              rows
            </th>
            <th scope="col" className="number">
              files
            </th>
            <th scope="col" className="number">
              bytes
            </th>
          </tr>
        </thead>
        <tbody>
          {bytesByFolder(manifest).map(({ name, rows, files, bytes }) => (
            <tr key={name}>
              <td>{name === "blobs" ? "blobs (tensors)" : name}</td>
              <td className="number">{rows === undefined ? "" : rows.toLocaleString("en-US")}</td>
              <td className="number">{files}</td>
              <td className="number">{inBytes(bytes)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <h3>Model</h3>
      <Facts of={saidIn(manifest.model, LONG)} />
      <h3>Data</h3>
      <Facts of={saidIn(manifest.data)} />
      <h3>Options</h3>
      <Facts of={saidIn(manifest.options)} />
      <h3>Versions</h3>
      <Facts of={saidIn({ "storage format": manifest.schema_version, ...manifest.versions })} />
    </div>
  );
}
