// The server's token comes in the fragment of the first address, which no server sees. It moves to this origin's storage, so that
// addresses that are copied never carry it.

const KEY = "traces-token";

/** Takes the token out of the address, if it is there, and keeps it. */
export function takeToken(): void {
  const fragment = location.hash.slice(1);
  const found = /(?:^|[#&?])token=([^&]*)/.exec(fragment);
  if (!found?.[1]) return;
  localStorage.setItem(KEY, decodeURIComponent(found[1]));
  const rest = fragment.replace(/(?:^|[&?])token=[^&]*/, "");
  history.replaceState(null, "", rest ? `#${rest}` : location.pathname);
}

export function token(): string {
  return localStorage.getItem(KEY) ?? "";
}
