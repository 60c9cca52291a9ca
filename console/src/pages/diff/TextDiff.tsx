import { useMemo } from "react";
import { useRows } from "../../api/useRows";
import type { Rows } from "../../api/rows";
import { Problem } from "../../components/Empty";
import { numberParam } from "../../url/codec";
import { update, usePlace } from "../../url/place";
import { byDifference, differences, measureNamed, measuresOf, segmentAt } from "./difference";
import { MostPanel } from "./MostPanel";
import { SegmentPanel } from "./SegmentPanel";
import { StripPanel } from "./StripPanel";

interface Props {
  a: string;
  b: string;
  example: string;
  seq: number;
}

/** One text as two runs read it: the text coloured by their difference, where it is largest, and what both predicted there. */
export function TextDiff({ a, b, example, seq }: Props) {
  const answer = useRows("diff/strip", { a, b, example, seq });
  if (answer.error)
    return (
      <section className="panel grow" aria-label="text">
        <Problem error={answer.error} />
      </section>
    );
  if (!answer.data) return <div className="stack grow" />;
  return (
    <div className={`stack grow ${answer.waiting ? "stale" : ""}`}>
      <Compared a={a} b={b} example={example} seq={seq} rows={answer.data} />
    </div>
  );
}

function Compared({ a, b, example, seq, rows }: Props & { rows: Rows }) {
  const place = usePlace();
  const named = measureNamed(place.params["color"]);
  const measure = measuresOf(rows).some(([name]) => name === named) ? named : "loss";
  const shown = useMemo(() => differences(rows, measure, a, b), [rows, measure, a, b]);
  const order = useMemo(() => byDifference(shown.values), [shown]);
  const chosen = segmentAt(rows, numberParam(place, "pos")) ?? order[0];
  const choose = (segment: number) => update({ pos: rows.number(segment, "pos") ?? undefined });
  return (
    <>
      <StripPanel a={a} b={b} example={example} seq={seq} rows={rows} measure={measure} shown={shown} chosen={chosen} onChoose={choose} />
      <div className="columns diff-below">
        <MostPanel rows={rows} order={order} measure={measure} chosen={chosen} onChoose={choose} />
        {chosen === undefined ? null : <SegmentPanel a={a} b={b} example={example} seq={seq} rows={rows} segment={chosen} />}
      </div>
    </>
  );
}
