import { useEffect } from "react";
import { useRows } from "../api/useRows";
import type { Place } from "../url/codec";
import { go } from "../url/place";

/** Opens the first text of a run, where an address names the run alone. */
export function useFirstText(place: Place): void {
  const [run, example] = place.parts;
  const { data } = useRows("examples", run === undefined || example !== undefined ? null : { run, order: "place", after: 0, limit: 1 });
  const first = data && data.length > 0 ? data.text(0, "example_id") : undefined;
  useEffect(() => {
    if (run !== undefined && example === undefined && first !== undefined) go({ ...place, parts: [run, first, "0"] }, "replace");
  }, [run, example, first, place]);
}
