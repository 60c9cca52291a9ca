import { createRoot } from "react-dom/client";
import { App } from "./App";
import { followEvents } from "./api/events";
import { followScheme } from "./env/scheme";
import { takeToken } from "./env/token";
import { followAddress } from "./url/place";
import "./styles/index.css";

takeToken();
followScheme();
followAddress();
followEvents();
const page = document.getElementById("page");
if (page) createRoot(page).render(<App />);
