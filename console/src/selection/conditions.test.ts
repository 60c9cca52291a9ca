import { describe, expect, it } from "vitest";
import { between, conditionsAsText, conditionsIn, equals, literal, narrowed } from "./conditions";

describe("a narrowed question", () => {
  it("is the question itself where nothing narrows it", () => {
    expect(narrowed("SELECT 1;", [])).toBe("SELECT 1;");
  });

  it("keeps comments from swallowing what follows", () => {
    expect(narrowed("FROM runs -- all\n;\n", ["a = 1", "b = 2 OR c"])).toBe("SELECT * FROM (\nFROM runs -- all\n\n) WHERE (a = 1) AND (b = 2 OR c)");
  });

  it("comes back from the address", () => {
    const conditions = [between("loss", "1", "2", true), equals("to\"ken", "it's\n\\n"), equals("x", null)];
    expect(conditionsIn(conditionsAsText(conditions))).toEqual(conditions);
    expect(conditions).toEqual(['"loss" BETWEEN 1 AND 2', `"to""ken" = E'it\\'s\\n\\\\n'`, '"x" IS NULL']);
    expect(conditionsAsText([])).toBeUndefined();
  });

  it("writes values as SQL reads them", () => {
    expect([literal("a'b\\"), literal(1e-7), literal(true), literal(null), literal(Infinity)]).toEqual(["'a''b\\'", "1e-7", "true", "NULL", "'Infinity'::DOUBLE"]);
  });
});
