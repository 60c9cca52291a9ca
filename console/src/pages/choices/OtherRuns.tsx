import { percent } from "../../components/numbers";
import { currentPlace, go } from "../../url/place";

export interface Other {
  run_id: string;
  kind: string;
  model: string;
  pred_idx: number;
  pred_label: string;
  pred_prob: number;
  is_correct: boolean | null;
}

/** What other runs answered to the same question. */
export function OtherRuns({ run, answer, others }: { run: string; answer: number; others: readonly Other[] }) {
  if (others.length === 0) return <p className="muted">No run but {run} read this question.</p>;
  const agree = others.filter((other) => other.pred_idx === answer).length;
  return (
    <table className="compared">
      <caption>
        {agree} of {others.length} other {others.length === 1 ? "run answers" : "runs answer"} the same
      </caption>
      <thead>
        <tr>
          <th scope="col">run</th>
          <th scope="col">model</th>
          <th scope="col">answer</th>
          <th scope="col">confidence</th>
          <th scope="col">is right</th>
        </tr>
      </thead>
      <tbody>
        {others.map((other) => (
          <tr key={other.run_id}>
            <th scope="row">
              <button type="button" className="quiet link" onClick={() => go({ ...currentPlace(), parts: [other.run_id, ...currentPlace().parts.slice(1, 2)] })}>
                {other.run_id}
              </button>
            </th>
            <td>{other.model}</td>
            <td>
              {other.pred_label}
              {other.pred_idx === answer ? " (agrees)" : ""}
            </td>
            <td>{percent(other.pred_prob)}</td>
            <td>{other.is_correct === null ? "not known" : other.is_correct ? "yes" : "no"}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
