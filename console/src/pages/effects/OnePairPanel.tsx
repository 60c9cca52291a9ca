import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useRows, useTile } from "../../api/useRows";
import { upTo } from "../../colour/palette";
import { Legend } from "../../components/Legend";
import { inShort, visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { Strip } from "../../components/Strip";
import { stripTokens } from "../../texts/tokens";
import { formatPlace } from "../../url/codec";
import { usePlace } from "../../url/place";
import type { Intervention } from "./intervention";
import { shownPair } from "./shownPair";

interface Props {
  of: Intervention;
  layer: number | undefined;
  head: number | undefined;
  side: string;
}

/** The prompt of a pair, coloured by what the head reads at its last token, where the task's answer is made. */
export function OnePairPanel({ of, layer, head, side }: Props) {
  const place = usePlace();
  const pairs = useRows("effects/examples", { run: of.run, intervention: of.intervention, metric: of.metric });
  const row = pairs.data ? shownPair(place, pairs.data) : undefined;
  const text = pairs.data && row !== undefined ? { run: of.source, example: pairs.data.text(row, "example_id"), seq: pairs.data.number(row, "seq") ?? 0, side } : null;
  const strip = useRows("strip", text);
  const whole = layer !== undefined && head === undefined;
  if (layer === undefined || whole || text === null) return null;
  const where = { page: "attention", parts: [text.run, text.example, String(text.seq)], params: { l: String(layer), h: String(head), pos: String((strip.data?.length ?? 1) - 1) } };
  return (
    <Panel title={`What L${layer}H${head} reads at the last token`} name="pair" className="one-pair" controls={<a href={formatPlace(where)}>open in Attention</a>}>
      <Show answer={strip}>{(rows) => <LastToken rows={rows} text={text} layer={layer} head={head ?? 0} />}</Show>
    </Panel>
  );
}

interface LastProps {
  rows: Rows;
  text: { run: string; example: string; seq: number; side: string };
  layer: number;
  head: number;
}

function LastToken({ rows, text, layer, head }: LastProps) {
  const tile = useTile("attn/row", { ...text, layer, head, pos: rows.length - 1 });
  const tokens = useMemo(() => stripTokens(rows), [rows]);
  const scale = upTo("mass", 1);
  return (
    <Show answer={tile}>
      {({ values }) => {
        const most = Array.from(values, (value, pos) => ({ value, pos })).sort((a, b) => b.value - a.value);
        return (
          <>
            <div className="told">
              <Legend scale={scale} label="attention of the last token (probability)" />
              <span>
                {most.slice(0, 4).map(({ value, pos }) => (
                  <span key={pos} className="mono">
                    {visible(tokens[pos]?.text ?? "")} <span className="muted">{inShort(value)}</span>{" "}
                  </span>
                ))}
              </span>
            </div>
            <div className="padded">
              <Strip
                tokens={tokens}
                values={values}
                scale={scale}
                label={`Tokens by how much the last one attends to them in L${layer}H${head}`}
                tell={(pos) => `${visible(tokens[tokens.length - 1]?.text ?? "")} looks at ${visible(tokens[pos]?.text ?? "")} (${pos}): ${inShort(values[pos])}`}
              />
            </div>
          </>
        );
      }}
    </Show>
  );
}
