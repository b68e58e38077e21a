// The images that are looked for: those that hits are to be like, and unlike.

import { details, thumbnail } from "./api.js";
import { copyOf, the } from "./dom.js";
import { isId } from "./state.js";
import { upload } from "./uploads.js";
import { fileName, percent, className, NO_CLASS } from "./words.js";

/** Paths of images that came by. @type {Map<number, string>} */
const paths = new Map();

/** @param {{id: number, path: string}[]} images */
export const remember = (images) => images.forEach(({ id, path }) => paths.set(id, path));

/** @param {number|string} example @returns {string} */
export const nameOf = (example) =>
  isId(example) ? (paths.has(example) ? fileName(paths.get(example)) : `image ${example}`) : (upload(example)?.name ?? "image");

/**
 * @param {{away: (example: number|string) => void, swap: (example: number|string) => void}} acts
 * @returns {(state: import("./state.js").State, predicted?: object|null) => void} shows them
 */
export function examplesIn(acts) {
  const root = the("examples");
  root.addEventListener("click", (event) => {
    const item = event.target.closest("li");
    const button = event.target.closest("button");
    if (!item || !button) return;
    const example = isNaN(item.dataset.example) ? item.dataset.example : Number(item.dataset.example);
    const next = item.nextElementSibling ?? item.previousElementSibling;
    acts[button.classList.contains("away") ? "away" : "swap"](example);
    // what had the focus is gone: to its neighbour, or to what comes next
    if (!root.contains(document.activeElement) || document.activeElement.tagName === "BODY")
      (the("examples").querySelector(`[data-example="${next?.dataset.example}"] .away`) ?? (root.hidden ? the("pick") : the("clear"))).focus();
  });
  return show;
}

function show(state, predicted) {
  const all = [...state.like, ...state.unlike];
  the("examples").hidden = !all.length;
  for (const side of ["like", "unlike"]) {
    const list = the(side);
    const there = new Map([...list.children].map((item) => [item.dataset.example, item]));
    const items = state[side].map((example) => there.get(String(example)) ?? itemOf(example));
    items.forEach((item, place) => named(item, state[side][place], side));
    if (items.length !== list.children.length || items.some((item, place) => item !== list.children[place])) list.replaceChildren(...items);
    list.parentElement.hidden = !items.length;
  }
  the("hint").textContent = hint(state, predicted);
}

function itemOf(example) {
  const item = copyOf("example");
  const picture = item.querySelector("img");
  item.dataset.example = example;
  picture.addEventListener("error", () => item.classList.add("gone")); // a kind that browsers do not show
  picture.src = isId(example) ? thumbnail(example, 128) : (upload(example)?.url ?? "");
  if (isId(example) && !paths.has(example)) {
    details(example).then((image) => {
      remember([image]);
      named(item, example, item.closest("#unlike") ? "unlike" : "like");
    }, () => {}); // the search itself says what is wrong
  }
  return item;
}

function named(item, example, side) {
  const name = nameOf(example);
  const [swap, away] = item.querySelectorAll("button");
  item.title = isId(example) ? (paths.get(example) ?? name) : name;
  item.querySelector("img").alt = name;
  swap.setAttribute("aria-label", side === "like" ? `Rather unlike ${name}` : `Rather like ${name}`);
  swap.title = side === "like" ? "Rather unlike this" : "Rather like this";
  away.setAttribute("aria-label", `Take ${name} away`);
  away.title = "Take away";
}

function hint(state, predicted) {
  if (!state.like.length) return "Images can be unlike something only if they are like something: add one with +.";
  const uploads = [...state.like, ...state.unlike].filter((example) => !isId(example)).length;
  return [
    predicted ? looksLike(predicted) : "",
    uploads ? `The link of this page leaves out ${uploads === 1 ? "the image" : "the images"} from your computer.` : "",
  ].filter(Boolean).join(" ");
}

const looksLike = (predicted) =>
  className(predicted) === NO_CLASS
    ? `Like ${NO_CLASS}.`
    : `Class: ${predicted.label}, ${percent(predicted.probability)}.`;
