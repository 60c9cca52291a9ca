import { commonOf } from "../../url/codec";
import { currentPlace, go } from "../../url/place";
import { besides, type Encoded } from "./encoded";

interface Props {
  known: readonly Encoded[];
  run: string | undefined;
  of: Encoded | undefined;
}

/** The run, of those that were encoded, and the dictionary where it was encoded with several. */
export function EncodedSelect({ known, run, of }: Props) {
  const sources = [...new Set(known.map((each) => each.source))];
  const chosen = of?.source ?? run;
  const others = of ? besides(known, of) : [];
  return (
    <>
      <label className="field">
        <span className="muted">run</span>
        <select value={chosen ?? ""} onChange={(event) => go({ page: "features", parts: [event.target.value], params: commonOf(currentPlace()) })}>
          {chosen === undefined || !sources.includes(chosen) ? <option value={chosen ?? ""}>{chosen ?? "choose …"}</option> : null}
          {sources.map((name) => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </select>
      </label>
      {of && others.length > 1 ? (
        <label className="field">
          <span className="muted">dictionary</span>
          <select
            value={others.indexOf(of)}
            onChange={(event) => {
              const next = others[Number(event.target.value)];
              if (next) go({ page: "features", parts: [next.run], params: { ...commonOf(currentPlace()), sae: next.sae } });
            }}
          >
            {others.map(({ run: name, sae }, place) => (
              <option key={place} value={place}>
                {sae} ({name})
              </option>
            ))}
          </select>
        </label>
      ) : null}
    </>
  );
}
