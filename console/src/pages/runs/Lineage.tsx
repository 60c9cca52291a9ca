import { commonOf, formatPlace } from "../../url/codec";
import { usePlace } from "../../url/place";
import type { Lineage as Family, Node } from "./lineage";

const WIDTH = 168;
const APART = 48;
const HEIGHT = 34;
const BELOW = 8;
const EDGE = 10;

/** The runs around one as boxes, left to right; a click goes there. */
export function Lineage({ of, run }: { of: Family; run: string }) {
  const place = usePlace();
  const kept = commonOf(place);
  const at = new Map(of.nodes.map((node) => [node.run, { x: EDGE + node.column * (WIDTH + APART), y: EDGE + node.line * (HEIGHT + BELOW) }]));
  const box = (node: Node) => (
    <>
      <rect width={WIDTH} height={HEIGHT} rx={5} />
      <text x={8} y={14}>
        {shortened(node.run)}
      </text>
      <text x={8} y={27} className="kind">
        {node.there ? node.kind : "not here any more"}
      </text>
      <title>{node.run}</title>
    </>
  );
  return (
    <svg
      className="lineage"
      width={EDGE * 2 + of.columns * (WIDTH + APART) - APART}
      height={EDGE * 2 + of.lines * (HEIGHT + BELOW) - BELOW}
      role="group"
      aria-label={`What ${run} was made of, and what was made of it`}
    >
      {of.edges.map(([from, to]) => {
        const [a, b] = [at.get(from), at.get(to)];
        if (!a || !b) return null;
        const [x1, y1, x2, y2] = [a.x + WIDTH, a.y + HEIGHT / 2, b.x, b.y + HEIGHT / 2];
        const middle = (x1 + x2) / 2;
        return <path key={`${from} ${to}`} d={`M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`} data-from={from} data-to={to} />;
      })}
      {of.nodes.map((node) => {
        const { x, y } = at.get(node.run) ?? { x: 0, y: 0 };
        const name = `node ${node.run === run ? "chosen" : ""} ${node.there ? "" : "gone"}`;
        return (
          <g key={node.run} transform={`translate(${x} ${y})`} className={name} data-run={node.run}>
            {node.there ? <a href={formatPlace({ page: "runs", parts: [node.run], params: kept })} aria-current={node.run === run ? "page" : undefined}>{box(node)}</a> : box(node)}
          </g>
        );
      })}
    </svg>
  );
}

function shortened(name: string): string {
  return name.length > 24 ? `${name.slice(0, 10)}…${name.slice(-13)}` : name;
}
