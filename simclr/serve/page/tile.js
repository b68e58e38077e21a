// One image of the collection, with what may be done with it.

import { sharp } from "./api.js";
import { copyOf } from "./dom.js";
import { className, described, fileName, similarity } from "./words.js";

const AGAIN = 1500; // milliseconds after which a thumbnail that failed is asked for once more

/** @typedef {{image: object, element: HTMLElement, asked: string}} Tile `image`: as the server gave it */

/** @param {object} image @returns {Tile} its picture is asked for by `sized` */
export function tileOf(image) {
  const element = copyOf("tile");
  const tile = { image, element, asked: "" };
  element.dataset.id = image.id;
  const picture = element.querySelector("img");
  picture.addEventListener("load", () => element.classList.add("there"));
  picture.addEventListener("error", () => failed(tile, picture), { once: false });
  for (const button of element.querySelectorAll("[data-act]")) button.addEventListener("mousedown", (event) => event.preventDefault()); // the focus stays on the image
  tell(tile, image);
  return tile;
}

/** Says what is known now, such as another similarity. @param {Tile} tile @param {object} image */
export function tell(tile, image) {
  tile.image = image;
  const { element } = tile;
  const name = fileName(image.path);
  element.title = image.path;
  element.querySelector("img").alt = described(image);
  element.querySelector(".score").textContent = image.similarity === undefined ? "" : similarity(image.similarity);
  element.querySelector(".file").textContent = name;
  element.querySelector(".class").textContent = className(image.predicted);
  const [like, unlike, details] = element.querySelectorAll("[data-act]");
  like.setAttribute("aria-label", `More like ${name}`);
  unlike.setAttribute("aria-label", `Less like ${name}`);
  details.setAttribute("aria-label", `All about ${name}`);
}

/** Shows on which side it is an example. @param {Tile} tile @param {"like"|"unlike"|""} side */
export function marked({ element }, side) {
  element.dataset.side = side;
  for (const button of element.querySelectorAll("[data-act=like], [data-act=unlike]"))
    button.setAttribute("aria-pressed", String(button.dataset.act === side));
}

/** @param {Tile} tile @param {number} width @param {number} height in CSS pixels */
export function sized(tile, width, height) {
  tile.element.style.width = `${width}px`;
  tile.element.style.height = `${height}px`;
  const picture = tile.element.querySelector("img");
  // of the whole image, of which a very long one shows a part
  const shape = (tile.image.width || 1) / (tile.image.height || 1);
  const side = Math.max(Math.max(width, height * shape), Math.max(height, width / shape));
  const address = sharp(tile.image.id, Math.min(side, 512));
  if (tile.asked === address) return;
  tile.asked = address;
  picture.src = address;
}

function failed(tile, picture) {
  if (tile.element.dataset.failed) {
    tile.element.classList.add("gone");
    return;
  }
  tile.element.dataset.failed = "once";
  setTimeout(() => {
    picture.src = "";
    picture.src = tile.asked;
  }, AGAIN);
}
