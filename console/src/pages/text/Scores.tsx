import { useRows } from "../../api/useRows";
import type { Sequence } from "../../texts/where";
import { scoreLines } from "./scores";

/** What an evaluation says of the text: a line a score; nothing where it was not evaluated. */
export function Scores({ of }: { of: Sequence }) {
  const rows = useRows("scores", { run: of.run, example: of.example, seq: of.seq }).data;
  if (!rows || rows.length === 0) return null;
  return (
    <ul className="scores" aria-label="Scores">
      {scoreLines(rows).map((line) => (
        <li key={line.name} title={line.explanation || undefined} className={line.right === false ? "bad" : undefined}>
          {line.right === null ? null : line.right ? "✓ " : "✗ "}
          {line.text}
        </li>
      ))}
    </ul>
  );
}
