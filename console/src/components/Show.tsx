import type { ReactNode } from "react";
import type { Answer } from "../api/useAnswer";
import { Problem } from "./Empty";

/** An answer when it is there; else why not, or that it is on its way (once one would notice). */
export function Show<T>({ answer, children }: { answer: Answer<T>; children: (data: T) => ReactNode }) {
  if (answer.error) return <Problem error={answer.error} />;
  if (answer.data === undefined) return answer.waiting ? <div className="skeleton" aria-label="loading" role="status" /> : null;
  return <div className={answer.waiting ? "shown stale" : "shown"}>{children(answer.data)}</div>;
}
