// A place in the console, and the fragment of the address that names it: #/text/RUN/EXAMPLE/SEQ?pos=23&l=22&h=3&color=loss

export interface Place {
  /** The page: runs, ask, text, … */
  page: string;
  /** What it is of, in the order of its page: run, example, sequence. */
  parts: readonly string[];
  /** What is chosen in it. Keys that a page does not know are kept. */
  params: Readonly<Record<string, string>>;
}

/** The parameters that mean the same on every page: the question whose rows are selected, its conditions, the row that is looked at. */
export const COMMON = ["q", "where", "row", "v"] as const;

export function parsePlace(fragment: string): Place {
  const text = fragment.replace(/^#?\/?/, "");
  const at = text.indexOf("?");
  const path = at < 0 ? text : text.slice(0, at);
  const [page = "", ...parts] = path.split("/").map(decode);
  const params: Record<string, string> = {};
  for (const pair of at < 0 ? [] : text.slice(at + 1).split("&")) {
    if (!pair) continue;
    const equals = pair.indexOf("=");
    const key = decode(equals < 0 ? pair : pair.slice(0, equals));
    params[key] = equals < 0 ? "" : decode(pair.slice(equals + 1));
  }
  return { page: page || "runs", parts: parts.filter((part) => part !== ""), params };
}

export function formatPlace(place: Place): string {
  const path = [place.page, ...place.parts].map(encode).join("/");
  const params = Object.entries(place.params)
    .map(([key, value]) => `${encode(key)}=${encode(value)}`)
    .join("&");
  return `#/${path}${params ? `?${params}` : ""}`;
}

/** A place with some parameters changed; undefined takes one away. */
export function withParams(place: Place, changes: Record<string, string | number | undefined>): Place {
  const params = { ...place.params };
  for (const [key, value] of Object.entries(changes)) {
    if (value === undefined) Reflect.deleteProperty(params, key);
    else params[key] = String(value);
  }
  return { ...place, params };
}

/** Those parameters of a place that go along to other pages. */
export function commonOf(place: Place): Record<string, string> {
  return Object.fromEntries(COMMON.flatMap((name) => (place.params[name] === undefined ? [] : [[name, place.params[name]]])));
}

/** A parameter as a whole number that is at least 0; undefined where it is none. */
export function numberParam(place: Place, key: string): number | undefined {
  const text = place.params[key];
  return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : undefined;
}

function encode(text: string): string {
  return encodeURIComponent(text).replace(/%20/g, "+").replace(/%2C/g, ",").replace(/%3A/g, ":");
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replace(/\+/g, " "));
  } catch {
    return text; // an address that was cut short
  }
}
