// The pages of the console, in the order of the tabs.

import { lazy, type ComponentType } from "react";
import { LogPage } from "./log/LogPage";
import { RunsPage } from "./runs/RunsPage";

export interface Page {
  name: string;
  title: string;
  /** How much of what is looked at now goes along to it: nothing, the run, or the run, example and sequence. */
  keeps: 0 | 1 | 3;
  component: ComponentType;
}

export const PAGES: readonly Page[] = [
  { name: "runs", title: "Runs", keeps: 1, component: RunsPage },
  { name: "ask", title: "Ask", keeps: 0, component: lazy(() => import("./ask/AskPage").then((m) => ({ default: m.AskPage }))) },
  { name: "text", title: "Text", keeps: 3, component: lazy(() => import("./text/TextPage").then((m) => ({ default: m.TextPage }))) },
  { name: "attention", title: "Attention", keeps: 3, component: lazy(() => import("./attention/AttentionPage").then((m) => ({ default: m.AttentionPage }))) },
  { name: "heads", title: "Heads", keeps: 1, component: lazy(() => import("./heads/HeadsPage").then((m) => ({ default: m.HeadsPage }))) },
  { name: "features", title: "Features", keeps: 1, component: lazy(() => import("./features/FeaturesPage").then((m) => ({ default: m.FeaturesPage }))) },
  { name: "effects", title: "Effects", keeps: 0, component: lazy(() => import("./effects/EffectsPage").then((m) => ({ default: m.EffectsPage }))) },
  { name: "circuits", title: "Circuits", keeps: 0, component: lazy(() => import("./circuits/CircuitsPage").then((m) => ({ default: m.CircuitsPage }))) },
  { name: "diff", title: "Diff", keeps: 1, component: lazy(() => import("./diff/DiffPage").then((m) => ({ default: m.DiffPage }))) },
  { name: "choices", title: "Choices", keeps: 0, component: lazy(() => import("./choices/ChoicesPage").then((m) => ({ default: m.ChoicesPage }))) },
  { name: "live", title: "Live", keeps: 3, component: lazy(() => import("./live/LivePage").then((m) => ({ default: m.LivePage }))) },
  { name: "log", title: "Log", keeps: 0, component: LogPage },
];

