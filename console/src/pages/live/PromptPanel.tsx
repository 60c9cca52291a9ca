import { Choice } from "../../components/Choice";
import { Panel } from "../../components/Panel";
import { useStore } from "../../env/store";
import { captureJob, change, draft, sampling } from "./draft";
import type { About } from "./live";
import { SamplingFields } from "./SamplingFields";
import { TurnsField } from "./TurnsField";
import { useSubmit } from "./useSubmit";

const HOW = [
  ["text", "text"],
  ["chat", "chat"],
] as const;

/** A text or a chat to be read, or a prompt to go on with. */
export function PromptPanel({ about, model, busy }: { about: About | null; model: string; busy: boolean }) {
  const of = useStore(draft);
  const [hand, problem] = useSubmit();
  const reading = captureJob(of);
  const prompt = of.prompt.trim() ? of.prompt : undefined;
  const text = JSON.stringify(of.prompt);
  return (
    <Panel
      title="Prompt"
      name="prompt"
      main
      ways={
        of.chat
          ? {}
          : {
              python: `model = capture.load(${JSON.stringify(model)})\ncapture.next_token(model, [${text}], keep="hidden,resid,qkv,heads", run="mine")`,
              command: `traces capture generate --model ${model} --prompt ${shellQuoted(of.prompt)} --max-new-tokens ${of.max_new_tokens} --temperature ${of.temperature} --seed ${of.seed} --capture hidden,resid,qkv,heads`,
            }
      }
      controls={
        about?.chat ? (
          <Choice label="what is read" of={HOW} chosen={of.chat ? "chat" : "text"} onChoose={(how) => change({ chat: how === "chat" })} />
        ) : null
      }
    >
      <div className="padded live-form">
        {of.chat ? (
          <TurnsField turns={of.turns} />
        ) : (
          <textarea
            aria-label="Prompt"
            rows={5}
            maxLength={20000}
            value={of.prompt}
            placeholder="What the model reads"
            onChange={(event) => change({ prompt: event.target.value })}
            onKeyDown={(event) => {
              if (event.key === "Enter" && event.ctrlKey && reading && !busy) hand(reading);
            }}
          />
        )}
        <p className="live-buttons">
          <button type="button" className="primary" disabled={busy || !reading} onClick={() => reading && hand(reading)} title="Ctrl+Enter">
            Read it
          </button>
          <span className="muted">states, attention, predictions, lens</span>
        </p>
        {of.chat ? null : (
          <>
            <SamplingFields />
            <p className="live-buttons">
              <button type="button" disabled={busy || !prompt} onClick={() => prompt && hand({ kind: "generate", prompt, ...sampling(of) })}>
                Go on with it
              </button>
              <span className="muted">{about?.chat ? "as a question, through the chat template" : "as it stands"}</span>
            </p>
          </>
        )}
        {problem ? (
          <p role="alert" className="bad">
            {problem}
          </p>
        ) : null}
      </div>
    </Panel>
  );
}

function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
