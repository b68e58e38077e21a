// The page: holds its state, which the address says too, and joins the parts. Start reading here.

import { Problem, collection as askCollection, until } from "./api.js";
import { chipsIn } from "./chips.js";
import { copiesIn } from "./copies.js";
import { detailsIn } from "./details.js";
import { made, the } from "./dom.js";
import { examplesIn, nameOf, remember } from "./examples.js";
import { filterIn } from "./filter.js";
import { gridIn } from "./grid.js";
import { keysIn } from "./keys.js";
import { mapIn } from "./map.js";
import { notice, progress, status } from "./notices.js";
import { search, stop } from "./search.js";
import * as states from "./state.js";
import { keep, kept, switchedBy } from "./theme.js";
import { askForToken, opened, tokenOfLink } from "./token.js";
import { hold, letGo, listen, problemOf, upload } from "./uploads.js";
import { className, counted, number, similarity } from "./words.js";

const CLASSES = "simclr-classes";

let state = states.fresh();
let collection = null;
let answer = null;
let chosen = new Set();
let looking = new AbortController(); // at the map or the copies

// ---- the parts

const grid = gridIn(the("grid"), (act, image) => acted(act, image, grid.images));
const chips = chipsIn(the("chips"), (names) => {
  chosen = names;
  show(false);
});
const filter = filterIn((where) => where !== state.where && go({ ...state, where }));
const showExamples = examplesIn({
  away: (example) => go(states.withoutExample(state, example)),
  swap: (example) => go(states.withExample(state, state.like.includes(example) ? "unlike" : "like", example)),
});
const openDetails = detailsIn({
  state: () => state,
  act: (act, image) => acted(act, image, []),
  closed: (id) => state.view === "search" && the("grid").contains(document.activeElement) && grid.focus(id),
});
const map = mapIn({ look: (image) => acted("look", image, []), details: (image) => openDetails(image, []), said: status });
const showCopies = copiesIn(acted);
const views = { map: ["/map", (found) => map.show(found)], copies: ["/copies", showCopies] };

/** What is done with an image, wherever it is shown. */
function acted(act, image, among) {
  if (image.path) remember([image]);
  if (act === "details") openDetails(image, among);
  else if (act === "look") go(states.lookingFor(state, image.id));
  else add(act, [image.id]);
}

function add(side, examples) {
  const next = examples.reduce((before, one) => (before[side].includes(one) ? states.withoutExample(before, one) : states.withExample(before, side, one)), state);
  if (next.like.length + next.unlike.length > states.MOST_EXAMPLES) notice(`There may be ${states.MOST_EXAMPLES} examples at once. Take one away first.`);
  else go(next);
}

// ---- from state to state

/** @param {states.State} next @param {boolean} [again] the same place of the way back */
function go(next, again = false) {
  history.replaceState({ ...history.state, scroll: scrollY, at: grid.current }, "");
  const address = location.pathname + states.format(next);
  const own = { like: next.like, unlike: next.unlike };
  if (again) history.replaceState(own, "", address);
  else history.pushState(own, "", address);
  letGo([...next.like, ...next.unlike]);
  enter(next, { top: !again && (next.view !== state.view || !same(next, state)) });
}

const same = (one, other) => String([one.like, one.unlike, one.where]) === String([other.like, other.unlike, other.where]);

/** The state of the address, with what the browser remembers of it. */
function fromAddress() {
  const given = states.parse(location.hash);
  const { like = given.like, unlike = given.unlike } = history.state ?? {};
  const here = (example) => states.isId(example) || upload(example) !== undefined;
  const lost = [...like, ...unlike].some((example) => !here(example));
  return [{ ...given, like: like.filter(here), unlike: unlike.filter(here) }, lost];
}

