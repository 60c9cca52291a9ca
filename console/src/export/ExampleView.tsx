import { useMemo } from "react";
import { Legend } from "../components/Legend";
import { Strip } from "../components/Strip";
import { useStore } from "../env/store";
import { useKey } from "../keys/keys";
import { byColumn, colourName, COLOURS } from "../pages/text/colouring";
import { pointed } from "../pages/text/pointed";
import { TokenTip } from "../texts/TokenTip";
import { stripTokens } from "../texts/tokens";
import { chosenOf } from "../texts/where";
import { update, usePlace } from "../url/place";
import { rowsOf, type Example } from "./data";
import { HeadPicture } from "./HeadPicture";
import { LensSection } from "./LensSection";
import { Section } from "./Section";

/** What the file can colour by: all that is of this run alone. */
const COLOURED = COLOURS.filter(([name]) => name !== "trait" && name !== "diff");

/** One example: its tokens, its lens, the attention of some heads. */
export function ExampleView({ example }: { example: Example }) {
  const place = usePlace();
  const rows = useMemo(() => rowsOf(example.strip), [example]);
  const tokens = useMemo(() => stripTokens(rows), [rows]);
  const chosen = chosenOf(place);
  const over = useStore(pointed);
  const named = colourName(place.params["color"]);
  const colour = named === "trait" || named === "diff" ? "loss" : named;
  const shown = useMemo(() => byColumn(colour, rows), [colour, rows]);
  const step = (by: number) => update({ pos: Math.min(Math.max((chosen.pos ?? 0) + by, 0), rows.length - 1) }, "replace");
  useKey("ArrowRight", "the next token", () => step(1));
  useKey("ArrowLeft", "the token before", () => step(-1));
  const count = example.heads.length;
  return (
    <>
      <Section
        title="Text"
        note={`${example.example_id}, ${rows.length.toLocaleString("en-US")} tokens`}
        controls={
          <>
            {shown.label ? <Legend scale={shown.scale} label={shown.label} transform={shown.transform} ends={shown.ends} /> : null}
            <label className="field">
              <span className="muted">colour</span>
              <select value={colour} onChange={(event) => update({ color: event.target.value }, "replace")}>
                {COLOURED.map(([name, text]) => (
                  <option key={name} value={name}>
                    {text}
                  </option>
                ))}
              </select>
            </label>
          </>
        }
      >
        <div className="export-text">
          <Strip
            tokens={tokens}
            values={shown.values}
            scale={shown.scale}
            label={`Tokens of ${example.example_id}, coloured by ${shown.label || "nothing"}`}
            chosen={chosen.pos}
            pointed={over ?? undefined}
            tell={(pos) => <TokenTip rows={rows} pos={pos} />}
            onChoose={(pos) => update({ pos })}
            onPoint={(pos) => pointed.set(pos)}
          />
          {chosen.pos === undefined || chosen.pos >= rows.length ? null : (
            <aside aria-label="chosen token">
              <TokenTip rows={rows} pos={chosen.pos} />
            </aside>
          )}
        </div>
      </Section>
      {example.lens ? <LensSection lens={example.lens} strip={rows} chosen={chosen} /> : null}
      <Section title="Attention" note={`${count.toLocaleString("en-US")} of ${example.heads_in_all.toLocaleString("en-US")} heads: ${example.heads_rule}`}>
        <div className="export-heads">
          {example.heads.map((head) => (
            <HeadPicture key={`${head.layer} ${head.head}`} head={head} strip={rows} pos={chosen.pos} />
          ))}
        </div>
      </Section>
    </>
  );
}
