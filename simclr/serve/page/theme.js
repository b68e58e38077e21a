// Light or dark: as the system says, or as chosen here. Loaded before anything is drawn.

const KEY = "simclr-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

/** @param {string} key @returns {string|null} null also where the browser keeps nothing for pages */
export function kept(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** @param {string} key @param {string} value */
export function keep(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // private windows: it then holds for this page alone
  }
}

/** @returns {boolean} */
export const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

/** @param {HTMLElement} button that switches @param {() => void} changed called after each change, the system's too */
export function switchedBy(button, changed) {
  const show = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    button.title = isDark() ? "Light colours" : "Dark colours";
  };
  const tell = () => {
    show();
    changed();
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    keep(KEY, document.documentElement.dataset.theme);
    tell();
  });
  system.addEventListener("change", tell);
  show();
}

const chosen = kept(KEY);
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
