import type { Rows } from "../../api/rows";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { literal } from "../../selection/conditions";
import { Arrays } from "./Arrays";
import { Lineage } from "./Lineage";
import { lineage } from "./lineage";
import { ManifestFacts } from "./ManifestFacts";
import { useManifest } from "./manifest";
import { RunExamples } from "./RunExamples";
import { RunLinks } from "./RunLinks";

/** One run: its manifest, what it was made of and what was made of it, its arrays and its texts. */
export function RunDetail({ run, runs }: { run: string; runs: Rows }) {
  const told = useManifest(run);
  const family = lineage(runs, run);
  const texts = told.data !== undefined && (told.data.manifest.counts.rows["examples"] ?? 0) > 0;
  return (
    <>
      <div className="stack run-facts">
        <Panel
          title={run}
          name="run"
          className="grow"
          note={told.data?.manifest.kind}
          main
          ways={{ sql: `SELECT * FROM runs WHERE run_id = ${literal(run)}`, python: `wh.run(${JSON.stringify(run)}).meta`, command: `traces runs show ${run}` }}
        >
          <Show answer={told}>
            {(found) => (
              <>
                <RunLinks run={run} told={found} />
                <ManifestFacts manifest={found.manifest} />
              </>
            )}
          </Show>
        </Panel>
      </div>
      <div className="stack grow">
        {family.nodes.length > 1 ? (
          <Panel
            title="Lineage"
            name="lineage"
            className="run-lineage"
            note={family.nodes.length < family.total ? `${family.nodes.length} of ${family.total} runs shown` : `${family.total} runs; each is made of those to its left`}
          >
            <Lineage of={family} run={run} />
          </Panel>
        ) : null}
        {texts ? <RunExamples run={run} /> : null}
        {told.data ? <Arrays run={run} arrays={told.data.arrays} fill={!texts} /> : null}
      </div>
    </>
  );
}
