// Images from this computer: dropped, pasted or chosen; checked before they are sent. They are held here and nowhere else.

import { the } from "./dom.js";
import { bytes } from "./words.js";

const KEPT = 32; // uploads that the way back may ask for; older ones are let go
const FORM = 64_000; // bytes of a request that are not its files, at most

/** @typedef {{key: string, file: File, name: string, url: string}} Upload */

/** @type {Map<string, Upload>} */
const uploads = new Map();
let last = 0;

/** @param {string} key @returns {Upload|undefined} undefined after the page was loaded anew */
export const upload = (key) => uploads.get(key);

/** @param {File} file @returns {string} its key */
export function hold(file) {
  const key = `u${(last += 1)}`;
  uploads.set(key, { key, file, name: file.name || "pasted image", url: URL.createObjectURL(file) });
  return key;
}

/** Lets go of the oldest. @param {string[]} needed keys that stay */
export function letGo(needed) {
  for (const { key, url } of [...uploads.values()]) {
    if (uploads.size <= KEPT) return;
    if (needed.includes(key)) continue;
    URL.revokeObjectURL(url);
    uploads.delete(key);
  }
}

/**
 * What is wrong with files, before they are sent. Pure.
 * @param {{name: string, type: string, size: number}[]} files @param {number} most bytes of all together
 * @param {number} places how many more examples there may be
 * @returns {string} one line, or ""
 */
export function problemOf(files, most, places) {
  const other = files.find((file) => file.type && !file.type.startsWith("image/"));
  if (other) return `${other.name} is no image.`;
  const empty = files.find((file) => !file.size);
  if (empty) return `${empty.name} is empty, or a folder. Choose images.`;
  const all = files.reduce((sum, file) => sum + file.size, FORM);
  if (files.length > places) return `${files.length} images are too many: there may be 16 examples in all.`;
  if (all <= most) return "";
  const large = files.find((file) => file.size + FORM > most);
  return large
    ? `${large.name} has ${bytes(large.size)}, and this server takes ${bytes(most)}. Make it smaller first.`
    : `These images have ${bytes(all)} together, and this server takes ${bytes(most)} at once. Choose fewer.`;
}

/**
 * Listens for files that are dropped anywhere, pasted or chosen.
 * @param {(files: File[], add: boolean) => void} given `add`: to the examples there are
 * @param {{busy: () => boolean, refuse: (words: string) => void}} page `busy`: whether there are examples already
 */
export function listen(given, page) {
  the("pick").addEventListener("change", (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // the same file may be chosen again
    if (files.length) given(files, false);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return; // text, which goes where it is pasted
    event.preventDefault();
    given(files, false);
  });
  listenForDrops(given, page);
}

function listenForDrops(given, { busy, refuse }) {
  const zones = the("drop");
  const hide = () => {
    zones.hidden = true;
    for (const zone of zones.children) zone.classList.remove("over");
  };
  const zoneOf = (event) => event.target instanceof Element ? event.target.closest("[data-drop]") : null;
  document.addEventListener("dragenter", (event) => {
    if (!event.dataTransfer?.types.includes("Files") || document.querySelector("dialog[open]")) return;
    zones.querySelector("[data-drop=add]").hidden = !busy();
    zones.hidden = false;
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // else a file that misses is opened in place of the page
    for (const zone of zones.children) zone.classList.toggle("over", zone === zoneOf(event));
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) hide(); // out of the window
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const add = zoneOf(event)?.dataset.drop === "add";
    hide();
    const files = [...event.dataTransfer.files];
    if (files.length) given(files, add);
    else refuse("That is a link and no file. Save the image first, then drop it here.");
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
}
