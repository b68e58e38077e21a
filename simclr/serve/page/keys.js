// Keys that work everywhere on the page.

import { isWriting, the } from "./dom.js";

/** @param {{toFilter: () => void}} page */
export function keysIn({ toFilter }) {
  const show = () => the("keys").showModal();
  the("help").addEventListener("click", show);
  the("keys").addEventListener("click", (event) => event.target === the("keys") && the("keys").close());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isWriting(event.target) || document.querySelector("dialog[open]")) return;
    if (event.key === "/") toFilter();
    else if (event.key === "?") show();
    else return;
    event.preventDefault();
  });
}
