import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { Legend } from "../../components/Legend";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Strip } from "../../components/Strip";
import { useStore } from "../../env/store";
import { SelectedHere } from "../../selection/SelectedHere";
import { RunSelect } from "../../texts/RunSelect";
import { SequenceSelect } from "../../texts/SequenceSelect";
import { TokenTip } from "../../texts/TokenTip";
import { stripTokens } from "../../texts/tokens";
import { keyOfSequence, useMarked } from "../../texts/useMarked";
import { choosePos, type Sequence } from "../../texts/where";
import { formatPlace } from "../../url/codec";
import { update, usePlace } from "../../url/place";
import { byColumn, byDifference, byTrait, colourName, COLOURS, nameOf, vectorsOf, type Colouring } from "./colouring";
import { pointed } from "./pointed";
import { Scores } from "./Scores";

/** The tokens in running text, coloured by what the reader chooses. */
export function StripPanel({ of, rows, chosen }: { of: Sequence; rows: Rows; chosen: number | undefined }) {
  const place = usePlace();
  const colour = colourName(place.params["color"] ?? (place.params["vs"] ? "diff" : undefined));
  const vs = place.params["vs"];
  const over = useStore(pointed);
  const tokens = useMemo(() => stripTokens(rows), [rows]);
  const marked = useMarked(of);
  const where = { example: of.example, seq: of.seq, side: of.side };
  const other = useRows("strip", colour === "diff" && vs ? { run: vs, ...where } : null);
  const traits = useRows("traits", colour === "trait" ? { run: of.run, example: of.example, seq: of.seq } : null);
  const vectors = useMemo(() => (traits.data ? vectorsOf(traits.data) : []), [traits.data]);
  const vector = vectors.find((each) => nameOf(each) === place.params["trait"]) ?? vectors[0];

  const colouring = useMemo<Colouring | null>(() => {
    if (colour === "diff") return other.data && vs ? byDifference(rows, other.data, vs) : null;
    if (colour === "trait") return traits.data && vector ? byTrait(traits.data, rows.length, vector) : null;
    return byColumn(colour, rows);
  }, [colour, rows, other.data, vs, traits.data, vector]);
  const shown = colouring ?? byColumn("none", rows);
  const problem = (colour === "diff" ? other.error : colour === "trait" ? traits.error : undefined)?.message;
  const apart = colour === "diff" && other.data !== undefined && colouring === null;

  return (
    <Panel
      title="Text"
      name="text"
      className="text-panel"
      main
      note={
        <>
          {rows.length.toLocaleString("en-US")} tokens <SelectedHere place={keyOfSequence(of)} />
        </>
      }
      rows={() => rows}
      ways={{
        sql: rows.notes.sql?.[0],
        python: `wh.sql("""FROM token_diagnostics WHERE run_id = '${of.run}' AND example_id = '${of.example}' AND seq = ${of.seq} ORDER BY pos""").df()`,
        command: `traces plot tokens ${of.run} --example ${of.example} --seq ${of.seq}`,
      }}
      controls={
        <>
          {shown.label ? <Legend scale={shown.scale} label={shown.label} transform={shown.transform} ends={shown.ends} /> : null}
          <SequenceSelect of={of} />
          <label className="field">
            <span className="muted">colour</span>
            <select value={colour} onChange={(event) => update({ color: event.target.value }, "replace")}>
              {COLOURS.map(([name, text]) => (
                <option key={name} value={name}>
                  {text}
                </option>
              ))}
            </select>
          </label>
          {colour === "diff" ? <RunSelect run={vs} label="run" onChoose={(run) => update({ vs: run || undefined }, "replace")} none="choose …" /> : null}
          {colour === "trait" && vectors.length > 1 ? (
            <select aria-label="vector" value={vector ? nameOf(vector) : ""} onChange={(event) => update({ trait: event.target.value }, "replace")}>
              {vectors.map((each) => (
                <option key={nameOf(each)}>{nameOf(each)}</option>
              ))}
            </select>
          ) : null}
        </>
      }
    >
      <Scores of={of} />
      {problem ? <p className="strip-note bad">{problem}</p> : null}
      {apart && vs ? (
        <p className="strip-note">
          {vs} has other tokens there. <a href={formatPlace({ page: "diff", parts: [of.run, vs, of.example, String(of.seq)], params: {} })}>Diff</a> aligns them by
          character.
        </p>
      ) : null}
      <Strip
        tokens={tokens}
        values={shown.values}
        scale={shown.scale}
        label={`Tokens of ${of.example}, coloured by ${shown.label || "nothing"}`}
        chosen={chosen}
        marked={marked}
        pointed={over ?? undefined}
        tell={(pos) => {
          const value = shown.values[pos] ?? NaN;
          return <TokenTip rows={rows} pos={pos} value={(colour === "diff" || colour === "trait") && !Number.isNaN(value) ? [shown.label, inShort(value)] : undefined} />;
        }}
        onChoose={choosePos}
        onPoint={(pos) => pointed.set(pos)}
      />
    </Panel>
  );
}
