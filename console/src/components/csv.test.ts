import { expect, it } from "vitest";
import { Rows } from "../api/rows";
import { asCsv } from "./csv";

it("quotes what would break a line or a field, and keeps every digit", () => {
  const rows = new Rows([
    ["token", [' "a",b', "x\ny", null], "text"],
    ["loss", [0.1 + 0.2, -0, 5], "number"],
    ["ids", [[1, 2], [], null], "other"],
  ]);
  expect(asCsv(rows)).toBe('token,loss,ids\r\n" ""a"",b",0.30000000000000004,"[1,2]"\r\n"x\ny",0,[]\r\n,5,\r\n');
});
