// The few words in which this page speaks to the document.

/** @param {string} id @returns {any} the element, which index.html has */
export const the = (id) => document.getElementById(id);

/** @param {string} id of a template @returns {HTMLElement} a copy of what it holds */
export const copyOf = (id) => the(id).content.firstElementChild.cloneNode(true);

/** @param {string} tag @param {object} properties of the element @param {...(Node|string)} children */
export function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** An icon of index.html, which says nothing to who cannot see it. @param {string} name */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Shows a text in an element, or hides it where there is none. @param {HTMLElement} element @param {string} text */
export function say(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

/** Whether keys mean letters there. @param {EventTarget|null} target */
export const isWriting = (target) =>
  target instanceof Element && target.matches("input:not([type=checkbox]):not([type=file]), textarea, select");
