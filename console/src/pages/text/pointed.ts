// The token that the pointer is over in one of the views of a text: the others show where it is.

import { createStore } from "../../env/store";

export const pointed = createStore<number | null>(null);
