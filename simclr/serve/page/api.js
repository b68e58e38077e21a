// What the server is asked, and what it answers. Every problem is a `Problem` with one line for the person.

/** What went wrong. */
export class Problem extends Error {
  /** @param {number} status of HTTP; 0 where the server did not answer @param {string} detail one line */
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const PATIENCE = 60_000; // milliseconds for an answer: the server itself gives up after 30 s
const LONGEST_WAIT = 20; // seconds that we wait by ourselves when the server says to come again
const BUSY = [429, 503];

/**
 * @param {string} path
 * @param {{body?: FormData|object, signal?: AbortSignal, waiting?: (seconds: number) => void}} options
 *   `waiting`: called where the server is busy, before it is asked once more
 * @returns {Promise<{status: number, data: any, after: number}>} `after`: seconds until it may be asked again
 */
async function ask(path, { body, signal, waiting } = {}) {
  for (let again = true; ; again = false) {
    const answer = await fetched(path, body, signal);
    const after = Number(answer.headers.get("retry-after")) || 1;
    if (answer.ok) return { status: answer.status, data: answer.status === 204 ? null : await read(answer, signal), after };
    if (!again || !BUSY.includes(answer.status)) throw new Problem(answer.status, await reason(answer));
    waiting?.(Math.min(after, LONGEST_WAIT));
    await pause(Math.min(after, LONGEST_WAIT), signal);
  }
}

async function fetched(path, body, signal) {
  const form = body instanceof FormData;
  const late = AbortSignal.timeout(PATIENCE);
  try {
    return await fetch(path, {
      method: body ? "POST" : "GET",
      body: body && !form ? JSON.stringify(body) : body,
      headers: body && !form ? { "content-type": "application/json" } : {},
      signal: signal ? AbortSignal.any([signal, late]) : late,
      cache: "no-store",
    });
  } catch (error) {
    throw silent(error, signal);
  }
}

async function read(answer, signal) {
  try {
    return await answer.json();
  } catch (error) {
    throw silent(error, signal);
  }
}

function silent(error, signal) {
  if (signal?.aborted) return error;
  if (!navigator.onLine && !isHere()) return new Problem(0, "This computer is offline. The search goes on when it is back.");
  return new Problem(0, "The server does not answer. Is `simclr serve` still running?");
}

const isHere = () => ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The server answered with ${answer.status} and no words.`;
  }
}

/** @param {number} seconds @param {AbortSignal} [signal] rejects at once when it aborts */
const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

export const collection = async () => (await ask("/collection")).data;

/** A cookie for a token. @param {string} token */
export const session = (token) => ask("/session", { body: { token } });

/** @param {{path: string, body?: object|FormData}} request as of search.js */
export const answer = async (request, options) => (await ask(request.path, { ...options, body: request.body })).data;

/** @param {number} id */
export const details = async (id, signal) => (await ask(`/images/${id}/details`, { signal })).data;

/**
 * Asks until it is there, as for the map and the copies.
 * @param {string} path @param {AbortSignal} signal @param {(pending: object) => void} progress
 */
export async function until(path, signal, progress) {
  for (;;) {
    const { status, data, after } = await ask(path, { signal });
    if (status !== 202) return data;
    progress(data);
    await pause(after, signal);
  }
}

/** @param {number} id @param {128|256|512} size longest side in pixels */
export const thumbnail = (id, size) => `/thumbnails/${id}?size=${size}`;

/** @param {number} id */
export const original = (id) => `/images/${id}`;

/** The smallest thumbnail that is sharp at a size on the screen. @param {number} side longest, in CSS pixels */
export const sharp = (id, side) => {
  const pixels = side * Math.min(devicePixelRatio, 2);
  return thumbnail(id, pixels <= 140 ? 128 : pixels <= 300 ? 256 : 512);
};
