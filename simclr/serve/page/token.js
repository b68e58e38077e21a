// The token of a server that asks for one: from the link, or from a form. It is sent once and kept nowhere; the server gives a cookie.

import { Problem, session } from "./api.js";
import { say, the } from "./dom.js";

/** Takes the token out of the address, before anybody can see or copy it. @returns {string} "" where there is none */
export function tokenOfLink() {
  const given = new URLSearchParams(location.hash.slice(1));
  const token = given.get("token") ?? "";
  if (given.has("token")) {
    const rest = location.hash.slice(1).split("&").filter((part) => !part.startsWith("token=")).join("&");
    history.replaceState(null, "", location.pathname + (rest ? `#${rest}` : ""));
  }
  return token;
}

/** @param {string} token @returns {Promise<boolean>} whether the server takes it */
export async function opened(token) {
  try {
    await session(token);
    return true;
  } catch (error) {
    if (error instanceof Problem && error.status === 401) return false;
    throw error;
  }
}

/** Asks for the token until it is the right one, or the dialog is closed. @returns {Promise<boolean>} */
export function askForToken() {
  const dialog = the("token");
  const form = the("token-form");
  const text = the("token-text");
  say(the("token-problem"), "");
  dialog.showModal();
  return new Promise((resolve) => {
    const send = async (event) => {
      event.preventDefault();
      try {
        if (await opened(text.value)) return dialog.close("open");
        say(the("token-problem"), "This is not the token.");
      } catch (error) {
        say(the("token-problem"), error.message);
      }
      text.select();
    };
    form.addEventListener("submit", send);
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", send);
      text.value = "";
      const good = dialog.returnValue === "open";
      dialog.returnValue = "";
      resolve(good);
    }, { once: true });
  });
}
