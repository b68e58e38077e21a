// The map on its canvas: dots, or the images themselves where few are in sight.

import { thumbnail } from "./api.js";
import { isDark } from "./theme.js";
import { toScreen, within } from "./plane.js";

const IMAGES = 160; // in sight, from which on they are drawn themselves
const KEPT = 600; // thumbnails
const SIDE = { least: 28, most: 104 }; // CSS pixels

/** Hues far apart, one after the other. @param {number} place of a class @returns {string} a CSS colour */
export const colourOf = (place) => `hsl(${(place * 137.508) % 360} ${isDark() ? 62 : 68}% ${[isDark() ? 66 : 42, isDark() ? 54 : 54][place % 2]}%)`;

/** @param {() => void} again draws once more, as when a thumbnail has come */
export function painter(again) {
  /** @type {Map<number, HTMLImageElement>} */
  const thumbnails = new Map();

  function pictureOf(id) {
    const known = thumbnails.get(id);
    if (known) {
      thumbnails.delete(id); // to the end: those that were needed longest ago go first
      thumbnails.set(id, known);
      return known.complete && known.naturalWidth ? known : null;
    }
    const picture = new Image();
    picture.onload = again;
    picture.src = thumbnail(id, 128);
    thumbnails.set(id, picture);
    if (thumbnails.size > KEPT) thumbnails.delete(thumbnails.keys().next().value);
    return null;
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{map: object, view: object, size: object, wanted: (place: number) => boolean, at: number}} scene `at`: the point that is marked, or -1
   */
  return (canvas, { map, view, size, wanted, at }) => {
    const sharpness = devicePixelRatio;
    canvas.width = Math.round(size.width * sharpness);
    canvas.height = Math.round(size.height * sharpness);
    const pen = canvas.getContext("2d");
    pen.scale(sharpness, sharpness);
    const seen = within(map, wanted, view, size, SIDE.most);
    const colour = (place) => (map.labels ? colourOf(map.labels[place]) : isDark() ? "#8ab4ff" : "#1d5fd1");
    const large = seen.length <= IMAGES;
    const side = Math.max(SIDE.least, Math.min(0.6 * Math.sqrt((size.width * size.height) / Math.max(1, seen.length)), SIDE.most));
    if (!large) dots(pen, map, within(map, (place) => !wanted(place), view, size, 4), () => (isDark() ? "#3a3a3e" : "#dcdcda"), view, size, 2);
    const radius = Math.max(2.4, Math.min(2.4 * Math.sqrt(view.scale / 700), 6));
    if (!large) dots(pen, map, seen, colour, view, size, radius);
    else for (const place of seen) if (place !== at) drawn(place, side);
    if (at >= 0) marked(at);

    function drawn(place, longest) {
      const [left, top] = toScreen(view, size, map.x[place], map.y[place]);
      const picture = pictureOf(map.ids[place]);
      if (!picture) return dots(pen, map, [place], colour, view, size, 5);
      const scale = longest / Math.max(picture.naturalWidth, picture.naturalHeight);
      const [width, height] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
      pen.fillStyle = colour(place);
      pen.fillRect(left - width / 2 - 2, top - height / 2 - 2, width + 4, height + 4);
      pen.drawImage(picture, left - width / 2, top - height / 2, width, height);
    }

    function marked(place) {
      const [left, top] = toScreen(view, size, map.x[place], map.y[place]);
      if (large) drawn(place, side);
      pen.strokeStyle = isDark() ? "#fff" : "#111";
      pen.lineWidth = 2.5;
      pen.beginPath();
      if (large) pen.rect(left - side / 2 - 4, top - side / 2 - 4, side + 8, side + 8);
      else pen.arc(left, top, 8, 0, 2 * Math.PI);
      pen.stroke();
    }
  };
}

function dots(pen, map, places, colour, view, size, radius) {
  for (const place of places) {
    const [left, top] = toScreen(view, size, map.x[place], map.y[place]);
    pen.fillStyle = colour(place);
    pen.beginPath();
    pen.arc(left, top, radius, 0, 2 * Math.PI);
    pen.fill();
  }
}
