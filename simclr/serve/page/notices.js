// What the page says: how it stands, and what went wrong with what to do.

import { say, the } from "./dom.js";

let act = null;
the("notice-action").addEventListener("click", () => act?.());

/** One quiet line, which is also read aloud. @param {string} words */
export const status = (words) => {
  if (the("status").textContent !== words) the("status").textContent = words;
};

/** How far it is. @param {{doing: string, done: number, total: number}|null} pending null where nothing is waited for */
export function progress(pending) {
  const bar = the("progress");
  bar.hidden = !pending;
  if (!pending) return;
  if (pending.total) [bar.max, bar.value] = [pending.total, pending.done];
  else bar.removeAttribute("value"); // it is not known how far
  const share = pending.total ? `, ${pending.done.toLocaleString("en")} of ${pending.total.toLocaleString("en")}` : "";
  status(`${pending.doing[0].toUpperCase()}${pending.doing.slice(1)}${share}…`);
}

/** @param {string} words "" takes it away @param {string} [label] of a button @param {() => void} [action] what it does */
export function notice(words, label = "", action = null) {
  act = action;
  say(the("notice-words"), words);
  say(the("notice-action"), label);
  the("notice").hidden = !words;
}
