// Which tokens of a text are which message of a chat.

import type { StripToken } from "./Strip";

/** Tokens one after the other of one message. */
interface Message {
  first: number;
  end: number;
  /** What stands before it: nothing where the text is no chat. */
  title: string | null;
}

/** The messages of a chat, in the order of its tokens; of another text one, without a title. */
export function messagesOf(tokens: readonly StripToken[]): Message[] {
  const turns = tokens.map((token) => token.turn ?? null);
  if (turns.every((turn) => turn === null)) return [{ first: 0, end: tokens.length, title: null }];
  const begins = turns.flatMap((turn, pos) => (pos === 0 || turn !== turns[pos - 1] ? [pos] : []));
  return begins.map((first, place) => {
    const turn = turns[first] ?? null;
    return { first, end: begins[place + 1] ?? tokens.length, title: turn === null ? "template" : `${turn} ${tokens[first]?.speaker ?? ""}` };
  });
}