/** @param {{old?: boolean, top?: boolean, lost?: boolean}} how */
async function enter(next, { old = false, top = false, lost = false } = {}) {
  state = next;
  stop();
  looking.abort();
  progress(null);
  notice(lost ? "The image from your computer is no longer here, since the page was loaded anew. Choose it again." : "");
  for (const id of ["search", "map", "copies"]) the(id).hidden = id !== state.view;
  the("asking").hidden = state.view !== "search";
  for (const link of document.querySelectorAll("[data-view]")) {
    link.href = states.format({ ...state, view: link.dataset.view }) || "#";
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = title();
  if (top) scrollTo(0, 0);
  if (state.view === "search") await find(old);
  else await look(...views[state.view]);
}

function title() {
  const what = { search: [...state.like].map(nameOf).join(", "), map: "Map", copies: "Copies" }[state.view];
  return [what, collection?.name ?? "simclr"].filter(Boolean).join(" – ");
}

// ---- searching

async function find(old) {
  controls();
  the("chips").hidden = !collection.classes.length || !the("classes").checked; // its place is kept
  if (grid.empty) grid.expect();
  else grid.lay(); // it may have been hidden while the window changed
  if (!answer) status("Loading…");
  the("grid").setAttribute("aria-busy", "true");
  try {
    const wanted = the("classes").checked && collection.classes.length > 0;
    answer = await search(state, { classes: wanted, old, waiting: busy });
    filter.problem("");
    remember(answer.images);
    show(true);
    if (answer.generation !== null && answer.generation !== collection.generation) know();
  } catch (error) {
    failed(error, () => find(false));
    if (error.name === "AbortError") return;
    if (grid.empty) grid.show([], state);
  }
  the("grid").removeAttribute("aria-busy");
}

function controls() {
  filter.set(state.where);
  filter.problem("");
  const choice = [...the("k").options].some((option) => Number(option.value) === state.k);
  if (!choice) the("k").append(new Option(String(state.k), String(state.k)));
  the("k").value = String(state.k);
  const any = state.like.length + state.unlike.length > 0;
  the("lead").hidden = any;
  the("shuffle").hidden = state.like.length > 0;
  showExamples(state, null);
}

/** @param {boolean} fresh the answer is new, and so are its classes */
function show(fresh) {
  if (fresh) chosen = chips.show(answer.images.map((image) => className(image.predicted)));
  const images = answer.images.filter((image) => !chosen.size || chosen.has(className(image.predicted)));
  grid.show(images, state);
  showExamples(state, answer.predicted);
  the("more").hidden = answer.images.length < state.k || state.k >= states.MOST || (answer.total !== null && answer.images.length >= answer.total);
  status(said(images));
  if (!answer.images.length && state.where) notice("No image meets the condition.", "Take the condition away", () => go({ ...state, where: "" }));
  document.title = title();
}

function said(images) {
  const all = answer.images.length;
  if (!all && !collection.images) return "The collection is empty. Fill it: simclr embed FOLDER";
  if (!all) return state.where ? "0 results: no image meets the condition." : "There is no other image.";
  const of = images.length < all ? `${number(images.length)} of ${counted(all, "result")}` : "";
  if (state.like.length) return `${of || counted(all, "result")}, the best ${similarity(images[0].similarity)}`;
  const some = all < answer.total ? `${number(all)} of ${counted(answer.total, "image")}` : counted(all, "image");
  return `${of || some}${state.where ? " that meet the condition" : all < answer.total ? ", shuffled" : ""}`;
}

const busy = (seconds) => status(`The server is busy. Trying again in ${counted(Math.ceil(seconds), "second")}…`);

// ---- the map and the copies

async function look(path, display) {
  looking = new AbortController();
  const { signal } = looking;
  status("Loading…");
  try {
    const found = await until(path, signal, progress);
    if (signal.aborted) return;
    progress(null);
    status(display(found));
  } catch (error) {
    progress(null);
    failed(error, () => enter(state));
  }
}

// ---- what goes wrong

async function failed(error, again) {
  if (error.name === "AbortError") return; // another one began
  if (!(error instanceof Problem)) throw error;
  status("");
  if (error.status === 401) {
    if (await askForToken()) start();
    else notice("This server asks for a token.", "Enter the token", () => failed(error, again));
  } else if (error.status === 422 && state.view === "search" && state.where && error.message.startsWith("where ")) {
    filter.problem(error.message);
    status("The condition is not understood.");
  } else if (error.status === 404 && state.view === "search") notice(error.message, "Start again", () => go(states.fresh()));
  else notice(error.message, "Try again", () => (notice(""), again()));
}

addEventListener("online", () => !the("notice").hidden && the("notice-action").click());

// ---- images from this computer

listen(
  (files, more) => {
    const taken = more ? state.like.length + state.unlike.length : 0;
    const problem = problemOf(files, collection?.upload_bytes ?? Infinity, states.MOST_EXAMPLES - taken);
    if (problem) return notice(problem);
    const keys = files.map(hold);
    go({ ...state, view: "search", like: more ? [...state.like, ...keys] : keys, unlike: more ? state.unlike : [] });
  },
  { busy: () => state.view === "search" && state.like.length > 0, refuse: notice },
);

// ---- buttons, keys, and the way back

the("more").addEventListener("click", () => {
  the("k").focus({ preventScroll: true }); // the button goes where no more follow
  the("more").focus({ preventScroll: true });
  go({ ...state, k: states.more(state.k) }, true);
});
the("k").append(...states.CHOICES.map((k) => new Option(number(k), String(k))));
the("k").addEventListener("change", () => go({ ...state, k: Number(the("k").value) }));
the("shuffle").addEventListener("click", () => go({ ...state, like: [], unlike: [], seed: Math.floor(Math.random() * 1e6) }));
the("clear").addEventListener("click", () => (go({ ...state, like: [], unlike: [] }), the("pick").focus()));
the("classes").checked = kept(CLASSES) !== "no";
the("classes").addEventListener("change", () => {
  keep(CLASSES, the("classes").checked ? "yes" : "no");
  find(false);
});
for (const link of document.querySelectorAll("[data-view]"))
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (link.dataset.view !== state.view) go({ ...state, view: link.dataset.view });
  });
