import { commonOf, formatPlace } from "../../url/codec";
import { usePlace } from "../../url/place";
import type { Told } from "./manifest";
import { pagesOf } from "./pagesOf";

/** The pages that show something of a run. */
export function RunLinks({ run, told }: { run: string; told: Told }) {
  const params = commonOf(usePlace());
  const pages = pagesOf(told);
  if (pages.length === 0) return null;
  return (
    <nav className="run-links" aria-label="Where this run is shown">
      {pages.map(([page, title]) => (
        <a key={page} href={formatPlace({ page, parts: [run], params })}>
          {title}
        </a>
      ))}
    </nav>
  );
}
