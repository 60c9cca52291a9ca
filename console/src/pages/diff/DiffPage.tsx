import { usePlace } from "../../url/place";
import { useRows } from "../../api/useRows";
import { ExamplesPanel } from "./ExamplesPanel";
import { PartnersPanel } from "./PartnersPanel";
import { TextDiff } from "./TextDiff";

/** Two runs on the same texts: #/diff/A/B/EXAMPLE/SEQ?pos=…&color=loss|entropy|prob */
export function DiffPage() {
  const { parts, params } = usePlace();
  const [a, b, named, seq = "0"] = parts;
  const order = params["order"] ?? "difference";
  const answer = useRows("diff", a !== undefined && b !== undefined ? { a, b, order } : null);
  if (a === undefined || b === undefined) return <PartnersPanel a={a} />;
  const first = answer.current && answer.data && answer.data.length > 0 ? answer.data.text(0, "example_id") : undefined;
  const example = named ?? first;
  return (
    <div className="columns diff">
      <ExamplesPanel answer={answer} a={a} b={b} example={example} order={order} />
      {example !== undefined && !answer.error ? <TextDiff key={`${a} ${b}`} a={a} b={b} example={example} seq={/^\d{1,9}$/.test(seq) ? Number(seq) : 0} /> : null}
    </div>
  );
}
