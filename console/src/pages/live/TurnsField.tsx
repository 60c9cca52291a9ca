import { change } from "./draft";
import type { Turn } from "./live";

const ROLES = ["system", "user", "assistant"] as const;

/** The turns of a chat. */
export function TurnsField({ turns }: { turns: readonly Turn[] }) {
  const put = (at: number, part: Partial<Turn>) => change({ turns: turns.map((turn, place) => (place === at ? { ...turn, ...part } : turn)) });
  return (
    <>
      {turns.map((turn, at) => (
        <div key={at} className="live-turn">
          <select aria-label={`Role of turn ${at + 1}`} value={turn.role} onChange={(event) => put(at, { role: event.target.value as Turn["role"] })}>
            {ROLES.map((role) => (
              <option key={role}>{role}</option>
            ))}
          </select>
          <textarea aria-label={`Turn ${at + 1}`} rows={2} maxLength={20000} value={turn.content} onChange={(event) => put(at, { content: event.target.value })} />
          <button
            type="button"
            className="quiet"
            aria-label={`Take turn ${at + 1} away`}
            disabled={turns.length === 1}
            onClick={() => change({ turns: turns.filter((_, place) => place !== at) })}
          >
            ×
          </button>
        </div>
      ))}
      <button type="button" onClick={() => change({ turns: [...turns, { role: turns.at(-1)?.role === "user" ? "assistant" : "user", content: "" }] })}>
        Add a turn
      </button>
    </>
  );
}
