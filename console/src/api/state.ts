// What the server says of itself: its tables for completion, its saved queries, whether it has a model.

import { getJson } from "./client";
import { useAnswer, type Answer } from "./useAnswer";

export interface Column {
  name: string;
  type: string;
  comment: string;
}

export interface Table {
  name: string;
  kind: "table" | "view";
  comment: string;
  columns: Column[];
}

export interface Variable {
  name: string;
  /** The kind of run that it must name, where it must. */
  kind: string | null;
  /** What it is. */
  says: string;
}

export interface SavedQuery {
  name: string;
  title: string;
  variables: Variable[];
  /** Tables that the run must have rows in. */
  needs: string[];
  sql: string;
}

export interface State {
  root: string;
  version: string;
  live: { model: string } | null;
  schema: Table[];
  queries: SavedQuery[];
}

export function useServerState(): Answer<State> {
  return useAnswer("state", (signal) => getJson<State>("state", {}, signal));
}
