// Numbers and paths -> words for people.

/** @param {number} count @param {string} one @param {string} many */
export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** @param {number} value such as 12,345 */
export const number = (value) => value.toLocaleString("en");

/** @param {string} path of a file or a URL @returns its last part */
export const fileName = (path) => path.split(/[/\\]/).filter(Boolean).pop() ?? path;

/** @param {number} cosine @returns {string} with a true minus: "0.93" */
export const similarity = (cosine, digits = 2) => cosine.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");

/** @param {number} share in 0..1 */
export const percent = (share) => (share > 0 && share < 0.005 ? "<1 %" : `${Math.round(share * 100)} %`);

/** @param {number} count @returns "1.2 MB", by thousands as file managers count */
export function bytes(count) {
  const units = ["bytes", "kB", "MB", "GB"];
  const place = Math.min(3, Math.floor(Math.log10(Math.max(1, count)) / 3));
  const value = count / 1000 ** place;
  return `${place && value < 10 ? value.toFixed(1) : number(Math.round(value))} ${units[place]}`;
}

/** @param {string|null} time in UTC, ISO 8601 @returns {string} the same here, or "unknown" */
export const day = (time) =>
  time ? new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "unknown";

/** From here on an image is like none of those that the classifier learned from (serve/models.py). */
const UNLIKE_ALL = 0.99;
export const NO_CLASS = "none of the classes";

/** @param {{label: string, unlike: number}|null|undefined} predicted @returns {string} "" where there is none */
export const className = (predicted) => (!predicted ? "" : predicted.unlike >= UNLIKE_ALL ? NO_CLASS : predicted.label);

/** What a person hears of an image. @param {object} image of the server */
export const described = (image) =>
  [
    fileName(image.path),
    image.similarity === undefined ? "" : `similarity ${similarity(image.similarity)}`,
    className(image.predicted),
  ].filter(Boolean).join(", ");
