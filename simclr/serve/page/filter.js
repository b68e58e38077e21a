// The condition in SQL: where it is written, what it may say, and what is wrong with it.

import { made, say, the } from "./dom.js";

const EXAMPLES = ["width > 800", "width > height", "path like '%holiday%'", "modified >= '2024-01-01'", "size > 1000000 and height > 600"];

/** @param {(where: string) => void} changed */
export function filterIn(changed) {
  const input = the("where");
  const help = the("where-help");
  const open = (yes) => {
    the("where-words").hidden = !yes;
    help.setAttribute("aria-expanded", String(yes));
  };

  the("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    changed(input.value.trim());
  });
  input.addEventListener("change", () => changed(input.value.trim()));
  input.addEventListener("input", () => (the("where-clear").hidden = !input.value));
  the("where-clear").addEventListener("click", () => {
    set("");
    input.focus();
    changed("");
  });
  help.addEventListener("click", () => open(the("where-words").hidden));
  the("ask").addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || the("where-words").hidden) return;
    open(false);
    if (event.target !== input) help.focus();
  });
  the("where-words").addEventListener("click", (event) => {
    const word = event.target.closest("button");
    if (!word) return;
    if (word.dataset.whole) {
      set(word.textContent);
      changed(word.textContent);
    } else input.setRangeText(word.textContent, input.selectionStart, input.selectionEnd, "end");
    input.focus();
  });

  /** @param {string} where */
  function set(where) {
    input.value = where;
    the("where-clear").hidden = !where;
  }

  return {
    set,
    /** @param {string} words "" takes it away */
    problem(words) {
      say(the("where-problem"), words);
      if (words) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    },
    /** @param {string[]} names */
    columns(names) {
      const word = (whole) => (text) => {
        const button = made("button", { type: "button", className: "chip code" }, text);
        if (whole) button.dataset.whole = "yes";
        return button;
      };
      the("where-columns").replaceChildren(...names.map(word(false)));
      the("where-examples").replaceChildren(...EXAMPLES.map(word(true)));
    },
    focus() {
      input.focus();
      input.select();
    },
  };
}
