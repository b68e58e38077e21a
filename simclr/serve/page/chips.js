// Buttons that keep to some classes of what is shown. Asks the server nothing.

import { made } from "./dom.js";
import { number } from "./words.js";

const FIRST = 14; // chips before "more"

/**
 * @param {HTMLElement} root
 * @param {(chosen: Set<string>) => void} changed an empty set is all
 */
export function chipsIn(root, changed) {
  let chosen = new Set();
  let counts = new Map();
  let colours = null;
  let open = false;

  root.addEventListener("click", (event) => {
    const chip = event.target.closest("button");
    if (!chip) return;
    if (chip.dataset.more) open = true;
    else if (chip.dataset.all) chosen = new Set();
    else if (!chosen.delete(chip.dataset.name)) chosen.add(chip.dataset.name);
    draw();
    const same = [...root.children].find((one) => one.dataset.name === chip.dataset.name && one.dataset.all === chip.dataset.all);
    (same ?? root.lastElementChild).focus();
    if (!chip.dataset.more) changed(chosen);
  });

  function draw() {
    const names = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a.localeCompare(b));
    const shown = open ? names : names.filter((name, place) => place < FIRST || chosen.has(name));
    root.hidden = !names.length;
    root.classList.toggle("open", open);
    root.replaceChildren(chip("All", null, !chosen.size, { all: "yes" }), ...shown.map((name) => chip(name, counts.get(name), chosen.has(name), { name })));
    if (shown.length < names.length) {
      const more = made("button", { type: "button", className: "chip" }, `${names.length - shown.length} more`);
      more.dataset.more = "yes";
      root.append(more);
    }
  }

  function chip(name, count, pressed, data) {
    const button = made("button", { type: "button", className: "chip" });
    Object.assign(button.dataset, data);
    button.setAttribute("aria-pressed", String(pressed));
    if (colours?.has(name)) {
      const dot = made("span", { className: "dot" });
      dot.style.background = colours.get(name);
      button.append(dot);
    }
    button.append(name, ...(count === null ? [] : [made("small", {}, ` ${number(count)}`)]));
    return button;
  }

  return {
    /**
     * @param {string[]} names the class of each image; "" is none
     * @param {Map<string, string>|null} [dots] a colour of each class
     * @returns {Set<string>} what stays chosen
     */
    show(names, dots = null) {
      counts = new Map();
      colours = dots;
      for (const name of names) if (name) counts.set(name, (counts.get(name) ?? 0) + 1);
      chosen = new Set([...chosen].filter((name) => counts.has(name)));
      draw();
      return chosen;
    },
  };
}
