import { autocompletion } from "@codemirror/autocomplete";
import { PostgreSQL, sql } from "@codemirror/lang-sql";
import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { linter, setDiagnostics, type Diagnostic } from "@codemirror/lint";
import { Compartment, EditorState } from "@codemirror/state";
import { EditorView, keymap, placeholder } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { minimalSetup } from "codemirror";
import { useEffect, useRef } from "react";
import { ApiError, postJson } from "../../api/client";
import type { Table } from "../../api/state";
import { useStore } from "../../env/store";
import { editorCalls, editorCame } from "../../selection/editorCall";
import { schemaSource } from "./completion";
import { placeOfError, type Fault } from "./faults";

interface Props {
  text: string;
  onText: (text: string) => void;
  onAsk: () => void;
  schema: readonly Table[];
  /** What was wrong with the question that was asked last. */
  error: ApiError | undefined;
}

const CHECK_MS = 500;

const colours = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--accent)", fontWeight: "600" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--line-3)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--line-2)" },
  { tag: [tags.lineComment, tags.blockComment], color: "var(--ink-2)", fontStyle: "italic" },
  { tag: tags.typeName, color: "var(--line-4)" },
]);

/** The editor of questions: words of SQL in colours, tables and columns proposed, what is wrong marked where it is. */
export function SqlEditor({ text, onText, onAsk, schema, error }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const language = useRef(new Compartment());
  const act = useRef({ onText, onAsk });
  const calls = useStore(editorCalls);
  useEffect(() => {
    act.current = { onText, onAsk };
  });

  useEffect(() => {
    if (!box.current) return;
    const editor = new EditorView({
      parent: box.current,
      state: EditorState.create({
        doc: "",
        extensions: [
          keymap.of([
            { key: "Mod-Enter", run: () => (act.current.onAsk(), true) },
            { key: "Escape", run: (of) => (of.contentDOM.blur(), true) },
          ]),
          minimalSetup,
          syntaxHighlighting(colours),
          EditorView.lineWrapping,
          EditorView.contentAttributes.of({ "aria-label": "Question in SQL", autocapitalize: "off" }),
          placeholder("SELECT … FROM tokens JOIN next_token USING (run_id, example_id, seq, side, pos)"),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) act.current.onText(update.state.doc.toString());
          }),
          linter(check, { delay: CHECK_MS }),
          language.current.of([]),
        ],
      }),
    });
    view.current = editor;
    return () => editor.destroy();
  }, []);

  useEffect(() => {
    view.current?.dispatch({
      effects: language.current.reconfigure([
        sql({ dialect: PostgreSQL, upperCaseKeywords: true }),
        PostgreSQL.language.data.of({ autocomplete: schemaSource(schema) }),
        autocompletion({ icons: false }),
      ]),
    });
  }, [schema]);

  useEffect(() => {
    const editor = view.current;
    if (editor && editor.state.doc.toString() !== text) editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert: text } });
  }, [text]);

  useEffect(() => {
    const editor = view.current;
    if (!editor || !error) return;
    const found = diagnosticsOf(editor, { error: error.message, ...(error.details as Partial<Fault>) });
    editor.dispatch(setDiagnostics(editor.state, found));
  }, [error]);

  useEffect(() => {
    if (calls === 0) return;
    view.current?.focus();
    editorCame();
  }, [calls]);

  return <div className="sql-editor" ref={box} />;
}

/** Asks the server what is wrong with the text; nothing where it cannot say. */
async function check(editor: EditorView): Promise<readonly Diagnostic[]> {
  const text = editor.state.doc.toString();
  if (text.trim() === "") return [];
  try {
    return diagnosticsOf(editor, await postJson<Partial<Fault>>("sql/check", { sql: text }));
  } catch {
    return [];
  }
}

function diagnosticsOf(editor: EditorView, fault: Partial<Fault>): Diagnostic[] {
  if (!fault.error) return [];
  const { from, to } = placeOfError(editor.state.doc.toString(), fault);
  return [{ from, to, severity: "error", message: fault.error }];
}
