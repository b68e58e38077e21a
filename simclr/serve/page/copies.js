// Groups of copies, in each the image to keep first. Shows; deletes nothing.

import { made, the } from "./dom.js";
import { isTouch, lookFor } from "./grid.js";
import { current, reachable, roving } from "./roving.js";
import { format, fresh, lookingFor } from "./state.js";
import { marked, sized, tileOf } from "./tile.js";
import { counted, number, similarity } from "./words.js";

const AT_ONCE = 40; // groups
const HEIGHT = 150; // CSS pixels

/**
 * @param {(act: string, image: object, among: object[]) => void} act
 * @returns {(found: object) => string} shows a `Copies` of the server, and says it in words
 */
export function copiesIn(act) {
  const root = the("groups");
  let groups = [];
  let images = new Map();
  let shown = 0;

  roving(root, (what, element) => act(what, images.get(Number(element.dataset.id)), [...images.values()]));
  the("more-groups").addEventListener("click", () => {
    const first = shown;
    draw();
    root.children[first].querySelector(".look").focus();
  });

  function draw() {
    const from = shown;
    shown = Math.min(groups.length, shown + AT_ONCE);
    root.append(...groups.slice(from, shown).map((group, place) => groupOf(group, from + place + 1)));
    the("more-groups").hidden = shown === groups.length;
    if (root.querySelector(".tile") && !current(root)) reachable(root, root.querySelector(".tile"));
  }

  function groupOf({ keeper, copies }, place) {
    const row = made("div", { className: "line" });
    row.setAttribute("role", "row");
    for (const image of [keeper, ...copies]) {
      images.set(image.id, image);
      const tile = tileOf(image);
      const look = lookFor(root.clientWidth, isTouch());
      const shape = Math.max(look.narrowest / HEIGHT, Math.min(image.width / image.height, 2));
      sized(tile, Math.floor(shape * HEIGHT), HEIGHT);
      marked(tile, "");
      tile.element.querySelector(".look").href = format(lookingFor(fresh(), image.id));
      tile.element.querySelector("img").alt += image === keeper ? ", to keep" : `, ${image.kind} copy`;
      tile.element.querySelector(".score").textContent = image === keeper ? "keep" : image.kind === "exact" ? "exact" : `near ${similarity(image.similarity, 3)}`;
      tile.element.querySelector(".score").classList.toggle("keep", image === keeper);
      row.append(tile.element);
    }
    const grid = made("div", {}, row);
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-label", `Group ${place}`);
    return made("section", { className: "group" }, made("h2", {}, `${counted(copies.length, "copy", "copies")} of ${keeper.path.split("/").slice(-2).join("/")}`), grid);
  }

  return (found) => {
    root.replaceChildren();
    [groups, images, shown] = [found.groups, new Map(), 0];
    draw();
    return told(found);
  };
}

/** @param {object} found @returns {string} */
export function told(found) {
  const from = `from a likeness of ${similarity(found.threshold, 3)} on`;
  if (!found.total) return `No copies, ${from}.`;
  const all = `${counted(found.images, "copy", "copies")} in ${counted(found.total, "group")}, ${from}`;
  const some = found.total > found.groups.length ? `; the first ${number(found.groups.length)} groups are here` : "";
  return `${all}${some}. Nothing is deleted: \`simclr duplicates\` lists them all.`;
}
