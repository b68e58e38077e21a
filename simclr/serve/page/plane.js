// The plane of the map <-> the pixels of its canvas. Pure.

/**
 * @typedef {{x: number, y: number, scale: number}} View the middle, and CSS pixels for the width of the plane (0..1)
 * @typedef {{width: number, height: number}} Size in CSS pixels
 * @typedef {{x: number[], y: number[]}} Points in 0..1
 */

const MARGIN = 0.92;
const CLOSEST = 200; // times the whole

/** The whole of it. @param {Size} size @returns {View} */
export const whole = ({ width, height }) => ({ x: 0.5, y: 0.5, scale: MARGIN * Math.min(width, height) });

/** @param {View} view @param {Size} size @returns {[number, number]} */
export const toScreen = (view, size, x, y) => [
  (x - view.x) * view.scale + size.width / 2,
  (y - view.y) * view.scale + size.height / 2,
];

/** @param {View} view @param {Size} size @returns {[number, number]} */
export const toPlane = (view, size, left, top) => [
  (left - size.width / 2) / view.scale + view.x,
  (top - size.height / 2) / view.scale + view.y,
];

/** Closer by a factor, about a place on the screen that stays where it is. @returns {View} */
export function zoomed(view, size, factor, left = size.width / 2, top = size.height / 2) {
  const least = whole(size).scale;
  const scale = Math.max(least / 2, Math.min(view.scale * factor, least * CLOSEST));
  const [x, y] = toPlane(view, size, left, top);
  return held({ x: x - (left - size.width / 2) / scale, y: y - (top - size.height / 2) / scale, scale });
}

/** Dragged by pixels. @returns {View} */
export const panned = (view, right, down) => held({ ...view, x: view.x - right / view.scale, y: view.y - down / view.scale });

/** Never so far that nothing is left to see. */
const held = (view) => ({ ...view, x: Math.max(0, Math.min(view.x, 1)), y: Math.max(0, Math.min(view.y, 1)) });

/**
 * The point nearest to a place on the screen.
 * @param {Points} points @param {(place: number) => boolean} wanted @param {number} reach in pixels @returns {number} -1 where there is none
 */
export function nearest(points, wanted, view, size, left, top, reach) {
  const [x, y] = toPlane(view, size, left, top);
  let best = -1;
  let least = (reach / view.scale) ** 2;
  for (let place = 0; place < points.x.length; place += 1) {
    const distance = (points.x[place] - x) ** 2 + (points.y[place] - y) ** 2;
    if (distance <= least && wanted(place)) [best, least] = [place, distance];
  }
  return best;
}

/**
 * The next point in a direction: the nearest of those within 45 degrees of it, where straight ahead counts as nearer.
 * @param {Points} points @param {(place: number) => boolean} wanted @param {number} from @param {[number, number]} direction of length 1
 * @returns {number} `from` where there is none
 */
export function stepped(points, wanted, from, [right, down]) {
  let best = from;
  let least = Infinity;
  for (let place = 0; place < points.x.length; place += 1) {
    const [x, y] = [points.x[place] - points.x[from], points.y[place] - points.y[from]];
    const ahead = x * right + y * down;
    const aside = Math.abs(x * down - y * right);
    const cost = ahead + 2 * aside;
    if (place !== from && ahead > 0 && aside <= ahead && cost < least && wanted(place)) [best, least] = [place, cost];
  }
  return best;
}

/** @param {Points} points @param {(place: number) => boolean} wanted @returns {number[]} those on the screen, or nearly */
export function within(points, wanted, view, size, margin) {
  const [left, top] = toPlane(view, size, -margin, -margin);
  const [right, bottom] = toPlane(view, size, size.width + margin, size.height + margin);
  const found = [];
  for (let place = 0; place < points.x.length; place += 1) {
    const [x, y] = [points.x[place], points.y[place]];
    if (x >= left && x <= right && y >= top && y <= bottom && wanted(place)) found.push(place);
  }
  return found;
}
