import { useState } from "react";
import { scheme, toggleScheme } from "./env/scheme";
import { useStore } from "./env/store";
import { KeyHelp } from "./keys/KeyHelp";
import { useKey } from "./keys/keys";
import { PAGES } from "./pages/registry";
import { Follow } from "./selection/Follow";
import { SelectionChip } from "./selection/SelectionChip";
import { formatPlace, type Place } from "./url/codec";
import { go } from "./url/place";
import { placeOf } from "./url/remembered";

export function Header({ place }: { place: Place }) {
  const [help, setHelp] = useState(false);
  const dark = useStore(scheme) === "dark";
  useKey("y", "copy the address of what is shown", () => void navigator.clipboard.writeText(location.href));
  useKey("?", "list the keys", () => setHelp(true));
  return (
    <header className="top">
      <h1 className="brand">traces</h1>
      <nav aria-label="Pages">
        {PAGES.map((page) => (
          <a
            key={page.name}
            href={formatPlace({ page: page.name, parts: [], params: {} })}
            aria-current={page.name === place.page ? "page" : undefined}
            onClick={(event) => {
              if (event.ctrlKey || event.metaKey || event.shiftKey) return;
              event.preventDefault();
              go(placeOf(page));
            }}
          >
            {page.title}
          </a>
        ))}
      </nav>
      <Follow place={place} />
      <SelectionChip />
      <button type="button" className="quiet" onClick={() => setHelp(true)} aria-label="Keys">
        ?
      </button>
      <button type="button" className="quiet" onClick={toggleScheme} aria-label={dark ? "Light colours" : "Dark colours"}>
        {dark ? "☀" : "☾"}
      </button>
      <KeyHelp open={help} onClose={() => setHelp(false)} />
    </header>
  );
}
