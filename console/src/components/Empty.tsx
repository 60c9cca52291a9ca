import type { ReactNode } from "react";
import type { ApiError } from "../api/client";
import { Command } from "./Command";

/** Why a view has nothing to show, and the command that fills it. */
export function Empty({ children, command }: { children: ReactNode; command?: string | undefined }) {
  return (
    <div className="empty">
      <p>{children}</p>
      {command ? <Command text={command} /> : null}
    </div>
  );
}

/** What the server could not answer. */
export function Problem({ error }: { error: ApiError }) {
  return (
    <div role={error.kind === "empty" ? undefined : "alert"}>
      <Empty command={error.hint}>{error.message}</Empty>
    </div>
  );
}
