// A call for the editor of questions, which may not be on the page yet.

import { createStore } from "../env/store";

/** How often it was called and has not come. */
export const editorCalls = createStore(0);

export function callEditor(): void {
  editorCalls.set(editorCalls.get() + 1);
}

export function editorCame(): void {
  editorCalls.set(0);
}
