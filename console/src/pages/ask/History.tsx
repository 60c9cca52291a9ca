import { Empty } from "../../components/Empty";
import { useStore } from "../../env/store";
import { forgetQuestions, past } from "./history";

/** The questions that were asked in this browser; a click writes one into the editor and asks it. */
export function History({ onAsk }: { onAsk: (sql: string) => void }) {
  const questions = useStore(past);
  if (questions.length === 0) return <Empty>Questions that you ask are kept here, in this browser.</Empty>;
  return (
    <>
      <ul className="saved">
        {questions.map(({ sql, when }) => (
          <li key={sql}>
            <button type="button" className="quiet" onClick={() => onAsk(sql)} title={new Date(when).toLocaleString()}>
              <code>{sql}</code>
            </button>
          </li>
        ))}
      </ul>
      <p className="padded">
        <button type="button" onClick={forgetQuestions}>
          Forget them
        </button>
      </p>
    </>
  );
}
