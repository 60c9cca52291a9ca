import { useRows } from "../../api/useRows";
import type { Rows } from "../../api/rows";
import { Facts } from "../../components/Facts";
import { inShort, percent } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { SelectedHere } from "../../selection/SelectedHere";
import { formatPlace } from "../../url/codec";
import { OtherRuns, type Other } from "./OtherRuns";
import { Scores } from "./Scores";
import { scoresOf } from "./scores";

interface Question {
  kind: string;
  score: string;
  text: string;
  prompt: string | null;
  label: string | null;
  pred_label: string;
  pred_idx: number;
  is_correct: boolean | null;
  pred_prob: number;
  label_prob: number | null;
  margin: number | null;
  top_two_gap: number;
  entropy: number;
}

/** One question: its choices with their scores, the answer, and what other runs answered. */
export function QuestionPanel({ run, example }: { run: string; example: string }) {
  const answer = useRows("choice", { run, example });
  const link = (page: string) => formatPlace({ page, parts: [run, example, "0"], params: {} });
  return (
    <Panel
      title="Question"
      name="question"
      main
      className="grow"
      note={
        <>
          {example} <SelectedHere place={{ run_id: run, example_id: example }} of="of this question" />
        </>
      }
      rows={() => answer.data}
      ways={{
        sql: answer.data?.notes.sql?.[0],
        python: `wh.sql("FROM choices WHERE run_id = '${run}' AND example_id = '${example}' ORDER BY choice_idx").df()`,
        command: `traces sql "FROM choices WHERE run_id = '${run}' AND example_id = '${example}' ORDER BY choice_idx"`,
      }}
      controls={
        <>
          <a href={link("text")}>Text</a>
          <a href={link("attention")}>Attention</a>
        </>
      }
    >
      <Show answer={answer}>{(rows) => <Shown rows={rows} run={run} />}</Show>
    </Panel>
  );
}

function Shown({ rows, run }: { rows: Rows; run: string }) {
  const question = rows.notes["question"] as Question;
  const others = rows.notes["others"] as Other[];
  return (
    <div className="question padded">
      <p className="question-text">{question.text}</p>
      <Scores rows={rows} scores={scoresOf(rows, question.kind, question.score)} />
      <div className="question-facts">
        <Facts
          of={[
            ["answer", question.pred_label],
            ["right one", question.label ?? "not known"],
            ["confidence", percent(question.pred_prob)],
            ["probability of the right one", question.label_prob === null ? "" : percent(question.label_prob)],
            ["margin of the score to the second", question.margin === null ? "∞" : inShort(question.margin)],
            ["gap of probabilities to the second", percent(question.top_two_gap)],
            ["entropy over the choices, nats", inShort(question.entropy)],
          ]}
        />
        <OtherRuns run={run} answer={question.pred_idx} others={others} />
      </div>
      {question.prompt === null ? null : (
        <details>
          <summary>The prompt as the model read it</summary>
          <pre>{question.prompt}</pre>
        </details>
      )}
    </div>
  );
}
