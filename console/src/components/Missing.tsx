import { Command } from "./Command";
import { Empty } from "./Empty";
import { usePlace } from "../url/place";

/** That a run is not in the warehouse, and the question that the address still holds. */
export function Missing({ run }: { run: string }) {
  const { params } = usePlace();
  const question = params["q"];
  return (
    <div role="alert">
      <Empty>
        Run {run} is not here: it was deleted or renamed, or it is in another warehouse.
      </Empty>
      {question === undefined ? null : (
        <div className="padded">
          <p className="muted">The question of this address is kept:</p>
          <Command text={question} />
        </div>
      )}
    </div>
  );
}
