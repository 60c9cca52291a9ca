import { inShort, visible } from "../../components/numbers";
import type { StripToken } from "../../components/Strip";
import type { Link } from "./links";

interface Props {
  title: string;
  found: { links: readonly Link[]; total: number };
  tokens: readonly StripToken[];
  onChoose: (pos: number) => void;
}

/** Tokens with their probabilities, the largest first; a click goes there. */
export function LinkList({ title, found, tokens, onChoose }: Props) {
  return (
    <section>
      <h3>
        {title}{" "}
        <span className="muted">
          {found.links.length < found.total ? `${found.links.length} of ${found.total.toLocaleString("en-US")} shown, the largest` : `${found.total}`}
        </span>
      </h3>
      <ol className="topk" data-links={title}>
        {found.links.map(({ pos, value }) => (
          <li key={pos} data-pos={pos}>
            <button type="button" className="quiet" onClick={() => onChoose(pos)}>
              <span className="muted number">{pos}</span> <code>{visible(tokens[pos]?.text ?? "")}</code>
            </button>
            <span className="bar" aria-hidden="true">
              <i style={{ width: `${value * 100}%` }} />
            </span>
            <span className="number">{inShort(value, 3)}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}
