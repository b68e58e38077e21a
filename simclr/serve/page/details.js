// The dialog with all that is known of an image.

import { details, original, thumbnail } from "./api.js";
import { made, say, the } from "./dom.js";
import { format, lookingFor } from "./state.js";
import { bytes, day, described, fileName, number, percent, similarity } from "./words.js";

const LARGER = 2.5; // times its own size that a small image is shown at

/**
 * @param {{state: () => object, act: (act: "look"|"like"|"unlike", image: object) => void, closed: (id: number) => void}} page
 * @returns {(image: object, among: object[]) => void} opens it; `among`: where the arrow keys lead
 */
export function detailsIn(page) {
  const dialog = the("details");
  let image = null;
  let among = [];
  let running = new AbortController();

  const step = (by) => {
    const next = among[among.findIndex((one) => one.id === image.id) + by];
    if (next) show(next);
  };
  const leave = (act) => {
    dialog.close();
    page.act(act, image);
  };
  the("details-close").addEventListener("click", () => dialog.close());
  the("details-before").addEventListener("click", () => step(-1));
  the("details-after").addEventListener("click", () => step(1));
  the("details-like").addEventListener("click", () => leave("like"));
  the("details-unlike").addEventListener("click", () => leave("unlike"));
  the("details-similar").addEventListener("click", (event) => {
    event.preventDefault();
    leave("look");
  });
  the("details-copy").addEventListener("click", () => copy(image.path));
  the("details-image").addEventListener("error", () => the("details-image").classList.add("gone"));
  the("details-image").addEventListener("load", () => the("details-image").classList.add("there"));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => {
    running.abort();
    the("details-image").removeAttribute("src");
    page.closed(image.id);
  });

  function show(next) {
    image = next;
    const place = among.findIndex((one) => one.id === image.id);
    the("details-before").disabled = place <= 0;
    the("details-after").disabled = place < 0 || place === among.length - 1;
    the("details-name").textContent = fileName(image.path);
    the("details-path").textContent = image.path;
    the("details-similar").href = format(lookingFor(page.state(), image.id)) || "#";
    the("details-open").href = original(image.id);
    the("details-download").href = original(image.id);
    the("details-download").download = fileName(image.path);
    for (const id of ["details-copied", "details-problem"]) say(the(id), "");
    picture(image);
    facts({ similarity: image.similarity, width: image.width, height: image.height });
    classes([]);
    running.abort();
    running = new AbortController();
    details(image.id, running.signal).then(
      (known) => {
        facts({ similarity: image.similarity, ...known });
        classes(known.classes);
      },
      (error) => error.name === "AbortError" || say(the("details-problem"), error.message),
    );
  }

  return (first, others) => {
    among = others;
    show(first);
    if (!dialog.open) dialog.showModal();
  };
}

/** The thumbnail that is there already, and the image over it when it has come. */
function picture(image) {
  const shown = the("details-image");
  shown.classList.remove("gone", "there");
  shown.alt = described(image);
  shown.width = image.width;
  shown.height = image.height;
  shown.style.maxWidth = `${LARGER * image.width}px`;
  shown.style.maxHeight = `${LARGER * image.height}px`;
  shown.style.backgroundImage = `url("${thumbnail(image.id, 512)}")`;
  shown.src = original(image.id);
}

function facts(known) {
  const rows = [
    ["Similarity", known.similarity === undefined ? null : similarity(known.similarity, 3)],
    ["Size", `${number(known.width)} × ${number(known.height)} pixels${known.size === undefined ? "" : `, ${bytes(known.size)}`}`],
    ["Changed", known.modified === undefined ? null : day(known.modified)],
    ["Id", known.id === undefined ? null : String(known.id)],
    ["Content", known.content_hash ? `${known.content_hash.slice(0, 16)}…` : null],
  ].filter(([, value]) => value !== null);
  the("details-facts").replaceChildren(...rows.map(([name, value]) => made("div", {}, made("dt", {}, name), made("dd", {}, value))));
}

function classes(shares) {
  the("details-classes").hidden = !shares.length;
  the("details-shares").replaceChildren(
    ...shares.slice(0, 5).map(({ label, probability }) => {
      const bar = made("span", { className: "bar" }, made("span"));
      bar.firstElementChild.style.width = `${100 * probability}%`;
      return made("li", {}, made("span", {}, label), bar, made("span", { className: "share" }, percent(probability)));
    }),
  );
}

async function copy(path) {
  try {
    await navigator.clipboard.writeText(path);
    say(the("details-copied"), "Copied.");
  } catch {
    getSelection().selectAllChildren(the("details-path")); // a browser lets only safe addresses do it by themselves
    say(the("details-copied"), "Selected: press Ctrl+C.");
  }
}
