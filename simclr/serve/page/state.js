// What the page shows <-> the part of its address after #. Pure.

/**
 * @typedef {object} State
 * @property {"search"|"map"|"copies"} view
 * @property {(number|string)[]} like ids of the collection, and keys of uploads as of uploads.js
 * @property {(number|string)[]} unlike
 * @property {number} k how many images
 * @property {string} where a condition in SQL; "" is none
 * @property {number|null} seed decides the order where nothing is looked for; null is this visit's own
 */

export const MOST = 1000; // hits (serve/models.py)
export const MOST_EXAMPLES = 16;
export const CHOICES = [30, 60, 120, 250, 500, 1000];
const FEW = 60;
const VIEWS = ["search", "map", "copies"];

/** @returns {State} */
export const fresh = () => ({ view: "search", like: [], unlike: [], k: FEW, where: "", seed: null });

/** An address that makes no sense in places is read as far as it does. @param {string} hash @returns {State} */
export function parse(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const like = unique([...whole(given.get("id")), ...whole(given.get("like"))]).slice(0, MOST_EXAMPLES);
  const k = whole(given.get("k"))[0];
  const view = given.get("view");
  return {
    view: VIEWS.includes(view) ? view : "search",
    like,
    unlike: unique(whole(given.get("unlike"))).filter((id) => !like.includes(id)).slice(0, MOST_EXAMPLES - like.length),
    k: k ? Math.min(k, MOST) : FEW,
    where: (given.get("where") ?? "").trim(),
    seed: whole(given.get("seed"))[0] ?? null,
  };
}

/** Uploads are left out: they are nowhere but here. @param {State} state @returns {string} "" where all is as at first */
export function format(state) {
  const like = state.like.filter(isId);
  const unlike = state.unlike.filter(isId);
  const parts = [
    like.length === 1 ? `id=${like[0]}` : like.length ? `like=${like.join(",")}` : "",
    unlike.length ? `unlike=${unlike.join(",")}` : "",
    state.k !== FEW ? `k=${state.k}` : "",
    state.where ? `where=${encodeURIComponent(state.where)}` : "",
    state.seed !== null ? `seed=${state.seed}` : "",
    state.view !== "search" ? `view=${state.view}` : "",
  ].filter(Boolean);
  return parts.length ? `#${parts.join("&")}` : "";
}

/** @param {number|string} example */
export const isId = (example) => typeof example === "number";

/** @param {State} state @param {number} id @returns {State} what is like one image, and nothing else is asked for */
export const lookingFor = (state, id) => ({ ...state, view: "search", like: [id], unlike: [] });

/**
 * One more example; it is on one side only.
 * @param {State} state @param {"like"|"unlike"} side @param {number|string} example @returns {State}
 */
export const withExample = (state, side, example) => {
  const rest = withoutExample(state, example);
  return state[side].includes(example) ? state : { ...rest, view: "search", [side]: [...rest[side], example] };
};

/** @param {State} state @param {number|string} example @returns {State} */
export const withoutExample = (state, example) => ({
  ...state,
  like: state.like.filter((one) => one !== example),
  unlike: state.unlike.filter((one) => one !== example),
});

/** How many images come next. @param {number} k @returns {number} the same where there are no more */
export const more = (k) => CHOICES.find((choice) => choice > k) ?? MOST;

const whole = (text) =>
  (text ?? "").split(",").filter((part) => /^\d{1,15}$/.test(part)).map(Number);

const unique = (values) => [...new Set(values)];
