import { Suspense, useEffect } from "react";
import { connected } from "./api/events";
import { Tooltip } from "./components/Tooltip";
import { hideTip } from "./components/tip";
import { useStore } from "./env/store";
import { Header } from "./Header";
import { followKeys } from "./keys/keys";
import { Empty } from "./components/Empty";
import { ErrorBoundary } from "./components/ErrorBoundary";
import { PAGES } from "./pages/registry";
import { formatPlace } from "./url/codec";
import { usePlace } from "./url/place";
import { remember } from "./url/remembered";

followKeys();

export function App() {
  const place = usePlace();
  const page = PAGES.find((each) => each.name === place.page);
  const reached = useStore(connected);
  useEffect(() => {
    remember(place);
    hideTip();
    document.title = [page?.title ?? "traces", ...place.parts.slice(0, 1)].join(" · ");
  }, [place, page]);
  return (
    <>
      <Header place={place} />
      {reached ? null : (
        <p className="offline" role="alert">
          The server does not answer: what is shown may be old. Start traces console again; this page will find it.
        </p>
      )}
      <main>
        <ErrorBoundary key={formatPlace({ ...place, params: {} })}>
          <Suspense fallback={null}>{page ? <page.component /> : <Empty>There is no page named {place.page}.</Empty>}</Suspense>
        </ErrorBoundary>
      </main>
      <Tooltip />
    </>
  );
}
