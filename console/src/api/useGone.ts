import { useStore } from "../env/store";
import { change } from "./events";

/** Whether a run is not in the warehouse, as far as the server has told which are: it tells before a list is asked for again. */
export function useGone(run: string | undefined): boolean {
  const known = useStore(change);
  return run !== undefined && known.version !== "" && !known.runs.includes(run);
}
