// A job of this page's: handed in, and why it was not taken.

import { useState } from "react";
import { ApiError } from "../../api/client";
import { submit, type Job } from "./live";

export function useSubmit(): [(job: Job) => void, string | undefined] {
  const [problem, setProblem] = useState<string>();
  const hand = (job: Job) => {
    setProblem(undefined);
    submit(job).catch((error: unknown) => setProblem(error instanceof ApiError ? error.message : String(error)));
  };
  return [hand, problem];
}
