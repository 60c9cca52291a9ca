import { useEffect } from "react";
import type { ApiError } from "../api/client";
import { useRows } from "../api/useRows";
import type { Place } from "../url/codec";
import { go } from "../url/place";

/** Opens the first text of a run, where an address names the run alone; returns why that cannot be. */
export function useFirstText(place: Place): ApiError | undefined {
  const [run, example] = place.parts;
  const { data, error } = useRows("examples", run === undefined || example !== undefined ? null : { run, order: "place", after: 0, limit: 1 });
  const first = data && data.length > 0 ? data.text(0, "example_id") : undefined;
  useEffect(() => {
    if (run !== undefined && example === undefined && first !== undefined) go({ ...place, parts: [run, first, "0"] }, "replace");
  }, [run, example, first, place]);
  return error;
}
