import { percent, visible } from "./numbers";

interface Props {
  guesses: readonly { token: string; prob: number }[];
  /** The token that came. */
  actual?: string | undefined;
}

/** The most likely tokens with their probabilities as bars; the one that came is marked. */
export function TopK({ guesses, actual }: Props) {
  if (guesses.length === 0) return <p className="muted">no prediction is stored here</p>;
  return (
    <ol className="topk">
      {guesses.map(({ token, prob }, place) => (
        <li key={place} className={token === actual ? "actual" : undefined}>
          <code>{visible(token)}</code>
          <span className="bar" aria-hidden="true">
            <i style={{ width: `${prob * 100}%` }} />
          </span>
          <span className="number">{percent(prob)}</span>
        </li>
      ))}
    </ol>
  );
}
