// A state -> what the server finds for it. One search runs at a time; what was found lately is kept for the way back.

import { answer } from "./api.js";
import { isId } from "./state.js";
import { upload } from "./uploads.js";

const KEPT = 12; // answers

/** Of this visit: the way back shows the same images, a new visit others. */
const SEED = Math.floor(Math.random() * 2 ** 31);

/** @typedef {{images: object[], total: number|null, predicted: object|null, generation: number|null}} Answer */

/** @type {Map<string, Answer>} */
const found = new Map();
let running = new AbortController();

/** Ends the running search. */
export const stop = () => running.abort();

/**
 * @param {import("./state.js").State} state
 * @param {{classes: boolean, old: boolean, waiting: (seconds: number) => void}} options `old`: what was found before will do
 * @returns {Promise<Answer>} rejects with `Problem`, or with AbortError where another search began
 */
export async function search(state, { classes, old, waiting }) {
  stop();
  running = new AbortController();
  const signal = running.signal;
  const key = JSON.stringify([state.like, state.unlike, state.k, state.where, state.seed, classes]);
  if (old && found.has(key)) return found.get(key);
  const data = await answer(request(state, classes), { signal, waiting });
  signal.throwIfAborted();
  const answered = {
    images: data.hits ?? data.images,
    total: data.total ?? null,
    predicted: data.predicted ?? null,
    generation: data.generation ?? null,
  };
  found.delete(key);
  found.set(key, answered);
  if (found.size > KEPT) found.delete(found.keys().next().value);
  return answered;
}

/** @param {import("./state.js").State} state @param {boolean} classes @returns {{path: string, body?: object|FormData}} */
export function request(state, classes) {
  const { like, unlike, k, where } = state;
  if (!like.length) {
    const query = new URLSearchParams({ limit: String(k), seed: String(state.seed ?? SEED), classes: String(classes) });
    if (where) query.set("where", where);
    return { path: `/images?${query}` };
  }
  const files = [["file", like], ["unlike_file", unlike]].flatMap(([name, side]) =>
    side.filter((one) => !isId(one)).map((key) => [name, upload(key)]),
  );
  const body = {
    like: like.filter(isId), unlike: unlike.filter(isId), k, where: where || null, exclude_self: true, classes,
  };
  return { path: "/search", body: files.length ? form(body, files) : body };
}

function form(body, files) {
  const data = new FormData();
  for (const [name, value] of Object.entries(body)) {
    for (const one of Array.isArray(value) ? value : value === null ? [] : [value]) data.append(name, String(one));
  }
  for (const [name, { file, name: title }] of files) data.append(name, file, title);
  return data;
}
