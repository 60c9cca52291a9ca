import { Button, Dialog, DialogTrigger, Popover } from "react-aria-components";
import { useRows } from "../api/useRows";
import { ExampleList } from "./ExampleList";
import { RunSelect } from "./RunSelect";
import { goToText, type Sequence } from "./where";

const BEGINNING = 110;

/** Which text a page is of, on one line: its run, and the beginning of the text, which opens the list of all. */
export function TextPicker({ run, of, text }: { run: string | undefined; of: Sequence | null; text: string | undefined }) {
  const examples = useRows("examples", run !== undefined && of === null ? { run, limit: 1 } : null);
  const beginning = text?.trim().slice(0, BEGINNING) ?? (examples.data?.length === 0 ? "no texts" : "choose a text");
  return (
    <div className="text-picker">
      <RunSelect run={run} onChoose={(next) => goToText(next)} />
      {run === undefined ? null : (
        <DialogTrigger>
          <Button className="text-picker-button" aria-label={`${beginning}: choose another text`}>
            <span>{beginning}</span> <span aria-hidden="true">▾</span>
          </Button>
          <Popover placement="bottom start" className="text-picker-list">
            <Dialog aria-label="Texts">
              <ExampleList run={run} example={of?.example} />
            </Dialog>
          </Popover>
        </DialogTrigger>
      )}
    </div>
  );
}