the("skip").addEventListener("click", () => (state.view === "map" ? the("canvas").focus() : state.view === "search" ? grid.focus() : the("groups").querySelector(".current .look")?.focus()));
keysIn({
  toFilter: () => {
    if (state.view !== "search") go({ ...state, view: "search" });
    filter.focus();
  },
});
switchedBy(the("theme"), () => map.coloured());
history.scrollRestoration = "manual"; // the images of the place come back first

addEventListener("popstate", async () => {
  if (tokenOfLinkTaken()) return;
  const { scroll = 0, at } = history.state ?? {};
  const [next, lost] = fromAddress();
  const focused = the("grid").contains(document.activeElement);
  if (the("details").open) the("details").close();
  await enter(next, { old: true, lost });
  if (focused && next.view === "search") grid.focus(at);
  scrollTo(0, scroll);
});

// ---- the start

/** A link with a token, opened where the page is already. */
function tokenOfLinkTaken() {
  const token = tokenOfLink();
  if (token) start(token);
  return token !== "";
}

async function know() {
  collection = await askCollection();
  the("name").textContent = collection.name;
  the("count").replaceChildren(counted(collection.images, "image"));
  if (collection.stale) the("count").append(" ", made("span", { className: "stale", title: "Bring it in step: simclr embed" }, "changed since the index was built"));
  filter.columns(collection.columns);
  the("classes-choice").hidden = !collection.classes.length;
}

async function start(token = "") {
  const [next, lost] = fromAddress();
  state = next;
  if (state.view === "search" && grid.empty) grid.expect();
  try {
    if (token && !(await opened(token))) notice("The token of this link is not the right one.");
    await know();
  } catch (error) {
    return failed(error, () => start(token));
  }
  await enter(next, { lost });
}

start(tokenOfLink());
