// Images in rows of equal height. Rows out of sight cost nothing (content-visibility), thumbnails come when they are near.

import { made } from "./dom.js";
import { justified } from "./justify.js";
import { current, focusOn, reachable, roving } from "./roving.js";
import { format, lookingFor } from "./state.js";
import { marked, sized, tell, tileOf } from "./tile.js";

const NARROW = 600; // CSS pixels
const SHAPES = [1.5, 0.75, 1.3, 1, 1.5, 0.67, 1.4, 1.5, 1, 0.75]; // of pictures that are still to come

/** The look for a width. @param {number} width @param {boolean} touch three buttons of 44 pixels fit on each image */
export const lookFor = (width, touch) => ({
  height: width < NARROW ? 168 : 212,
  gap: width < NARROW ? 4 : 8,
  narrowest: touch ? 140 : 96,
});

export const isTouch = () => matchMedia("(hover: none)").matches;

/**
 * @param {HTMLElement} root
 * @param {(act: string, image: object) => void} act
 */
export function gridIn(root, act) {
  /** @type {Map<number, import("./tile.js").Tile>} */
  let tiles = new Map();
  let images = [];
  let state = null;
  let width = 0;

  roving(root, (what, element) => act(what, tiles.get(Number(element.dataset.id)).image));
  new ResizeObserver(() => {
    if (Math.floor(root.clientWidth) !== width && images.length) lay();
  }).observe(root);

  /** Shows images; those that were there stay as they are. @param {object[]} next @param {object} nextState what they answer */
  function show(next, nextState) {
    const kept = new Map();
    for (const image of next) {
      const tile = tiles.get(image.id) ?? tileOf(image);
      tell(tile, image);
      kept.set(image.id, tile);
    }
    [tiles, images, state] = [kept, next, nextState];
    lay();
  }

  function lay() {
    const focused = root.contains(document.activeElement) ? current(root)?.dataset.id : undefined;
    width = Math.floor(root.clientWidth);
    if (!width) return; // another view is shown
    const look = lookFor(width, isTouch());
    const lines = justified(images.map((image) => image.width / image.height), width, look);
    root.style.setProperty("--gap", `${look.gap}px`);
    const rows = lines.map((line, place) => rowOf(line, root.children[place]));
    if (rows.length !== root.children.length || rows.some((row, place) => row !== root.children[place])) root.replaceChildren(...rows);
    root.classList.remove("coming");
    settle(focused);
  }

  /** The row that is there, where it holds the same already: what is seen does not move. */
  function rowOf(line, there) {
    const own = images.slice(line.from, line.to).map((image) => tiles.get(image.id));
    const row = own.length === there?.children.length && own.every((tile, i) => tile.element === there.children[i])
      ? there
      : made("div", { className: "line" }, ...own.map((tile) => tile.element));
    row.setAttribute("role", "row");
    row.style.height = `${line.height}px`;
    own.forEach((tile, place) => {
      sized(tile, line.widths[place], line.height);
      tile.element.querySelector(".look").href = format(lookingFor(state, tile.image.id)) || "#";
      marked(tile, state.like.includes(tile.image.id) ? "like" : state.unlike.includes(tile.image.id) ? "unlike" : "");
    });
    return row;
  }

  /** The focus stays on its image; where that is gone, it is on the first. */
  function settle(focused) {
    if (!images.length) return;
    const tile = tiles.get(Number(focused)) ?? tiles.get(images[0].id);
    if (focused !== undefined) focusOn(root, tile.element);
    else if (!current(root)) reachable(root, tile.element);
  }

  /** Grey rows, while the first images are on their way. */
  function expect() {
    const look = lookFor(Math.floor(root.clientWidth) || innerWidth, isTouch());
    const shapes = Array.from({ length: 24 }, (_, place) => SHAPES[place % SHAPES.length]);
    const lines = justified(shapes, Math.floor(root.clientWidth) || innerWidth, look).slice(0, 4);
    root.style.setProperty("--gap", `${look.gap}px`);
    [tiles, images] = [new Map(), []];
    root.replaceChildren(...lines.map((line) => {
      const row = made("div", { className: "line" }, ...line.widths.map((one) => {
        const grey = made("div", { className: "grey" });
        grey.style.width = `${one}px`;
        return grey;
      }));
      row.style.height = `${line.height}px`;
      row.setAttribute("aria-hidden", "true");
      return row;
    }));
  }

  return {
    show,
    lay,
    expect,
    /** Whether anything is shown. */
    get empty() {
      return !images.length;
    },
    get images() {
      return images;
    },
    /** Puts the focus on an image, or on the first. @param {number} [id] */
    focus(id) {
      const tile = tiles.get(id) ?? tiles.get(Number(current(root)?.dataset.id)) ?? tiles.get(images[0]?.id);
      if (tile) focusOn(root, tile.element);
    },
    /** The image that Tab leads to. */
    get current() {
      return Number(current(root)?.dataset.id ?? NaN);
    },
  };
}
