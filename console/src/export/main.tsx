import { createRoot } from "react-dom/client";
import { followScheme } from "../env/scheme";
import { followKeys } from "../keys/keys";
import { followAddress } from "../url/place";
import { readData } from "./data";
import { ExportPage } from "./ExportPage";
import "../styles/index.css";

followScheme();
followAddress();
followKeys();
const page = document.getElementById("page");
if (page) createRoot(page).render(<ExportPage shown={readData()} />);
