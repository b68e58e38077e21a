// Arrow keys in rows of images: one of them is reached by Tab, the others from it.

/**
 * @param {HTMLElement} root holds rows (role=row) of tiles
 * @param {(act: "look"|"like"|"unlike"|"details", element: HTMLElement, event: Event) => void} act
 */
export function roving(root, act) {
  root.addEventListener("keydown", (event) => {
    const tile = tileAt(event.target);
    if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = neighbour(root, tile, event.key);
    const wanted = { "+": "like", "=": "like", "-": "unlike", "−": "unlike", i: "details" }[event.key];
    if (next) focusOn(root, next);
    else if (wanted) act(wanted, tile, event);
    else if (!event.key.startsWith("Arrow")) return;
    event.preventDefault(); // an arrow that leads nowhere does not scroll either
  });
  root.addEventListener("click", (event) => {
    const tile = tileAt(event.target);
    const button = event.target.closest("[data-act]");
    const plain = !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0;
    if (tile && button) act(button.dataset.act, tile, event);
    else if (tile && event.target.closest(".look") && plain) {
      event.preventDefault(); // with a key held down the browser opens it elsewhere
      act("look", tile, event);
    }
  });
  root.addEventListener("focusin", (event) => {
    const tile = tileAt(event.target);
    if (tile) reachable(root, tile);
  });
}

/** The tile that Tab leads to. @param {HTMLElement} root @returns {HTMLElement|null} */
export const current = (root) => root.querySelector(".tile.current");

/** @param {HTMLElement} root @param {HTMLElement} tile */
export function focusOn(root, tile) {
  reachable(root, tile);
  tile.querySelector(".look").focus({ preventScroll: true });
  tile.closest("[role=row]").scrollIntoView({ block: "nearest" });
}

/** Makes Tab lead to a tile and its buttons, and to no other. @param {HTMLElement} root @param {HTMLElement} tile */
export function reachable(root, tile) {
  const before = current(root);
  if (before === tile) return;
  for (const [one, index] of [[before, -1], [tile, 0]]) {
    one?.classList.toggle("current", index === 0);
    for (const each of one?.querySelectorAll(".look, [data-act]") ?? []) each.tabIndex = index;
  }
}

const tileAt = (target) => (target instanceof Element ? target.closest(".tile") : null);

function neighbour(root, tile, key) {
  const tiles = () => [...root.querySelectorAll(".tile")];
  switch (key) {
    case "ArrowRight":
    case "ArrowLeft": {
      const all = tiles();
      return all[all.indexOf(tile) + (key === "ArrowRight" ? 1 : -1)];
    }
    case "ArrowDown":
    case "ArrowUp":
      return nearest(tile, rowBeside(root, tile, key === "ArrowDown" ? 1 : -1));
    case "Home":
      return tiles()[0];
    case "End":
      return tiles().at(-1);
    default:
      return null;
  }
}

function rowBeside(root, tile, step) {
  const rows = [...root.querySelectorAll("[role=row]")];
  return rows[rows.indexOf(tile.closest("[role=row]")) + step];
}

/** Of a row, the tile below or above the middle of another. */
function nearest(tile, row) {
  if (!row) return null;
  const middle = (element) => element.offsetLeft + element.offsetWidth / 2;
  const distance = (element) => Math.abs(middle(element) - middle(tile));
  return [...row.querySelectorAll(".tile")].reduce((best, one) => (distance(one) < distance(best) ? one : best));
}
