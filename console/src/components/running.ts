import { visible } from "./numbers";

/** A token as it stands in running text: spaces stay spaces, a line break is seen and breaks the line. */
export function running(token: string): string {
  if (token === "") return visible(token);
  return token
    .split(" ")
    .map((part) => (part === "" ? "" : visible(part).replace(/↵/g, "↵\n")))
    .join(" ");
}
