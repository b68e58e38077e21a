// The map of the collection: what lies near each other looks alike. Moves over it, and searches from it.

import { details, thumbnail } from "./api.js";
import { chipsIn } from "./chips.js";
import { say, the } from "./dom.js";
import { remember } from "./examples.js";
import { gestures } from "./gestures.js";
import { colourOf, painter } from "./paint.js";
import { nearest, panned, stepped, toScreen, whole, zoomed } from "./plane.js";
import { counted, fileName, number } from "./words.js";

const REACH = { mouse: 14, touch: 26 }; // CSS pixels
const LINGER = 150; // milliseconds after which a name is asked for
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const WORDS = "Drag to move, scroll or pinch to come closer, click an image to find images like it. Arrow keys go from image to image.";

/**
 * @param {{look: (image: {id: number}) => void, details: (image: object) => void, said: (words: string) => void}} page
 */
export function mapIn(page) {
  const canvas = the("canvas");
  let map = null;
  let size = { width: 0, height: 0 };
  let view = null;
  let at = -1;
  let chosen = new Set();
  let waiting = 0;
  const paths = new Map();
  const paint = painter(draw);

  const wanted = (place) => !chosen.size || chosen.has(map.classes[map.labels[place]]);
  const legend = chipsIn(the("legend"), (names) => {
    chosen = names;
    mark(-1);
  });
  const move = (next) => {
    view = next;
    draw();
  };
  const under = (left, top, reach) => nearest(map, wanted, view, size, left, top, reach);

  gestures(canvas, {
    pan: (right, down) => map && (peek(-1), move(panned(view, right, down))),
    zoom: (factor, left, top) => map && (peek(-1), move(zoomed(view, size, factor, left, top))),
    point: (left, top) => map && mark(under(left, top, REACH.mouse)),
    leave: () => document.activeElement === canvas || mark(-1),
    choose(left, top, touch) {
      if (!map) return;
      const place = under(left, top, touch ? REACH.touch : REACH.mouse);
      if (place >= 0 && (!touch || place === at)) page.look({ id: map.ids[place] });
      else mark(place); // a finger sees first, then chooses
    },
  });
  the("zoom-in").addEventListener("click", () => map && move(zoomed(view, size, 1.6)));
  the("zoom-out").addEventListener("click", () => map && move(zoomed(view, size, 1 / 1.6)));
  the("zoom-all").addEventListener("click", () => map && move(whole(size)));
  canvas.addEventListener("keydown", (event) => {
    if (!map || event.ctrlKey || event.metaKey || event.altKey) return;
    if (key(event)) event.preventDefault();
  });
  canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && map && at < 0 && reveal(middle()));
  canvas.addEventListener("blur", () => mark(-1));
  new ResizeObserver(() => measure()).observe(canvas);

  function key(event) {
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) move(panned(view, -60 * arrow[0], -60 * arrow[1]));
    else if (arrow) reveal(at < 0 ? middle() : stepped(map, wanted, at, arrow));
    else if (event.key === "+" || event.key === "=") move(about(1.6));
    else if (event.key === "-" || event.key === "−") move(about(1 / 1.6));
    else if (event.key === "0") move(whole(size));
    else if (event.key === "Enter" && at >= 0) page.look({ id: map.ids[at] });
    else if (event.key === "i" && at >= 0) details(map.ids[at]).then(page.details, (error) => page.said(error.message));
    else if (event.key === "Escape" && at >= 0) mark(-1);
    else return false;
    return true;
  }

  /** Closer about the image that is marked. */
  const about = (factor) => zoomed(view, size, factor, ...(at < 0 ? [] : toScreen(view, size, map.x[at], map.y[at])));
  const middle = () => under(size.width / 2, size.height / 2, Infinity);

  function measure() {
    const box = canvas.getBoundingClientRect();
    if (!box.width || (box.width === size.width && box.height === size.height)) return;
    const first = view === null || view.scale === whole(size).scale;
    size = { width: box.width, height: box.height };
    if (first) view = whole(size);
    draw();
  }

  function draw() {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => map && view && size.width && paint(canvas, { map, view, size, wanted, at }));
  }

  /** Marks an image by keys: brings it into sight, and says its name. */
  function reveal(place) {
    if (place < 0) return;
    const [left, top] = toScreen(view, size, map.x[place], map.y[place]);
    const away = (where, length) => (where < 40 ? 40 - where : where > length - 40 ? length - 40 - where : 0);
    view = panned(view, away(left, size.width), away(top, size.height));
    mark(place, true);
  }

  function mark(place, aloud = false) {
    if (place === at && !aloud) return;
    at = place;
    draw();
    canvas.style.cursor = place < 0 ? "grab" : "pointer";
    peek(place, aloud);
  }

  async function peek(place, aloud) {
    const box = the("peek");
    if (place < 0) {
      box.hidden = true;
      return;
    }
    const id = map.ids[place];
    const [left, top] = toScreen(view, size, map.x[place], map.y[place]);
    if (the("peek-image").dataset.id !== String(id)) {
      the("peek-image").dataset.id = id;
      the("peek-image").src = thumbnail(id, 256);
    }
    box.hidden = false;
    box.style.left = `${Math.max(4, Math.min(left + 18, size.width - 180))}px`;
    box.style.top = `${Math.max(4, Math.min(top + 18, size.height - 210))}px`;
    const label = map.labels ? map.classes[map.labels[place]] : "";
    const name = async () => {
      if (!paths.has(id)) {
        const image = await details(id);
        paths.set(id, image.path);
        remember([image]);
      }
      return fileName(paths.get(id));
    };
    the("peek-name").textContent = [paths.has(id) ? fileName(paths.get(id)) : "", label].filter(Boolean).join(", ");
    await new Promise((resolve) => setTimeout(resolve, aloud ? 0 : LINGER));
    if (place !== at) return; // the mouse only passed
    try {
      const words = [await name(), label].filter(Boolean).join(", ");
      if (place !== at) return; // another one meanwhile
      the("peek-name").textContent = words;
      if (aloud) page.said(words);
    } catch (error) {
      if (place === at && aloud) page.said(error.message);
    }
  }

  return {
    /** @param {object} found a `Map` of the server @returns {string} it in words */
    show(found) {
      if (found !== map) [map, at, view] = [found, -1, null];
      [size.width, size.height] = [0, 0];
      measure();
      this.coloured();
      say(the("map-words"), WORDS);
      return told(found);
    },
    /** Draws in the colours of now. */
    coloured() {
      if (!map) return;
      const colours = new Map(map.classes.map((name, place) => [name, colourOf(place)]));
      chosen = legend.show((map.labels ?? []).map((label) => map.classes[label]), colours);
      draw();
    },
  };
}

/** @param {object} found @returns {string} */
export function told(found) {
  const some = found.ids.length < found.images ? `${number(found.ids.length)} of ${counted(found.images, "image")}` : counted(found.images, "image");
  return `${some} on the map; like images lie near each other (${found.method}).`;
}
