import { expect, test } from "vitest";
import { messagesOf } from "./messages";
import type { StripToken } from "./Strip";

const token = (turn: number | null, speaker = ""): StripToken => ({ text: "a", role: "", turn, speaker });

test("a text that is no chat is one row without a title", () => {
  expect(messagesOf([token(null), token(null)])).toEqual([{ first: 0, end: 2, title: null }]);
});

test("a chat has a row a message, and one for what the template writes", () => {
  expect(messagesOf([token(null), token(0, "user"), token(0, "user"), token(1, "assistant")])).toEqual([
    { first: 0, end: 1, title: "template" },
    { first: 1, end: 3, title: "0 user" },
    { first: 3, end: 4, title: "1 assistant" },
  ]);
});
