import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import type { Scale } from "../../colour/palette";
import { inShort, visible } from "../../components/numbers";
import { Strip, type StripToken } from "../../components/Strip";
import { useMarked } from "../../texts/useMarked";
import { commonOf, formatPlace } from "../../url/codec";
import { update, usePlace } from "../../url/place";
import { sqlOfToken, type Encoded, type Token } from "./encoded";

interface Props {
  of: Encoded;
  rows: Rows;
  row: number;
  scale: Scale;
  token: Token | undefined;
}

/** The tokens around the one at which a feature is most active in a sequence, each on the colour of its activation. */
export function ContextLine({ of, rows, row, scale, token }: Props) {
  const place = usePlace();
  const example = rows.text(row, "example_id");
  const [seq, pos, first] = [rows.number(row, "seq") ?? 0, rows.number(row, "pos") ?? 0, rows.number(row, "first_pos") ?? 0];
  const side = of.side === "dec" ? "" : of.side;
  const tokens = useMemo(() => Array.from(rows.get(row, "tokens") as ArrayLike<string>, (text): StripToken => ({ text, role: "" })), [rows, row]);
  const values = useMemo(() => Array.from(rows.get(row, "activations") as ArrayLike<number | null>, (value) => value ?? NaN), [rows, row]);
  const marked = useMarked({ run: of.source, example, seq, side });
  const here = useMemo(() => new Set([...marked].map((each) => each - first)), [marked, first]);
  const chosen = token?.example === example && token.seq === seq ? token.pos - first : undefined;
  const choose = (at: number) => {
    const next = { example, seq, pos: first + at };
    update({ example, s: seq, pos: next.pos, panel: undefined, q: sqlOfToken(of, next), where: undefined, row: 0 });
  };
  return (
    <li>
      <a
        href={formatPlace({ page: "text", parts: [of.source, example, String(seq)], params: { ...commonOf(place), ...(side ? { side } : {}), pos: String(pos) } })}
        title={`${example} / ${seq}, pos ${pos}`}
        aria-label={`${inShort(rows.number(row, "activation"))} in text ${example}, sequence ${seq}, position ${pos}`}
      >
        {inShort(rows.number(row, "activation"))}
      </a>
      <Strip
        tokens={tokens}
        values={values}
        scale={scale}
        label={`Tokens ${first} to ${first + tokens.length - 1} of ${example}; the strongest is ${visible(tokens[pos - first]?.text ?? "")} at ${pos}`}
        chosen={chosen}
        marked={here}
        foremost={pos - first}
        tell={(at) => (
          <>
            <code>{visible(tokens[at]?.text ?? "")}</code> pos {first + at}: {Number.isNaN(values[at] ?? NaN) ? "not active" : `activation ${inShort(values[at])}`}
          </>
        )}
        onChoose={choose}
      />
    </li>
  );
}
