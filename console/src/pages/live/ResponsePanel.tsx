import { Panel } from "../../components/Panel";

/** A response while it is drawn. */
export function ResponsePanel({ text }: { text: string }) {
  return (
    <Panel title="Response so far" name="response" className="grow" main>
      <p className="padded live-text" aria-live="off">
        {text}
      </p>
    </Panel>
  );
}
