import type { ReactNode } from "react";

interface Props {
  title: string;
  note?: string | undefined;
  controls?: ReactNode;
  children: ReactNode;
}

/** A part of an exported page: a panel without the menus that need a server. */
export function Section({ title, note, controls, children }: Props) {
  return (
    <section className="panel export-section" aria-label={title}>
      <header>
        <h2>{title}</h2>
        {note ? <span className="note">{note}</span> : null}
        <span className="controls">{controls}</span>
      </header>
      <div className="content">{children}</div>
    </section>
  );
}
